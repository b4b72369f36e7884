"""The browser side of attnengine: reads finished runs, serves pages; never imports torch, transformers or kernels."""
