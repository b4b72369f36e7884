"""The jitted kernels of the row pass (see :mod:`attnengine_kernels.gpu.rows`): log-sum-exp, and the known-lse sweep.

Axes in comments: ``m`` query rows and ``n`` keys of a tile, ``d`` dims, ``f`` features. Addresses are int64 but for
offsets inside one tile. Key tiles that need a mask come first, then the long middle, which pays for none.
"""

# fmt: off
# (one line per argument would bury the formulas)
from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
FAR = tl.constexpr(2**30)


@triton.jit
def _load_keys(base, first, stride, dims, key_ok, dim_ok, N: tl.constexpr, GUARDED: tl.constexpr):
    """A (n, d) tile of keys; guarded tiles leave out keys that no row sees, so that NaN there never arrives."""
    tile = base + first * tl.cast(stride, tl.int64) + (tl.arange(0, N)[:, None] * stride + dims[None, :])
    if GUARDED:
        return tl.load(tile, mask=key_ok[:, None] & dim_ok[None, :], other=0.0)
    return tl.load(tile, mask=dim_ok[None, :], other=0.0)


@triton.jit
def _scores(
    q, k, scale, softcap, bias_row, bias_stride, row_ok, cols, n_keys, SOFTCAP: tl.constexpr, BIAS: tl.constexpr
):
    """(m, n) scores as the model uses them: scaled, then soft-capped, then biased. fp32 inputs are not cut to TF32."""
    s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # (m, n)
    if SOFTCAP:
        e = tl.exp(-2.0 * tl.abs(s) / softcap)
        tanh = (1.0 - e) / (1.0 + e)
        s = softcap * tl.where(s >= 0.0, tanh, -tanh)
    if BIAS:
        inside = row_ok[:, None] & (cols < n_keys)[None, :]
        s += tl.load(bias_row[:, None] + cols.to(tl.int64)[None, :] * bias_stride, mask=inside, other=float("-inf")).to(
            tl.float32
        )
    return s


