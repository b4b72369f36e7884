"""The jitted kernel of the fused forward (see :mod:`attnengine_kernels.gpu.fused`): online softmax with statistics.

Axes in comments: ``m`` query rows and ``n`` keys of a tile, ``d`` dims, ``f`` features. Tiles are visited as in the
row pass: those that need a mask first, then the long middle, which pays for none.
"""

# fmt: off
# (one line per argument would bury the formulas)
from __future__ import annotations

import triton
import triton.language as tl

from attnengine_kernels.gpu._rows_kernel import LOG2E, _interval, _load_keys, _scores


@triton.jit
def _fused_tiles(
    acc, mass, m, l, w, count, q, k_base, k_stride, v_base, v_stride, f_base, dims, dim_ok, v_dims, v_dim_ok, SEEN, lo,
    hi, row_ok, scale, softcap, bias_row, bias_stride, n_keys, start, full_lo, full_hi, stop, N: tl.constexpr,
    F: tl.constexpr, COMPUTE: tl.constexpr, P_BITS: tl.constexpr, MASKED: tl.constexpr, SOFTCAP: tl.constexpr,
    BIAS: tl.constexpr,
):
    """Running maximum ``m``, sum ``l`` = Σ exp(s - m), ``w`` = Σ exp(s - m) (s - m), and products, over some tiles."""
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
            if BIAS:
                visible = visible & (s != float("-inf"))
            s = tl.where(visible, s, float("-inf"))
            count += tl.sum(visible.to(tl.int32), 1)
        m_new = tl.maximum(m, tl.max(s, 1))
        shift = m_new
        if MASKED:  # a row that has seen nothing yet: -inf minus -inf would be NaN
            shift = tl.where(m_new == float("-inf"), 0.0, m_new)
        step = tl.where(m == float("-inf"), 0.0, m - shift)  # nothing to rescale before the first key
        t = s - shift[:, None]  # (m, n) <= 0
        p = tl.exp2(t * LOG2E + P_BITS)
        alpha = tl.exp2(step * LOG2E)
        if MASKED:
            t = tl.where(visible, t, 0.0)
        # The old sum is about the old maximum: Σ p (s - m_new) = Σ p (s - m_old) + (m_old - m_new) Σ p
        w = alpha * (w + step * l) + tl.sum(p * t, 1)
        l = l * alpha + tl.sum(p, 1)
        m = m_new
        high = p.to(COMPUTE)
        v = _load_keys(v_base, first, v_stride, v_dims, key_ok, v_dim_ok, N, MASKED).to(COMPUTE)  # (n, dv)
        acc = tl.dot(high, v, acc * alpha[:, None], input_precision="ieee")  # (m, dv)
        if F:
            f = tl.load(f_base + cols[:, None] * F + tl.arange(0, F)[None, :], mask=key_ok[:, None], other=0.0)
            f = f.to(COMPUTE)  # (n, f)
            mass = tl.dot(high, f, mass * alpha[:, None], input_precision="ieee")  # (m, f)
            if tl.float32 != COMPUTE:  # what was cut off p, so that masses keep their digits
                low = (p - high.to(tl.float32)).to(COMPUTE)
                mass = tl.dot(low, f, mass)
    return acc, mass, m, l, w, count


