"""Candidates for the nearest neighbours of many points: a running top-R over tiles of products that are never stored.

    the R smallest |y|² − 2 x·y = |x − y|² − |x|² over all points y

A proposal only: :func:`attnengine_kernels.neighbours.nearest` decides among the candidates in fp64 and searches again
where the rounding here could have mattered. 6 n² d FLOPs (three TF32 products); the points are read from L2 once a
block of rows, and a row writes R numbers instead of n.
"""

from __future__ import annotations

import torch
import triton
from jaxtyping import Float32, Int32
from torch import Tensor

from attnengine_kernels.gpu._launch import INTERPRETED, MAX_HEAD_DIM, Shipped, Tile, architecture, padded_dim
from attnengine_kernels.gpu._nearest_kernel import nearest_kernel

MAX_CANDIDATES = 64  # of a row: its list lies in registers
#: By architecture: points that ask and points of a tile, and the dims that are multiplied at a time.
TILES = {80: (Tile(32, 64, 64, 4, 1), 16), 90: (Tile(64, 64, 64, 8, 1), 32)}


def rounding(d: int) -> int:
    """Bound of a product's error in units of 2⁻²⁴ (|x|² + |y|²).

    Three TF32 products of a number's two halves leave out lo·lo and round lo, 3 · 2⁻²⁰ |x||y|: 48 units of 2 x·y. The
    tensor cores' adders cut off instead of rounding, a unit of the last place each: 2 d units; twice that is allowed.
    """
    return 4 * d + 48


def takes(points: Tensor, candidates: int) -> bool:
    """Whether :func:`propose` takes these points and this many candidates."""
    return points.is_cuda and points.shape[1] <= MAX_HEAD_DIM and candidates <= MAX_CANDIDATES


def propose(
    points: Float32[Tensor, "n d"], squares: Float32[Tensor, " n"], rows: range, candidates: int
) -> tuple[Int32[Tensor, "m r"], Float32[Tensor, " m"]]:
    """The ``candidates`` points of smallest |y|² − 2 x·y for each point x of ``rows``, in no order, itself among them;
    and the largest of these values, which no point left out is below.

    points: finite, best centred; squares: their |y|². Raises ValueError unless ``candidates`` is a power of two from 2
    to 64 and below n, d ≤ 256, and the points lie on a CUDA device.
    """
    n, d = points.shape
    if not points.is_cuda and not INTERPRETED:
        raise ValueError(f"points: expected a CUDA tensor, got one on {points.device}")
    if candidates not in (2, 4, 8, 16, 32, 64) or candidates >= n or d > MAX_HEAD_DIM:
        raise ValueError(
            f"expected a power of two of at most {MAX_CANDIDATES} candidates, more points than that, and at most "
            f"{MAX_HEAD_DIM} dims; got {candidates} candidates and points {tuple(points.shape)}"
        )
    tile, block = TILES[architecture(points.device)]
    found = torch.empty(len(rows), candidates, dtype=torch.int32, device=points.device)
    worst = torch.empty(len(rows), device=points.device)
    if len(rows):
        nearest_kernel[(triton.cdiv(len(rows), tile.m),)](
            points.contiguous(), squares, found, worst, rows.start, rows.stop, n, D=d, BD=min(padded_dim(d), block),
            M=tile.m, N=tile.n, R=candidates, **tile.options(),
        )  # fmt: skip
    return found, worst


def shipped(arch: int, d: int, dtype: torch.dtype) -> list[Shipped]:
    """The launches of this module, for the ahead-of-time compiler: the usual and the longest list, fp32 only."""
    if dtype != torch.float32:
        return []
    tile, block = TILES[arch]
    types = {"X": "*fp32", "SQUARES": "*fp32", "FOUND": "*i32", "WORST": "*fp32"}
    types |= dict.fromkeys(("first_row", "end_row", "n_points"), "i32")
    shape = {"D": d, "BD": min(padded_dim(d), block), "M": tile.m, "N": tile.n}
    return [(f"nearest {r}", nearest_kernel, types, shape | {"R": r}, tile) for r in (32, MAX_CANDIDATES)]