@triton.jit
def _interval(LO, HI, batch, rows, n_rows, n_keys, N: tl.constexpr, BIAS: tl.constexpr):
    """The rows' intervals and the tile ranges of the block: [start, full_lo) and [full_hi, stop) need a mask.

    In [full_lo, full_hi) every row that sees anything sees every key. Rows without keys are left out of these bounds
    (what they collect is dropped at the end). A dense bias may hide any pair, so then every tile is masked.
    """
    row_ok = rows < n_rows
    at = batch.to(tl.int64) * n_rows + rows
    lo = tl.maximum(tl.load(LO + at, mask=row_ok, other=0), 0)  # (m,)
    hi = tl.minimum(tl.load(HI + at, mask=row_ok, other=0), n_keys)  # (m,)
    some = hi > lo
    start = tl.min(tl.where(some, lo, FAR), 0) // N * N
    stop = tl.max(tl.where(some, hi, 0), 0)
    full_lo = (tl.max(tl.where(some, lo, 0), 0) + N - 1) // N * N
    full_hi = tl.min(tl.where(some, hi, FAR), 0) // N * N
    start = tl.minimum(start, stop)
    full_lo = tl.minimum(full_lo, (stop + N - 1) // N * N)
    full_hi = tl.maximum(tl.minimum(full_hi, stop), full_lo)
    if BIAS:
        full_lo = start
        full_hi = start
    return lo, hi, row_ok, start, full_lo, full_hi, stop


@triton.jit
def _lse_tiles(
    m, l, q, k_base, k_stride, dims, dim_ok, SEEN, lo, hi, row_ok, scale, softcap, bias_row, bias_stride, n_keys, start,
    full_lo, full_hi, stop, N: tl.constexpr, COMPUTE: tl.constexpr, MASKED: tl.constexpr, SOFTCAP: tl.constexpr,
    BIAS: tl.constexpr,
):
    skipped = full_hi - full_lo
    for at in range(start if MASKED else full_lo, stop - skipped if MASKED else full_hi, N):
        first = at
        if MASKED:  # the tiles before full_lo, then those from full_hi on
            first = tl.where(at < full_lo, at, at + skipped)
        cols = first + tl.arange(0, N)
        key_ok = cols < n_keys
        if MASKED:
            key_ok = tl.load(SEEN + cols, mask=key_ok, other=0) != 0
        k = _load_keys(k_base, first, k_stride, dims, key_ok, dim_ok, N, MASKED).to(COMPUTE)  # (n, d)
        s = _scores(q, k, scale, softcap, bias_row, bias_stride, row_ok, cols, n_keys, SOFTCAP, BIAS)
        if MASKED:
            visible = (cols[None, :] >= lo[:, None]) & (cols[None, :] < hi[:, None])
            s = tl.where(visible, s, float("-inf"))
        m_new = tl.maximum(m, tl.max(s, 1))
        shift = tl.where(m_new == float("-inf"), 0.0, m_new)  # a row that has seen nothing yet: exp(-inf) = 0
        l = l * tl.exp2((m - shift) * LOG2E) + tl.sum(tl.exp2((s - shift[:, None]) * LOG2E), 1)
        m = m_new
    return m, l


@triton.jit
def lse_kernel(
    Q, K, LO, HI, SEEN, SINK, BIAS, LSE, n_heads, group, n_rows, n_keys, scale, softcap, q_b, q_h, q_l, k_b, k_h, k_l,
    a_b, a_h, a_q, a_k, D: tl.constexpr, DP: tl.constexpr, M: tl.constexpr, N: tl.constexpr, EDGE: tl.constexpr,
    COMPUTE: tl.constexpr, SOFTCAP: tl.constexpr, HAS_SINK: tl.constexpr, HAS_BIAS: tl.constexpr,
):
    """``lse_i = log(Σ_j exp s_ij + exp sink)`` by running maximum and sum; one program per row block and head."""
    blocks = tl.cdiv(n_rows, M)
    block = blocks - 1 - tl.program_id(0) % blocks
    batch = tl.program_id(0) // blocks // n_heads
    head = tl.program_id(0) // blocks % n_heads
    rows = block * M + tl.arange(0, M)
    dims = tl.arange(0, DP)
    dim_ok = dims < D
    lo, hi, row_ok, start, full_lo, full_hi, stop = _interval(LO, HI, batch, rows, n_rows, n_keys, N, HAS_BIAS)
    q_base = Q + batch.to(tl.int64) * q_b + head.to(tl.int64) * q_h + (block * M).to(tl.int64) * q_l
    q = tl.load(
        q_base + tl.arange(0, M)[:, None] * q_l + dims[None, :], mask=(hi > lo)[:, None] & dim_ok[None, :], other=0.0
    ).to(COMPUTE)  # (m, d)
    k_base = K + batch.to(tl.int64) * k_b + (head // group).to(tl.int64) * k_h
    bias_row = BIAS
    if HAS_BIAS:
        bias_row = BIAS + batch.to(tl.int64) * a_b + head.to(tl.int64) * a_h + rows.to(tl.int64) * a_q  # (m,)
    SEEN += batch.to(tl.int64) * n_keys
    m = tl.full((M,), float("-inf"), tl.float32)
    l = tl.zeros((M,), tl.float32)
    for part in tl.static_range(2):
        m, l = _lse_tiles(
            m, l, q, k_base, k_l, dims, dim_ok, SEEN, lo, hi, row_ok, scale, softcap, bias_row, a_k, n_keys, start,
            full_lo, full_hi, stop, N if part == 1 else EDGE, COMPUTE, part == 0, SOFTCAP, HAS_BIAS,
        )
    if HAS_SINK:
        sink = tl.load(SINK + head)
        m_new = tl.maximum(m, sink)
        l = l * tl.exp2((m - m_new) * LOG2E) + tl.exp2((sink - m_new) * LOG2E)
        m = m_new
    found = l != 0.0  # a bias may hide every key of a row that the interval shows; NaN is found too
    lse = tl.where(found, tl.where(found, m, 0.0) + tl.log(tl.where(found, l, 1.0)), float("-inf"))
    out = (batch.to(tl.int64) * n_heads + head) * n_rows + rows
    tl.store(LSE + out, lse, mask=row_ok)


@triton.jit
def _row_tiles(
    ak, ak2, mass, row_sum, plogp, t_max, t_min, t_mean, t_m2, count, q, lse, k_base, k_stride, k2_base, k2_stride,
    f_base, dims, dim_ok, SEEN, lo, hi, row_ok, scale, softcap, bias_row, bias_stride, n_keys, start, full_lo, full_hi,
    stop, N: tl.constexpr, F: tl.constexpr, COMPUTE: tl.constexpr, P_BITS: tl.constexpr, MASKED: tl.constexpr,
    SOFTCAP: tl.constexpr, BIAS: tl.constexpr, STATS: tl.constexpr, AK: tl.constexpr, AK2: tl.constexpr,
):
    skipped = full_hi - full_lo
    for at in range(start if MASKED else full_lo, stop - skipped if MASKED else full_hi, N):
        first = at
        if MASKED:  # the tiles before full_lo, then those from full_hi on
            first = tl.where(at < full_lo, at, at + skipped)
        cols = first + tl.arange(0, N)
        key_ok = cols < n_keys
        if MASKED:
            key_ok = tl.load(SEEN + cols, mask=key_ok, other=0) != 0
        k = _load_keys(k_base, first, k_stride, dims, key_ok, dim_ok, N, MASKED).to(COMPUTE)  # (n, d)
        s = _scores(q, k, scale, softcap, bias_row, bias_stride, row_ok, cols, n_keys, SOFTCAP, BIAS)
        t = s - lse[:, None]  # (m, n) log p: small where p matters, whatever the size of the scores
        if MASKED:
            visible = (cols[None, :] >= lo[:, None]) & (cols[None, :] < hi[:, None])
            if BIAS:
                visible = visible & (s != float("-inf"))  # NaN stays in
            p = tl.where(visible, tl.exp2(t * LOG2E + P_BITS), 0.0)
        else:
            p = tl.exp2(t * LOG2E + P_BITS)
        if STATS:
            row_sum += tl.sum(p, 1)
            if MASKED:
                t_max = tl.maximum(t_max, tl.max(tl.where(visible, t, float("-inf")), 1))
                t_min = tl.minimum(t_min, tl.min(tl.where(visible, t, float("inf")), 1))
                n = tl.sum(visible.to(tl.float32), 1)
                t = tl.where(visible, t, 0.0)
                mean = tl.sum(t, 1) / tl.maximum(n, 1.0)
                from_mean = tl.where(visible, t - mean[:, None], 0.0)
            else:
                t_max = tl.maximum(t_max, tl.max(t, 1))
                t_min = tl.minimum(t_min, tl.min(t, 1))
                n = tl.full(row_sum.shape, N, tl.float32)
                mean = tl.sum(t, 1) / N
                from_mean = t - mean[:, None]
            plogp -= tl.sum(p * t, 1)
            # Chan's merge of (count, mean, m2): raw second moments lose digits where scores are large
            both = tl.maximum(count + n, 1.0)
            step = mean - t_mean
            t_m2 += tl.sum(from_mean * from_mean, 1) + step * step * (count * n / both)
            t_mean += step * (n / both)
            count += n
        high = p.to(COMPUTE)
        if AK:
            ak = tl.dot(high, k, ak, input_precision="ieee")  # (m, d)
        if AK2:
            k2 = _load_keys(k2_base, first, k2_stride, dims, key_ok, dim_ok, N, MASKED).to(COMPUTE)
            ak2 = tl.dot(high, k2, ak2, input_precision="ieee")  # (m, d)
        if F:
            f = tl.load(f_base + cols[:, None] * F + tl.arange(0, F)[None, :], mask=key_ok[:, None], other=0.0)
            f = f.to(COMPUTE)  # (n, f)
            mass = tl.dot(high, f, mass, input_precision="ieee")  # (m, f)
            if tl.float32 != COMPUTE:
                # p cut to 8 or 11 bits gives masses to 1e-3 only; what was cut off, added back, gives 1e-6
                low = (p - high.to(tl.float32)).to(COMPUTE)
                mass = tl.dot(low, f, mass)
    return ak, ak2, mass, row_sum, plogp, t_max, t_min, t_mean, t_m2, count


@triton.jit
def row_kernel(
    Q, K, K2, FEATURES, LO, HI, SEEN, BIAS, LSE, OUT, COUNT, SUM, AK_OUT, AK2_OUT, MASS_OUT, n_heads, group, n_rows,
    n_keys, scale, softcap, q_b, q_h, q_l, k_b, k_h, k_l, k2_b, k2_h, k2_l, a_b, a_h, a_q, a_k, stat_stride,
    D: tl.constexpr, DP: tl.constexpr, M: tl.constexpr, N: tl.constexpr, EDGE: tl.constexpr, F: tl.constexpr,
    COMPUTE: tl.constexpr, P_BITS: tl.constexpr, SOFTCAP: tl.constexpr, HAS_BIAS: tl.constexpr, STATS: tl.constexpr,
    AK: tl.constexpr, AK2: tl.constexpr,
):
    """One program per (row block, head, window); the order of its key tiles is fixed, so its bits are too.

    STATS, AK, AK2, F > 0 choose the outputs. A launch without STATS reads Σ_j p of the launch that had them (SUM).
    ``P_BITS`` scales p by a power of two: fp16 has no exponent for p below 6e-5, and long rows have such p.
    """
    blocks = tl.cdiv(n_rows, M)
    block = blocks - 1 - tl.program_id(0) % blocks  # the longest rows of a causal mask first
    batch = tl.program_id(0) // blocks // n_heads
    head = tl.program_id(0) // blocks % n_heads
    rows = block * M + tl.arange(0, M)
    dims = tl.arange(0, DP)
    dim_ok = dims < D
    lo, hi, row_ok, start, full_lo, full_hi, stop = _interval(LO, HI, batch, rows, n_rows, n_keys, N, HAS_BIAS)
    q_base = Q + batch.to(tl.int64) * q_b + head.to(tl.int64) * q_h + (block * M).to(tl.int64) * q_l
    q = tl.load(
        q_base + tl.arange(0, M)[:, None] * q_l + dims[None, :], mask=(hi > lo)[:, None] & dim_ok[None, :], other=0.0
    ).to(COMPUTE)  # (m, d)
    out = (batch.to(tl.int64) * n_heads + head) * n_rows + rows  # (m,)
    lse = tl.load(LSE + out, mask=hi > lo, other=0.0)  # (m,)
    lse = tl.where(lse > float("-inf"), lse, 0.0)  # a bias hides the whole row: -inf minus -inf would be NaN
    k_base = K + batch.to(tl.int64) * k_b + (head // group).to(tl.int64) * k_h
    k2_base = K2
    if AK2:
        k2_base = K2 + batch.to(tl.int64) * k2_b + (head // group).to(tl.int64) * k2_h
    f_base = FEATURES
    if F:
        f_base = FEATURES + batch.to(tl.int64) * n_keys * F
    bias_row = BIAS
    if HAS_BIAS:
        bias_row = BIAS + batch.to(tl.int64) * a_b + head.to(tl.int64) * a_h + rows.to(tl.int64) * a_q  # (m,)
    SEEN += batch.to(tl.int64) * n_keys

    ak = tl.zeros((M, DP if AK else 1), tl.float32)
    ak2 = tl.zeros((M, DP if AK2 else 1), tl.float32)
    mass = tl.zeros((M, F if F else 1), tl.float32)
    row_sum = tl.zeros((M,), tl.float32)
    plogp = tl.zeros((M,), tl.float32)
    t_max = tl.full((M,), float("-inf"), tl.float32)
    t_min = tl.full((M,), float("inf"), tl.float32)
    t_mean = tl.zeros((M,), tl.float32)
    t_m2 = tl.zeros((M,), tl.float32)
    count = tl.zeros((M,), tl.float32)
    for part in tl.static_range(2):
        ak, ak2, mass, row_sum, plogp, t_max, t_min, t_mean, t_m2, count = _row_tiles(
            ak, ak2, mass, row_sum, plogp, t_max, t_min, t_mean, t_m2, count, q, lse, k_base, k_l, k2_base, k2_l,
            f_base, dims, dim_ok, SEEN, lo, hi, row_ok, scale, softcap, bias_row, a_k, n_keys, start, full_lo, full_hi,
            stop, N if part == 1 else EDGE, F, COMPUTE, P_BITS, part == 0, SOFTCAP, HAS_BIAS, STATS, AK, AK2,
        )

    if STATS:
        seen_any = (hi > lo) & (count > 0.0)
        has = seen_any & (row_sum != 0.0)  # so that NaN stays NaN
        total = row_sum * tl.exp2(-1.0 * P_BITS)  # Σ_j p
        row_sum = tl.where(has, row_sum, 1.0)  # nothing below divides by zero
        entropy = tl.where(has, plogp / row_sum + tl.log(tl.where(has, total, 1.0)), 0.0)
        tl.store(OUT + out, tl.where(seen_any, total, 0.0), mask=row_ok)
        tl.store(OUT + stat_stride + out, entropy, mask=row_ok)
        p_max = tl.where(has, tl.exp2(t_max * LOG2E + P_BITS) / row_sum, 0.0)
        tl.store(OUT + 2 * stat_stride + out, p_max, mask=row_ok)
        tl.store(OUT + 3 * stat_stride + out, tl.where(seen_any, t_max + lse, 0.0), mask=row_ok)
        tl.store(OUT + 4 * stat_stride + out, tl.where(seen_any, t_min + lse, 0.0), mask=row_ok)
        tl.store(OUT + 5 * stat_stride + out, tl.where(seen_any, t_mean + lse, 0.0), mask=row_ok)
        tl.store(OUT + 6 * stat_stride + out, tl.where(seen_any, t_m2, 0.0), mask=row_ok)
        tl.store(COUNT + out, tl.where(seen_any, count, 0.0).to(tl.int32), mask=row_ok)
    else:
        total = tl.load(SUM + out, mask=row_ok, other=0.0)
        has = total != 0.0
        row_sum = tl.where(has, total * tl.exp2(1.0 * P_BITS), 1.0)
    corner = (batch.to(tl.int64) * n_heads + head) * n_rows + block * M  # first row of the block, of all rows
    wide = tl.arange(0, M)[:, None] * D + dims[None, :]
    wide_ok = row_ok[:, None] & dim_ok[None, :]
    if AK:
        tl.store(AK_OUT + corner * D + wide, tl.where(has[:, None], ak / row_sum[:, None], 0.0), mask=wide_ok)
    if AK2:
        tl.store(AK2_OUT + corner * D + wide, tl.where(has[:, None], ak2 / row_sum[:, None], 0.0), mask=wide_ok)
    if F:
        mass = tl.where(has[:, None], mass * tl.exp2(-1.0 * P_BITS), 0.0)
        columns = tl.arange(0, M)[:, None] * F + tl.arange(0, F)[None, :]
        tl.store(MASS_OUT + corner * F + columns, mass, mask=row_ok[:, None])
