"""The jitted kernels of the scan pass (see :mod:`attnengine_kernels.gpu.scans`): key tile totals, then row blocks.

Axes in comments: ``m`` query rows, ``t`` keys of a tile, ``c`` tiles taken at a time, ``d`` a block of dims.
"""

# fmt: off
# (one line per argument would bury the formulas)
from __future__ import annotations

import triton
import triton.language as tl

from attnengine_kernels.gpu._rows_kernel import FAR, _interval


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _smaller(a, b):
    return tl.minimum(a, b)


@triton.jit
def totals_kernel(
    K, SEEN, MEAN, TOTALS, n_heads, n_keys, n_tiles, k_b, k_h, k_l, part_stride, D: tl.constexpr, BD: tl.constexpr,
    T: tl.constexpr,
):
    """Σ k', Σ k'^2, max, min, #positive, #negative of every tile of T keys, k' = k - mean; unseen keys left out."""
    tile = tl.program_id(0) % n_tiles
    batch = tl.program_id(0) // n_tiles // n_heads
    head = tl.program_id(0) // n_tiles % n_heads
    dims = tl.program_id(1) * BD + tl.arange(0, BD)
    dim_ok = dims < D
    cols = tile * T + tl.arange(0, T)
    seen = tl.load(SEEN + batch.to(tl.int64) * n_keys + cols, mask=cols < n_keys, other=0) != 0
    ok = seen[:, None] & dim_ok[None, :]
    base = K + batch.to(tl.int64) * k_b + head.to(tl.int64) * k_h + (tile * T).to(tl.int64) * k_l
    k = tl.load(base + tl.arange(0, T)[:, None] * k_l + dims[None, :], mask=ok, other=0.0).to(tl.float32)  # (t, d)
    row = batch.to(tl.int64) * n_heads + head
    mean = tl.load(MEAN + row * D + dims, mask=dim_ok, other=0.0)
    centred = tl.where(ok, k - mean[None, :], 0.0)
    out = TOTALS + (row * n_tiles + tile) * D + dims
    tl.store(out, tl.sum(centred, 0), mask=dim_ok)
    tl.store(out + part_stride, tl.sum(centred * centred, 0), mask=dim_ok)
    tl.store(out + 2 * part_stride, tl.max(tl.where(ok, k, float("-inf")), 0), mask=dim_ok)
    tl.store(out + 3 * part_stride, tl.min(tl.where(ok, k, float("inf")), 0), mask=dim_ok)
    tl.store(out + 4 * part_stride, tl.sum((k > 0.0).to(tl.float32), 0), mask=dim_ok)
    tl.store(out + 5 * part_stride, tl.sum((k < 0.0).to(tl.float32), 0), mask=dim_ok)


@triton.jit
def _tile_extremes(
    k, key_ok, a, b, high, low, k_tile, k_l, dims, dim_ok, M: tl.constexpr, BD: tl.constexpr, T: tl.constexpr
):
    """Fold max and min over keys [a, b) of the tile, per row, into ``high`` and ``low`` (m, d).

    A row that sees the tile from its start reads the running extreme at b - 1, one that sees it to its end the
    reversed one at a: one scan each for all rows. Only an interval that begins and ends inside the tile (a packed
    sequence or a window shorter than T) is walked key by key.
    """
    top = tl.where(key_ok[:, None], k, float("-inf"))
    bottom = tl.where(key_ok[:, None], k, float("inf"))
    some = b > a
    prefix = some & (a == 0)
    at = tl.broadcast_to(tl.maximum(b - 1, 0)[:, None], (M, BD))
    running = tl.gather(tl.associative_scan(top, 0, _larger), at, 0)  # (m, d)
    high = tl.where(prefix[:, None], tl.maximum(high, running), high)
    running = tl.gather(tl.associative_scan(bottom, 0, _smaller), at, 0)
    low = tl.where(prefix[:, None], tl.minimum(low, running), low)
    suffix = some & (a > 0) & (b == T)
    if tl.max(suffix.to(tl.int32), 0) > 0:
        at = tl.broadcast_to(tl.minimum(a, T - 1)[:, None], (M, BD))
        running = tl.gather(tl.associative_scan(top, 0, _larger, reverse=True), at, 0)
        high = tl.where(suffix[:, None], tl.maximum(high, running), high)
        running = tl.gather(tl.associative_scan(bottom, 0, _smaller, reverse=True), at, 0)
        low = tl.where(suffix[:, None], tl.minimum(low, running), low)
    inside = some & (a > 0) & (b < T)
    if tl.max(inside.to(tl.int32), 0) > 0:
        for j in range(tl.min(tl.where(inside, a, T), 0), tl.max(tl.where(inside, b, 0), 0)):
            one = tl.load(k_tile + j * k_l + dims, mask=dim_ok, other=0.0).to(tl.float32)  # (d,)
            hit = (inside & (a <= j) & (j < b))[:, None]
            high = tl.where(hit, tl.maximum(high, one[None, :]), high)
            low = tl.where(hit, tl.minimum(low, one[None, :]), low)
    return high, low


