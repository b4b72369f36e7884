"""The jitted kernels of the histogram passes (see :mod:`attnengine_kernels.gpu.histograms`): all counts are integers.

Axes in comments: ``m`` query rows and ``n`` keys of a tile, ``d`` dims, ``g`` bins.
"""

# fmt: off
# (one line per argument would bury the formulas)
from __future__ import annotations

import triton
import triton.language as tl

from attnengine_kernels.gpu._rows_kernel import FAR, _interval, _scores

DIGIT = tl.constexpr(2048)  # TF32 holds integers below this


@triton.jit
def bin_kernel(
    X, USED, EDGES, BINS, n_heads, n, x_b, x_h, x_l, D: tl.constexpr, BD: tl.constexpr, N: tl.constexpr,
    EDGE_COUNT: tl.constexpr,
):
    """Bin of every element, the number of edges <= x, as (b, h, d, n) bytes; 255 for NaN and where USED is 0."""
    tiles = tl.cdiv(n, N)
    at = tl.program_id(0) % tiles * N + tl.arange(0, N)
    batch = tl.program_id(0) // tiles // n_heads
    head = tl.program_id(0) // tiles % n_heads
    dims = tl.program_id(1) * BD + tl.arange(0, BD)
    used = tl.load(USED + batch.to(tl.int64) * n + at, mask=at < n, other=0) != 0
    ok = used[:, None] & (dims < D)[None, :]
    base = X + batch.to(tl.int64) * x_b + head.to(tl.int64) * x_h
    x = tl.load(base + at.to(tl.int64)[:, None] * x_l + dims[None, :], mask=ok, other=float("nan")).to(tl.float32)
    bins = tl.zeros((N, BD), tl.int32)
    for e in range(EDGE_COUNT):
        bins += (x >= tl.load(EDGES + e)).to(tl.int32)
    bins = tl.where(x == x, bins, 255)
    row = (batch.to(tl.int64) * n_heads + head) * D
    out = BINS + (row + dims[None, :]) * n + at[:, None]
    tl.store(out, bins.to(tl.uint8), mask=(at < n)[:, None] & (dims < D)[None, :])


