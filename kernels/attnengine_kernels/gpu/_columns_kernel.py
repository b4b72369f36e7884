"""The jitted kernel of the column pass (see :mod:`attnengine_kernels.gpu.columns`): one key tile, all rows that see it.

Axes in comments: ``n`` keys of the program's tile, ``m`` query rows of a step, ``d`` dims, ``f`` row features. Scores
are made transposed, (n, m), so that p is at once the left factor of the products with queries and features.
"""

# fmt: off
# (one line per argument would bury the formulas)
from __future__ import annotations

import triton
import triton.language as tl

from attnengine_kernels.gpu._rows_kernel import LOG2E, _load_keys, _scores


@triton.jit
def _column_steps(
    received, aq, mass, k, key_ok, cols, q_base, q_stride, dims, dim_ok, LO, HI, SEES, LSE, f_base, scale, softcap,
    bias_key, bias_stride, n_rows, start, full_lo, full_hi, stop, M: tl.constexpr, F: tl.constexpr,
    COMPUTE: tl.constexpr, P_BITS: tl.constexpr, MASKED: tl.constexpr, SOFTCAP: tl.constexpr, BIAS: tl.constexpr,
    AQ: tl.constexpr,
):
    skipped = full_hi - full_lo
    for at in range(start if MASKED else full_lo, stop - skipped if MASKED else full_hi, M):
        first = at
        if MASKED:  # the rows before full_lo, then those from full_hi on
            first = tl.where(at < full_lo, at, at + skipped)
        rows = first + tl.arange(0, M)
        row_ok = rows < n_rows
        if MASKED:
            row_ok = tl.load(SEES + rows, mask=row_ok, other=0) != 0
        q = _load_keys(q_base, first, q_stride, dims, row_ok, dim_ok, M, MASKED).to(COMPUTE)  # (m, d)
        s = _scores(k, q, scale, softcap, bias_key, bias_stride, key_ok, rows, n_rows, SOFTCAP, BIAS)  # (n, m)
        lse = tl.load(LSE + rows, mask=row_ok, other=0.0)  # (m,)
        t = (s - lse[None, :]) * LOG2E + P_BITS
        if MASKED:
            lo = tl.load(LO + rows, mask=row_ok, other=0)
            hi = tl.load(HI + rows, mask=row_ok, other=0)
            visible = (cols[:, None] >= lo[None, :]) & (cols[:, None] < hi[None, :])
            if BIAS:
                visible = visible & (s != float("-inf"))  # NaN stays in
            p = tl.where(visible, tl.exp2(t), 0.0)
        else:
            p = tl.exp2(t)
        received += tl.sum(p, 1)
        high = p.to(COMPUTE)
        if AQ:
            aq = tl.dot(high, q, aq, input_precision="ieee")  # (n, d)
        if F:
            f = tl.load(f_base + rows[:, None] * F + tl.arange(0, F)[None, :], mask=row_ok[:, None], other=0.0)
            f = f.to(COMPUTE)  # (m, f)
            mass = tl.dot(high, f, mass, input_precision="ieee")  # (n, f)
            if tl.float32 != COMPUTE:
                low = (p - high.to(tl.float32)).to(COMPUTE)  # what the cut to half precision took, added back
                mass = tl.dot(low, f, mass)
    return received, aq, mass


@triton.jit
def column_kernel(
    Q, K, FEATURES, LO, HI, SEES, SEEN, SPANS, BIAS, LSE, RECEIVED, AQ_OUT, MASS_OUT, n_heads, group, n_rows, n_keys,
    n_tiles, scale, softcap, q_b, q_h, q_l, k_b, k_h, k_l, a_b, a_h, a_q, a_k, D: tl.constexpr, DP: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, EDGE: tl.constexpr, F: tl.constexpr, COMPUTE: tl.constexpr,
    P_BITS: tl.constexpr, SOFTCAP: tl.constexpr, HAS_BIAS: tl.constexpr, RECEIVES: tl.constexpr, AQ: tl.constexpr,
):
    """One program per (key tile, query head, window); its rows come in a fixed order, so its bits are fixed too.

    ``SPANS`` (b, tiles, 4) says which rows see the tile: [start, stop) any of it, [full_lo, full_hi) all of it.
    RECEIVES, AQ, F > 0 choose the outputs; ``P_BITS`` scales p by a power of two for fp16's short exponent.
    """
    tile = tl.program_id(0) % n_tiles  # the first key tiles of a causal mask have the most rows: they go first
    batch = tl.program_id(0) // n_tiles // n_heads
    head = tl.program_id(0) // n_tiles % n_heads
    cols = tile * N + tl.arange(0, N)
    dims = tl.arange(0, DP)
    dim_ok = dims < D
    inside = cols < n_keys
    key_ok = tl.load(SEEN + batch.to(tl.int64) * n_keys + cols, mask=inside, other=0) != 0
    k_base = K + batch.to(tl.int64) * k_b + (head // group).to(tl.int64) * k_h
    k = _load_keys(k_base, tile * N, k_l, dims, key_ok, dim_ok, N, True).to(COMPUTE)  # (n, d)
    q_base = Q + batch.to(tl.int64) * q_b + head.to(tl.int64) * q_h
    f_base = FEATURES
    if F:
        f_base = FEATURES + batch.to(tl.int64) * n_rows * F
    bias_key = BIAS
    if HAS_BIAS:
        bias_key = BIAS + batch.to(tl.int64) * a_b + head.to(tl.int64) * a_h + cols.to(tl.int64) * a_k  # (n,)
    row_base = batch.to(tl.int64) * n_rows
    spans = SPANS + (batch.to(tl.int64) * n_tiles + tile) * 4
    start = tl.load(spans)
    full_lo = tl.load(spans + 1)
    full_hi = tl.load(spans + 2)
    stop = tl.load(spans + 3)
    out = batch.to(tl.int64) * n_heads + head

    received = tl.zeros((N,), tl.float32)
    aq = tl.zeros((N, DP if AQ else 1), tl.float32)
    mass = tl.zeros((N, F if F else 1), tl.float32)
    for part in tl.static_range(2):
        received, aq, mass = _column_steps(
            received, aq, mass, k, inside, cols, q_base, q_l, dims, dim_ok, LO + row_base, HI + row_base,
            SEES + row_base, LSE + out * n_rows, f_base, scale, softcap, bias_key, a_q, n_rows, start, full_lo,
            full_hi, stop, M if part == 1 else EDGE, F, COMPUTE, P_BITS, part == 0, SOFTCAP, HAS_BIAS, AQ,
        )

    unscale = tl.exp2(-1.0 * P_BITS)
    corner = out * n_keys + tile * N
    if RECEIVES:
        tl.store(RECEIVED + corner + tl.arange(0, N), tl.where(key_ok, received * unscale, 0.0), mask=inside)
    if AQ:
        wide = tl.arange(0, N)[:, None] * D + dims[None, :]
        aq = tl.where(key_ok[:, None], aq * unscale, 0.0)
        tl.store(AQ_OUT + corner * D + wide, aq, mask=inside[:, None] & dim_ok[None, :])
    if F:
        wide = tl.arange(0, N)[:, None] * F + tl.arange(0, F)[None, :]
        tl.store(MASS_OUT + corner * F + wide, tl.where(key_ok[:, None], mass * unscale, 0.0), mask=inside[:, None])
