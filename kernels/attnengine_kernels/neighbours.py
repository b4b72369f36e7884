"""Exact nearest neighbours on any device: tiles of a matrix product propose, fp64 differences decide, and certify.

    |x − y|² = |x|² + |y|² − 2 x·y  (fp32, proposes 32)  →  Σ_d (x_d − y_d)²  (fp64, in the order of d, decides)

A row whose decision the product's rounding could have touched is searched again in fp64, so the result does not depend
on the device, the library of its products or the tile: to the bit what ``attnengine.embedding.neighbours.exact`` finds
on the CPU. 2 n² d FLOPs and n² · 4 bytes written and read by the selection, a tile at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float32, Float64, Int32
from torch import Tensor

CANDIDATES = 32
TILE_BYTES = 2**28
UNIT = 2.0**-24  # rounding of fp32


def nearest(
    points: Float32[Tensor, "n d"], k: int, *, tile: int = TILE_BYTES
) -> tuple[Int32[Tensor, "n k"], Float64[Tensor, "n k"]]:
    """The ``k`` nearest of every point, itself first, then by distance and index; their squared distances.

    points: finite. tile: bytes of products at a time; changes no bit. One sync a tile. Raises ValueError unless
    1 ≤ k ≤ n.
    """
    n, d = points.shape
    if not 1 <= k <= n:
        raise ValueError(f"expected between 1 and {n} neighbours for {n} points, got {k}")
    centred = (points - points.mean(0, dtype=torch.float64)).float()
    squares = (centred * centred).sum(1)  # (n,)
    # Rounding of the product (d), of the squares and their sum (8), of centring (4), each times |x|² + |y|².
    slack = 1.1 * (d + 12) * UNIT * (squares.double() + squares.max())
    room = min(max(CANDIDATES, 2 * k), n)
    columns = points.double().T.contiguous()  # (d, n)
    parts = []
    with full_fp32_products():
        for rows in torch.arange(n, device=points.device).split(max(tile // (4 * n), 1)):
            keys = squares - 2 * (centred[rows] @ centred.T)  # (r, n): |x − y|² − |x|²
            keys.scatter_(1, rows[:, None], -torch.inf)  # a point is always among its own candidates
            worst, candidates = keys.topk(room, dim=1, largest=False)
            found, distances = _decided(columns, rows, candidates, k)
            limit = squares[rows].double() + worst.amax(1) - slack[rows]
            doubtful = rows[distances[:, -1] >= limit] if room < n else rows[:0]
            for few in doubtful.split(max(tile // (64 * n), 1)) if len(doubtful) else ():
                everything = torch.arange(n, device=points.device).expand(len(few), n)
                at = few - rows[0]
                found[at], distances[at] = _decided(columns, few, everything, k)
            parts.append((found.int(), distances))
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _decided(columns: Tensor, rows: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of ``candidates`` (r, m), in which each row stands itself: indices and squared distances (r, k)."""
    candidates = candidates.sort(dim=1).values
    total = torch.zeros(candidates.shape, dtype=torch.float64, device=columns.device)
    for column in columns:  # one dimension after the other, each operation rounded by itself: the CPU's bits
        apart = column[rows, None] - column[candidates]
        total = total + apart * apart
    order = total.masked_fill(candidates == rows[:, None], -1.0).sort(dim=1, stable=True).indices[:, :k]
    return candidates.gather(1, order), total.gather(1, order)


@contextmanager
def full_fp32_products() -> Iterator[None]:
    """No TF32 in matrix products meanwhile: its rounding is beyond what :func:`nearest` allows for."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