@triton.jit
def scan_kernel(
    Q, K, LO, HI, SEEN, TABLE, MEAN, PILOT, TOTALS, OUT, POSITIVE, n_heads, group, n_rows, n_keys, n_tiles, q_b, q_h,
    q_l, k_b, k_h, k_l, part_stride, out_stride, D: tl.constexpr, BD: tl.constexpr, M: tl.constexpr, T: tl.constexpr,
    C: tl.constexpr,
):
    """Σ (x - pilot), Σ (x - pilot)^2, min, max and #positive of x_ijd = q_id k_jd over one row block's visible pairs.

    Tiles that every row sees enter as totals; the ragged ends as a 0/1 product with the tile, so nothing is ever a
    difference of running sums.
    """
    block = tl.program_id(0) // n_heads
    head = tl.program_id(0) % n_heads
    batch = tl.load(TABLE + 3 * block)
    first_row = tl.load(TABLE + 3 * block + 1)
    key_row = batch.to(tl.int64) * (n_heads // group) + head // group
    dims = tl.program_id(1) * BD + tl.arange(0, BD)
    dim_ok = dims < D
    rows = first_row + tl.arange(0, M)
    rows = tl.where(rows < tl.load(TABLE + 3 * block + 2), rows, n_rows)  # no row of another sequence
    lo, hi, _row_ok, start, full_lo, full_hi, stop = _interval(LO, HI, batch, rows, n_rows, n_keys, T, False)
    some = hi > lo
    least_lo = tl.min(tl.where(some, lo, FAR), 0)
    SEEN += batch.to(tl.int64) * n_keys
    mean = tl.load(MEAN + key_row * D + dims, mask=dim_ok, other=0.0)  # (d,)

    s1 = tl.zeros((BD,), tl.float32)
    s2 = tl.zeros((BD,), tl.float32)
    top = tl.full((BD,), float("-inf"), tl.float32)
    bottom = tl.full((BD,), float("inf"), tl.float32)
    above = tl.zeros((BD,), tl.float32)
    below = tl.zeros((BD,), tl.float32)
    totals = TOTALS + key_row * n_tiles * D
    for first in range(full_lo // T, full_hi // T, C):
        tiles = first + tl.arange(0, C)
        at = totals + tiles[:, None] * D + dims[None, :]
        ok = (tiles < full_hi // T)[:, None] & dim_ok[None, :]  # (c, d)
        s1 += tl.sum(tl.load(at, mask=ok, other=0.0), 0)
        s2 += tl.sum(tl.load(at + part_stride, mask=ok, other=0.0), 0)
        top = tl.maximum(top, tl.max(tl.load(at + 2 * part_stride, mask=ok, other=float("-inf")), 0))
        bottom = tl.minimum(bottom, tl.min(tl.load(at + 3 * part_stride, mask=ok, other=float("inf")), 0))
        above += tl.sum(tl.load(at + 4 * part_stride, mask=ok, other=0.0), 0)
        below += tl.sum(tl.load(at + 5 * part_stride, mask=ok, other=0.0), 0)

    sum1 = tl.zeros((M, BD), tl.float32) + s1[None, :]
    sum2 = tl.zeros((M, BD), tl.float32) + s2[None, :]
    high = tl.zeros((M, BD), tl.float32) + top[None, :]
    low = tl.zeros((M, BD), tl.float32) + bottom[None, :]
    positive = tl.zeros((M, BD), tl.float32) + above[None, :]
    negative = tl.zeros((M, BD), tl.float32) + below[None, :]
    k_base = K + batch.to(tl.int64) * k_b + (head // group).to(tl.int64) * k_h
    skipped = full_hi - full_lo
    for at in range(start, stop - skipped, T):
        first = tl.where(at < full_lo, at, at + skipped)
        cols = first + tl.arange(0, T)
        key_ok = tl.load(SEEN + cols, mask=cols < n_keys, other=0) != 0
        key_ok = key_ok & (cols >= least_lo) & (cols < stop)  # 0 times another sequence's NaN would be NaN
        ok = key_ok[:, None] & dim_ok[None, :]
        k_tile = k_base + first * tl.cast(k_l, tl.int64)
        k = tl.load(k_tile + tl.arange(0, T)[:, None] * k_l + dims[None, :], mask=ok, other=0.0)  # (t, d)
        k = k.to(tl.float32)
        centred = tl.where(ok, k - mean[None, :], 0.0)
        visible = ((cols[None, :] >= lo[:, None]) & (cols[None, :] < hi[:, None])).to(tl.float32)  # (m, t)
        sum1 = tl.dot(visible, centred, sum1, input_precision="tf32x3")
        sum2 = tl.dot(visible, centred * centred, sum2, input_precision="tf32x3")
        positive = tl.dot(visible, (k > 0.0).to(tl.float32), positive, input_precision="tf32")  # 0/1: exact
        negative = tl.dot(visible, (k < 0.0).to(tl.float32), negative, input_precision="tf32")
        a = tl.minimum(tl.maximum(lo - first, 0), T)
        b = tl.minimum(tl.maximum(hi - first, 0), T)
        high, low = _tile_extremes(k, key_ok, a, b, high, low, k_tile, k_l, dims, dim_ok, M, BD, T)

    q_base = Q + batch.to(tl.int64) * q_b + head.to(tl.int64) * q_h + first_row.to(tl.int64) * q_l
    q = tl.load(
        q_base + tl.arange(0, M)[:, None] * q_l + dims[None, :], mask=some[:, None] & dim_ok[None, :], other=0.0
    ).to(tl.float32)  # (m, d)
    row = batch.to(tl.int64) * n_heads + head
    pilot = tl.load(PILOT + row * D + dims, mask=dim_ok, other=0.0)
    n = tl.where(some, hi - lo, 0).to(tl.float32)[:, None]
    offset = q * mean[None, :] - pilot[None, :]  # x - pilot = q k' + offset
    at = (block.to(tl.int64) * n_heads + head) * D + dims
    out = OUT + at
    tl.store(out, tl.sum(q * sum1 + n * offset, 0), mask=dim_ok)
    tl.store(out + out_stride, tl.sum(q * q * sum2 + 2.0 * q * offset * sum1 + n * offset * offset, 0), mask=dim_ok)
    sees = some[:, None] & dim_ok[None, :]
    high = tl.where(sees, high, 0.0)
    low = tl.where(sees, low, 0.0)
    least = tl.where(sees, tl.minimum(q * high, q * low), float("inf"))
    most = tl.where(sees, tl.maximum(q * high, q * low), float("-inf"))
    tl.store(out + 2 * out_stride, tl.min(least, 0), mask=dim_ok)
    tl.store(out + 3 * out_stride, tl.max(most, 0), mask=dim_ok)
    agree = tl.where(q > 0.0, positive, tl.where(q < 0.0, negative, 0.0))
    tl.store(POSITIVE + at, tl.sum(agree.to(tl.int32), 0), mask=dim_ok)
