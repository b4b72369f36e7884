"""Exact nearest neighbours on any device: fp32 products propose, fp64 differences decide, and certify.

    |x − y|² = |x|² + |y|² − 2 x·y  (fp32, proposes 32)  →  Σ_d (x_d − y_d)²  (fp64, in the order of d, decides)

A row whose decision the products' rounding could have touched is searched again in fp64, so the result does not depend
on the device, on who proposes (:func:`.gpu.nearest.propose` on CUDA, tiles of a torch product elsewhere) or on the
tile: to the bit what ``attnengine.embedding.neighbours.exact`` finds on the CPU. 2 n² d FLOPs; torch's tiles write
n² · 4 bytes besides and read them again to select.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float32, Float64, Int32
from torch import Tensor

CANDIDATES = 32
TILE_BYTES = 2**28
UNIT = 2.0**-24  # rounding of fp32
PROPOSERS = ("auto", "torch", "triton")


class Proposed(NamedTuple):
    """Candidates (m, r) of some rows, and ``worst`` (m,): no |y|² − 2 x·y left out is less."""

    candidates: Tensor
    worst: Tensor


def nearest(
    points: Float32[Tensor, "n d"], k: int, *, tile: int = TILE_BYTES, by: str = "auto"
) -> tuple[Int32[Tensor, "n k"], Float64[Tensor, "n k"]]:
    """The ``k`` nearest of every point, itself first, then by distance and index; their squared distances.

    points: finite. tile: bytes of products or candidates at a time; by: who proposes, "torch", "triton" or, "auto",
    triton where it can. Neither changes a bit. One sync a tile. Raises ValueError unless 1 ≤ k ≤ n, and for an unknown
    or impossible ``by``.
    """
    n, d = points.shape
    if not 1 <= k <= n:
        raise ValueError(f"expected between 1 and {n} neighbours for {n} points, got {k}")
    if by not in PROPOSERS:
        raise ValueError(f"by: expected one of {', '.join(PROPOSERS)}, got {by!r}")
    room = max(CANDIDATES, 1 << (2 * k - 1).bit_length())
    columns = points.double().T.contiguous()  # (d, n)
    if room >= n:
        everything = torch.arange(n, device=points.device)
        found, distances = _decided(columns, everything, everything.expand(n, n), k)
        return found.int(), distances
    on_triton = by == "triton" or (by == "auto" and _triton_takes(points, room))
    propose, units = _running_list(d) if on_triton else (_by_products, d)
    centred = (points - points.mean(0, dtype=torch.float64)).float()
    squares = (centred * centred).sum(1)  # (n,)
    # Rounding of the product, of the squares and their sum (8), of centring (4), each times |x|² + |y|².
    slack = 1.1 * (units + 12) * UNIT * (squares.double() + squares.max())
    height = max(tile // (8 * room if on_triton else 4 * n), 1)
    parts = []
    for first in range(0, n, height):
        rows = range(first, min(first + height, n))
        proposed = propose(centred, squares, rows, room)
        asking = torch.arange(rows.start, rows.stop, device=points.device)
        found, distances = _decided(columns, asking, proposed.candidates, k)
        limit = squares[asking].double() + proposed.worst - slack[asking]
        doubtful = asking[~(distances[:, -1] < limit)]  # NaN, of squares beyond fp32, is doubt as well
        for few in doubtful.split(max(tile // (64 * n), 1)) if len(doubtful) else ():
            everything = torch.arange(n, device=points.device).expand(len(few), n)
            found[few - first], distances[few - first] = _decided(columns, few, everything, k)
        parts.append((found.int(), distances))
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _triton_takes(points: Tensor, room: int) -> bool:
    if not points.is_cuda:
        return False
    from attnengine_kernels.gpu.nearest import takes  # triton exists on Linux only

    return takes(points, room)


def _running_list(d: int) -> tuple[Callable[[Tensor, Tensor, range, int], Proposed], int]:
    """Triton's proposals, and the bound of their rounding in units."""
    from attnengine_kernels.gpu.nearest import propose, rounding

    def by_running_list(centred: Tensor, squares: Tensor, rows: range, room: int) -> Proposed:
        found, worst = propose(centred, squares, rows, room)
        return Proposed(found.long(), worst)

    return by_running_list, rounding(d)


def _by_products(centred: Tensor, squares: Tensor, rows: range, room: int) -> Proposed:
    asking = slice(rows.start, rows.stop)
    with full_fp32_products():
        keys = squares - 2 * (centred[asking] @ centred.T)  # (m, n): |x − y|² − |x|²
    keys.diagonal(rows.start).fill_(-torch.inf)  # a point is always among its own candidates
    smallest, candidates = keys.topk(room, dim=1, largest=False)
    return Proposed(candidates, smallest.amax(1))


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