@triton.jit
def fused_kernel(
    Q, K, V, FEATURES, LO, HI, SEEN, SINK, BIAS, O, LSE, OUT, COUNT, MASS_OUT, n_heads, group, n_rows, n_keys, scale,
    softcap, q_b, q_h, q_l, k_b, k_h, k_l, v_b, v_h, v_l, a_b, a_h, a_q, a_k, stat_stride, D: tl.constexpr,
    DP: tl.constexpr, DV: tl.constexpr, DVP: tl.constexpr, M: tl.constexpr, N: tl.constexpr, EDGE: tl.constexpr,
    F: tl.constexpr, COMPUTE: tl.constexpr, P_BITS: tl.constexpr, SOFTCAP: tl.constexpr, HAS_SINK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """One program per (row block, head, window); the order of its key tiles is fixed, so its bits are too.

    ``P_BITS`` scales p by a power of two: fp16 has no exponent for p below 6e-5, and long rows have such p.
    """
    blocks = tl.cdiv(n_rows, M)
    block = blocks - 1 - tl.program_id(0) % blocks  # the longest rows of a causal mask first
    batch = (tl.program_id(0) // blocks // n_heads).to(tl.int64)
    head = tl.program_id(0) // blocks % n_heads
    rows = block * M + tl.arange(0, M)
    dims = tl.arange(0, DP)
    v_dims = tl.arange(0, DVP)
    dim_ok = dims < D
    v_dim_ok = v_dims < DV
    lo, hi, row_ok, start, full_lo, full_hi, stop = _interval(LO, HI, batch, rows, n_rows, n_keys, N, HAS_BIAS)
    q_base = Q + batch * q_b + head.to(tl.int64) * q_h + (block * M).to(tl.int64) * q_l
    q = tl.load(
        q_base + tl.arange(0, M)[:, None] * q_l + dims[None, :], mask=(hi > lo)[:, None] & dim_ok[None, :], other=0.0
    ).to(COMPUTE)  # (m, d)
    k_base = K + batch * k_b + (head // group).to(tl.int64) * k_h
    v_base = V + batch * v_b + (head // group).to(tl.int64) * v_h
    f_base = FEATURES
    if F:
        f_base = FEATURES + batch * n_keys * F
    bias_row = BIAS
    if HAS_BIAS:
        bias_row = BIAS + batch * a_b + head.to(tl.int64) * a_h + rows.to(tl.int64) * a_q  # (m,)
    SEEN += batch * n_keys

    acc = tl.zeros((M, DVP), tl.float32)
    mass = tl.zeros((M, F if F else 1), tl.float32)
    m = tl.full((M,), float("-inf"), tl.float32)
    l = tl.zeros((M,), tl.float32)
    w = tl.zeros((M,), tl.float32)
    count = tl.zeros((M,), tl.int32) + (full_hi - full_lo)  # tiles without a mask show every key
    for part in tl.static_range(2):
        acc, mass, m, l, w, count = _fused_tiles(
            acc, mass, m, l, w, count, q, k_base, k_l, v_base, v_l, f_base, dims, dim_ok, v_dims, v_dim_ok, SEEN, lo,
            hi, row_ok, scale, softcap, bias_row, a_k, n_keys, start, full_lo, full_hi, stop, N if part == 1 else EDGE,
            F, COMPUTE, P_BITS, part == 0, SOFTCAP, HAS_BIAS,
        )

    seen_any = (hi > lo) & (count > 0)
    has = seen_any & (l != 0.0)  # so that NaN stays NaN
    l = tl.where(has, l, 1.0)  # nothing below divides by zero
    total = l * tl.exp2(-1.0 * P_BITS)  # Σ_j exp(s - m)
    top = tl.where(has, m, float("-inf"))
    if HAS_SINK:
        sink = tl.load(SINK + head)
        top = tl.maximum(top, sink)
    top = tl.where(top == float("-inf"), 0.0, top)
    share = tl.where(has, tl.exp2((m - top) * LOG2E), 0.0)
    whole = total * share
    if HAS_SINK:
        whole += tl.exp2((sink - top) * LOG2E)
    found = whole != 0.0
    lse = tl.where(found, top + tl.log(tl.where(found, whole, 1.0)), float("-inf"))
    share = share / tl.where(found, whole, 1.0)  # p_ij = exp(s_ij - m_i) share_i
    out = (batch * n_heads + head) * n_rows + rows  # (m,)
    tl.store(LSE + out, lse, mask=row_ok)
    tl.store(OUT + out, total * share, mask=row_ok)
    tl.store(OUT + stat_stride + out, tl.where(has, tl.log(total) - w / l, 0.0), mask=row_ok)
    tl.store(OUT + 2 * stat_stride + out, tl.where(has, 1.0 / total, 0.0), mask=row_ok)
    tl.store(OUT + 3 * stat_stride + out, tl.where(has, m + 0.0 * l, 0.0), mask=row_ok)  # 0 · NaN stays NaN
    tl.store(COUNT + out, tl.where(seen_any, count, 0), mask=row_ok)
    share = share * tl.exp2(-1.0 * P_BITS)
    corner = (batch * n_heads + head) * n_rows + block * M  # first row of the block, of all rows
    wide = tl.arange(0, M)[:, None] * DV + v_dims[None, :]
    acc = tl.where(has[:, None], acc * share[:, None], 0.0)
    tl.store(O + corner * DV + wide, acc.to(O.dtype.element_ty), mask=row_ok[:, None] & v_dim_ok[None, :])
    if F:
        mass = tl.where(has[:, None], mass * share[:, None], 0.0)
        columns = tl.arange(0, M)[:, None] * F + tl.arange(0, F)[None, :]
        tl.store(MASS_OUT + corner * F + columns, mass, mask=row_ok[:, None])
