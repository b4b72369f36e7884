"""The Triton passes, each on its own q and k; what they compute, and what it costs, is in kernels/README.md.

Importing this package imports triton (Linux only). Tensors must be on a CUDA device.
"""

from attnengine_kernels.gpu.band import band_pass as band_pass
from attnengine_kernels.gpu.columns import column_pass as column_pass
from attnengine_kernels.gpu.distances import distance_pass as distance_pass
from attnengine_kernels.gpu.fused import fused_attention as fused_attention
from attnengine_kernels.gpu.histograms import joint_histograms as joint_histograms
from attnengine_kernels.gpu.histograms import quantiles as quantiles
from attnengine_kernels.gpu.histograms import score_histograms as score_histograms
from attnengine_kernels.gpu.histograms import signed_log_edges as signed_log_edges
from attnengine_kernels.gpu.pairs import cosine_sums as cosine_sums
from attnengine_kernels.gpu.places import PlaceFacts as PlaceFacts
from attnengine_kernels.gpu.places import places_pass as places_pass
from attnengine_kernels.gpu.product import product_pass as product_pass
from attnengine_kernels.gpu.rows import row_lse as row_lse
from attnengine_kernels.gpu.rows import row_pass as row_pass
from attnengine_kernels.gpu.scans import scan_pass as scan_pass
from attnengine_kernels.gpu.share import share_pass as share_pass
from attnengine_kernels.gpu.top_keys import top_keys as top_keys

__all__ = [
    "PlaceFacts",
    "band_pass",
    "column_pass",
    "cosine_sums",
    "distance_pass",
    "fused_attention",
    "joint_histograms",
    "places_pass",
    "product_pass",
    "quantiles",
    "row_lse",
    "row_pass",
    "scan_pass",
    "score_histograms",
    "share_pass",
    "signed_log_edges",
    "top_keys",
]
