"""The Triton passes and the CUDA path made of them. Importing this package imports triton (Linux only)."""