@triton.jit
def count_kernel(
    BINS, COUNTS, n, n_tiles, D: tl.constexpr, BD: tl.constexpr, N: tl.constexpr, G: tl.constexpr,
):
    """Keys of every bin in every tile of N keys: (b hkv, d, tiles, g) int32."""
    tile = tl.program_id(0) % n_tiles
    row = (tl.program_id(0) // n_tiles).to(tl.int64) * D
    dims = tl.program_id(1) * BD + tl.arange(0, BD)
    at = tile * N + tl.arange(0, N)
    inside = (dims < D)[:, None] & (at < n)[None, :]
    bins = tl.load(BINS + (row + dims[:, None]) * n + at[None, :], mask=inside, other=255)  # (d, n)
    out = COUNTS + ((row + dims) * n_tiles + tile) * G
    for g in range(G):
        tl.store(out + g, tl.sum((bins == g).to(tl.int32), 1), mask=dims < D)


@triton.jit
def joint_kernel(
    Q_BINS, K_BINS, BEFORE, LO, HI, TABLE, OUT, n_heads, group, n_rows, n_keys, n_tiles, D: tl.constexpr,
    M: tl.constexpr, G: tl.constexpr,
):
    """Pairs of (query bin, key bin) of one dim over a strip of rows: Σ_i 1[q in a] C_ib, (g, g) int32.

    C_ib, the visible keys in bin b, is a difference of running counts for the tiles that a block's rows share (exact:
    these are integers) and a 0/1 product for the ragged ends. It meets the rows' bins in two digits that TF32 holds.
    """
    strip = tl.program_id(0) // n_heads
    head = tl.program_id(0) % n_heads
    dim = tl.program_id(1)
    batch = tl.load(TABLE + 3 * strip)
    first = tl.load(TABLE + 3 * strip + 1)
    last = tl.load(TABLE + 3 * strip + 2)
    q_bins = Q_BINS + ((batch.to(tl.int64) * n_heads + head) * D + dim) * n_rows
    key_row = (batch.to(tl.int64) * (n_heads // group) + head // group) * D + dim
    k_bins = K_BINS + key_row * n_keys
    before = BEFORE + key_row * (n_tiles + 1) * G
    bins = tl.arange(0, G)
    found = tl.zeros((G, G), tl.int32)
    for begin in range(first, last, M):
        rows = begin + tl.arange(0, M)
        rows = tl.where(rows < last, rows, n_rows)
        lo, hi, row_ok, start, full_lo, full_hi, stop = _interval(LO, HI, batch, rows, n_rows, n_keys, M, False)
        shared = tl.load(before + full_hi // M * G + bins) - tl.load(before + full_lo // M * G + bins)  # (g,)
        counts = tl.zeros((M, G), tl.float32)
        skipped = full_hi - full_lo
        for at in range(start, stop - skipped, M):
            tile = tl.where(at < full_lo, at, at + skipped)
            cols = tile + tl.arange(0, M)
            key_bin = tl.load(k_bins + cols, mask=cols < n_keys, other=255)
            visible = (cols[None, :] >= lo[:, None]) & (cols[None, :] < hi[:, None])  # (m, n)
            one_hot = (key_bin[:, None] == bins[None, :]).to(tl.float16)  # (n, g)
            counts = tl.dot(visible.to(tl.float16), one_hot, counts)
        counts = tl.where((hi > lo)[:, None], counts.to(tl.int32) + shared[None, :], 0)  # (m, g)
        query_bin = tl.load(q_bins + rows, mask=row_ok, other=255)
        rows_in = (bins[:, None] == query_bin[None, :]).to(tl.float32)  # (g, m)
        high = counts // DIGIT
        low = (counts - high * DIGIT).to(tl.float32)
        found += tl.dot(rows_in, low, input_precision="tf32").to(tl.int32)
        found += tl.dot(rows_in, high.to(tl.float32), input_precision="tf32").to(tl.int32) * DIGIT
    out = OUT + ((strip.to(tl.int64) * n_heads + head) * D + dim) * G * G
    tl.store(out + bins[:, None] * G + bins[None, :], found)


@triton.jit
def score_kernel(
    Q, K, LO, HI, SEEN, TABLE, LSE, BIAS, OUT, n_heads, group, n_rows, n_keys, scale, softcap, low, per_width, q_b, q_h,
    q_l, k_b, k_h, k_l, a_b, a_h, a_q, a_k, D: tl.constexpr, DP: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    COMPUTE: tl.constexpr, SOFTCAP: tl.constexpr, HAS_BIAS: tl.constexpr, LOG_P: tl.constexpr, BINS: tl.constexpr,
    SLOTS: tl.constexpr,
):
    """Visible pairs of a row block by bin of their score, or of log p = score - lse; slot BINS counts the NaN."""
    block = tl.program_id(0) // n_heads
    head = tl.program_id(0) % n_heads
    batch = tl.load(TABLE + 3 * block)
    first_row = tl.load(TABLE + 3 * block + 1)
    rows = first_row + tl.arange(0, M)
    rows = tl.where(rows < tl.load(TABLE + 3 * block + 2), rows, n_rows)
    lo, hi, row_ok, start, _full_lo, _full_hi, stop = _interval(LO, HI, batch, rows, n_rows, n_keys, N, HAS_BIAS)
    some = hi > lo
    least_lo = tl.min(tl.where(some, lo, FAR), 0)
    dims = tl.arange(0, DP)
    dim_ok = dims < D
    q_base = Q + batch.to(tl.int64) * q_b + head.to(tl.int64) * q_h + first_row.to(tl.int64) * q_l
    q = tl.load(
        q_base + tl.arange(0, M)[:, None] * q_l + dims[None, :], mask=some[:, None] & dim_ok[None, :], other=0.0
    ).to(COMPUTE)  # (m, d)
    lse = tl.zeros((M,), tl.float32)
    if LOG_P:
        lse = tl.load(LSE + (batch.to(tl.int64) * n_heads + head) * n_rows + rows, mask=some, other=0.0)
    k_base = K + batch.to(tl.int64) * k_b + (head // group).to(tl.int64) * k_h
    bias_row = BIAS
    if HAS_BIAS:
        bias_row = BIAS + batch.to(tl.int64) * a_b + head.to(tl.int64) * a_h + rows.to(tl.int64) * a_q  # (m,)
    SEEN += batch.to(tl.int64) * n_keys
    slots = tl.arange(0, SLOTS)
    found = tl.zeros((SLOTS,), tl.int32)
    for first in range(start, stop, N):
        cols = first + tl.arange(0, N)
        key_ok = tl.load(SEEN + cols, mask=cols < n_keys, other=0) != 0
        key_ok = key_ok & (cols >= least_lo) & (cols < stop)
        k_tile = k_base + first * tl.cast(k_l, tl.int64) + (tl.arange(0, N)[:, None] * k_l + dims[None, :])
        k = tl.load(k_tile, mask=key_ok[:, None] & dim_ok[None, :], other=0.0).to(COMPUTE)  # (n, d)
        s = _scores(q, k, scale, softcap, bias_row, a_k, row_ok, cols, n_keys, SOFTCAP, HAS_BIAS)
        visible = (cols[None, :] >= lo[:, None]) & (cols[None, :] < hi[:, None])
        if HAS_BIAS:
            visible = visible & (s != float("-inf"))
        s -= lse[:, None]
        place = tl.minimum(tl.maximum(tl.floor((s - low) * per_width), 0.0), BINS - 1.0)
        at = tl.where(s == s, place, BINS * 1.0).to(tl.int32)
        at = tl.where(visible, at, BINS + 1)
        found += tl.histogram(tl.reshape(at, (M * N,)), SLOTS)
    out = OUT + (block.to(tl.int64) * n_heads + head) * (BINS + 1)
    tl.store(out + slots, found, mask=slots <= BINS)
