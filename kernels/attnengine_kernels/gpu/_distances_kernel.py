"""The jitted kernel of the distance pass (see :mod:`attnengine_kernels.gpu.distances`).

Axes in comments: ``m`` query rows, ``t`` keys of a tile, ``c`` tiles taken at a time, ``d`` a block of dims.
"""

# fmt: off
# (one line per argument would bury the formulas)
from __future__ import annotations

import triton
import triton.language as tl

from attnengine_kernels.gpu._places_kernel import _range_of_tiles


@triton.jit
def _whole_tiles(
    start, sign, ahead, begin, end, base, totals, part_stride, first_own, dims, dim_ok, D: tl.constexpr,
    T: tl.constexpr, C: tl.constexpr,
):
    """Adds tiles [begin, end) that lie on one side of the diagonal: Σ δ k' at the block's first row, and per row on."""
    for first in range(begin // T, end // T, C):
        tiles = first + tl.arange(0, C)
        there = tiles < end // T
        ok = there[:, None] & dim_ok[None, :]  # (c, d)
        at = totals + tiles[:, None] * D + dims[None, :]
        amount = tl.load(at, mask=ok, other=0.0)  # Σ k'
        moment = tl.load(at + part_stride, mask=ok, other=0.0)  # Σ (j - tile's first) k'
        offset = tl.where(there, first_own - tiles * T, 0).to(tl.float32)  # (c,)
        start += sign * tl.sum(offset[:, None] * amount - moment, 0)
        ahead += sign * tl.sum(amount, 0)
        base += sign * tl.sum(tl.where(there, offset * T - T * (T - 1) // 2, 0.0), 0)
    return start, ahead, base


@triton.jit
def distance_kernel(
    Q, K, BLOCKS, LO, HI, SEES, SEEN, SHIFT, PATCH, KEY_PATCH, MEAN, PILOT, TOTALS, OUT, n_heads, group, n_rows, n_keys,
    n_tiles, q_b, q_h, q_l, k_b, k_h, k_l, part_stride, D: tl.constexpr, BD: tl.constexpr, M: tl.constexpr,
    T: tl.constexpr, C: tl.constexpr, PATCHES: tl.constexpr,
):
    """Σ δ_ij (q_id k_jd - pilot_d) over the pairs of one row block; intervals are cut to pairs with positions.

    Tiles on one side of the diagonal that all rows see enter as totals, the others as a product of distances with keys.
    With PATCHES (Euclidean distances, which do not factor) all do.
    """
    head = tl.program_id(0) % n_heads
    block = tl.program_id(0) // n_heads
    batch = tl.load(BLOCKS + block * 3)
    first = tl.load(BLOCKS + block * 3 + 1)
    last = tl.load(BLOCKS + block * 3 + 2)
    rows = first + tl.arange(0, M)
    at = batch.to(tl.int64) * n_rows + rows
    lo, hi, some, begin, full_lo, full_hi, end = _range_of_tiles(LO, HI, SEES, at, rows, last, T, PATCHES)
    key_row = batch.to(tl.int64) * (n_heads // group) + head // group
    dims = tl.program_id(1) * BD + tl.arange(0, BD)
    dim_ok = dims < D
    mean = tl.load(MEAN + key_row * D + dims, mask=dim_ok, other=0.0)  # (d,)
    first_own = first + tl.load(SHIFT + batch)
    own = first_own + tl.arange(0, M)
    near_lo = tl.minimum(tl.maximum(tl.maximum(first_own, 0) // T * T, full_lo), full_hi)
    near_hi = tl.maximum(first_own + M, 0)
    near_hi = tl.minimum(tl.maximum((near_hi + T - 1) // T * T, near_lo), full_hi)

    at_first = tl.zeros((BD,), tl.float32)  # of whole tiles: Σ δ k' for the block's first row,
    each_row = tl.zeros((BD,), tl.float32)  # and by how much it grows from row to row
    far = tl.zeros((M,), tl.float32)  # Σ δ
    totals = TOTALS + key_row * n_tiles * D
    at_first, each_row, behind = _whole_tiles(
        at_first, 1.0, each_row, full_lo, near_lo, tl.sum(far, 0), totals, part_stride, first_own, dims, dim_ok, D, T, C
    )
    at_first, each_row, both = _whole_tiles(
        at_first, -1.0, each_row, near_hi, full_hi, behind, totals, part_stride, first_own, dims, dim_ok, D, T, C
    )
    a = tl.arange(0, M).to(tl.float32)
    far += both + a * (near_lo - full_lo - (full_hi - near_hi)).to(tl.float32)
    sums = at_first[None, :] + a[:, None] * each_row[None, :]  # (m, d)

    k_base = K + batch.to(tl.int64) * k_b + (head // group).to(tl.int64) * k_h
    SEEN += batch.to(tl.int64) * n_keys
    left = near_lo - full_lo
    right = full_hi - near_hi
    for at_tile in range(begin, end - left - right, T):
        corner = tl.where(at_tile < full_lo, at_tile, at_tile + left)
        corner = tl.where(corner < near_hi, corner, corner + right)
        cols = corner + tl.arange(0, T)
        key_ok = tl.load(SEEN + cols, mask=cols < n_keys, other=0) != 0
        tile = k_base + corner * tl.cast(k_l, tl.int64) + (tl.arange(0, T)[:, None] * k_l + dims[None, :])
        k = tl.load(tile, mask=key_ok[:, None] & dim_ok[None, :], other=0.0).to(tl.float32)  # (t, d)
        centred = tl.where(key_ok[:, None] & dim_ok[None, :], k - mean[None, :], 0.0)
        if PATCHES:
            pairs = 2 * (batch.to(tl.int64) * n_keys + cols)
            row_at = 2 * at
            dr = tl.load(PATCH + row_at, mask=some, other=0.0)[:, None] - tl.load(
                KEY_PATCH + pairs, mask=key_ok, other=0.0)[None, :]
            dc = tl.load(PATCH + row_at + 1, mask=some, other=0.0)[:, None] - tl.load(
                KEY_PATCH + pairs + 1, mask=key_ok, other=0.0)[None, :]
            distance = tl.sqrt(dr * dr + dc * dc)  # (m, t)
        else:
            distance = tl.abs((own[:, None] - cols[None, :]).to(tl.float32))
        visible = (cols[None, :] >= lo[:, None]) & (cols[None, :] < hi[:, None])
        distance = tl.where(visible, distance, 0.0)
        far += tl.sum(distance, 1)
        sums = tl.dot(distance, centred, sums, input_precision="tf32x3")

    q_base = Q + batch.to(tl.int64) * q_b + head.to(tl.int64) * q_h + first.to(tl.int64) * q_l
    q = tl.load(
        q_base + tl.arange(0, M)[:, None] * q_l + dims[None, :], mask=some[:, None] & dim_ok[None, :], other=0.0
    ).to(tl.float32)  # (m, d)
    pilot = tl.load(PILOT + (batch.to(tl.int64) * n_heads + head) * D + dims, mask=dim_ok, other=0.0)
    ok = some[:, None] & dim_ok[None, :]
    term = tl.where(ok, q * sums + far[:, None] * (q * mean[None, :] - pilot[None, :]), 0.0)
    tl.store(OUT + tl.program_id(0).to(tl.int64) * D + dims, tl.sum(term, 0), mask=dim_ok)
