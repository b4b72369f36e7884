"""The jitted kernels of chosen rows (see :mod:`.top_keys` and :mod:`.product`): one program per row and head.

Axes in comments: ``n`` keys of a tile, ``d`` dims.
"""

# fmt: off
# (one line per argument would bury the formulas)
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _row_of(one, ROWS, LO, HI, n_rows, n_keys):
    """Window, query, and interval of a chosen row."""
    window = tl.load(ROWS + 2 * one).to(tl.int64)
    position = tl.load(ROWS + 2 * one + 1).to(tl.int64)
    lo = tl.maximum(tl.load(LO + window * n_rows + position), 0)
    hi = tl.minimum(tl.load(HI + window * n_rows + position), n_keys)
    return window, position, lo, hi


@triton.jit
def _row_scores(
    q, k_base, k_l, bias_row, a_k, first, lo, hi, scale, softcap, D: tl.constexpr, DP: tl.constexpr, N: tl.constexpr,
    SOFTCAP: tl.constexpr, HAS_BIAS: tl.constexpr,
):
    """Scores (n,) of the row's keys from ``first`` on, visibility (n,), and the keys (n, d) in fp32, 0 if hidden."""
    cols = first + tl.arange(0, N)
    dims = tl.arange(0, DP)
    visible = (cols >= lo) & (cols < hi)
    if HAS_BIAS:
        bias = tl.load(bias_row + cols.to(tl.int64) * a_k, mask=visible, other=float("-inf")).to(tl.float32)
        visible = visible & (bias != float("-inf"))
    at = k_base + cols.to(tl.int64)[:, None] * k_l + dims[None, :]
    k = tl.load(at, mask=visible[:, None] & (dims < D)[None, :], other=0.0).to(tl.float32)  # (n, d)
    s = tl.sum(q[None, :] * k, 1) * scale
    if SOFTCAP:
        e = tl.exp(-2.0 * tl.abs(s) / softcap)
        tanh = (1.0 - e) / (1.0 + e)
        s = softcap * tl.where(s >= 0.0, tanh, -tanh)
    if HAS_BIAS:
        s = tl.where(visible, s + bias, s)
    return s, visible, k


@triton.jit
def product_kernel(
    Q, K, LO, HI, ROWS, BIAS, PRODUCT, SCORE, n_heads, group, n_rows, n_keys, scale, softcap, q_b, q_h, q_l, k_b, k_h,
    k_l, a_b, a_h, a_q, a_k, D: tl.constexpr, DP: tl.constexpr, N: tl.constexpr, SOFTCAP: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """q_id k_jd (n, d) of one chosen row and a tile of keys, and their scores (n,); 0 and -inf where hidden."""
    tiles = tl.cdiv(n_keys, N)
    first = tl.program_id(0) % tiles * N
    head = tl.program_id(0) // tiles % n_heads
    one = tl.program_id(0) // tiles // n_heads
    window, position, lo, hi = _row_of(one, ROWS, LO, HI, n_rows, n_keys)
    dims = tl.arange(0, DP)
    cols = first + tl.arange(0, N)
    some = dims < tl.where(hi > lo, D, 0)
    q = tl.load(Q + window * q_b + head.to(tl.int64) * q_h + position * q_l + dims, mask=some, other=0.0).to(tl.float32)
    k_base = K + window * k_b + (head // group).to(tl.int64) * k_h
    bias_row = BIAS
    if HAS_BIAS:
        bias_row = BIAS + window * a_b + head.to(tl.int64) * a_h + position * a_q
    s, visible, k = _row_scores(
        q, k_base, k_l, bias_row, a_k, first, lo, hi, scale, softcap, D, DP, N, SOFTCAP, HAS_BIAS
    )
    out = (one.to(tl.int64) * n_heads + head) * n_keys + cols  # (n,)
    tl.store(SCORE + out, tl.where(visible, s, float("-inf")), mask=cols < n_keys)
    x = tl.where(visible[:, None], q[None, :] * k, 0.0)
    tl.store(PRODUCT + out[:, None] * D + dims[None, :], x, mask=(cols < n_keys)[:, None] & (dims < D)[None, :])


@triton.jit
def _order(s, index, visible):
    """An int64 that sorts as (score, -index): the score's bits as a number that rises with it, then the index."""
    bits = tl.where(s == 0.0, 0.0, s).to(tl.int32, bitcast=True)  # -0 equals 0
    rising = tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)
    rising = tl.where(s == s, rising, 0x7FFFFFFF)  # NaN first
    packed = rising.to(tl.int64) * 4294967296 + (2147483647 - index).to(tl.int64)
    return tl.where(visible, packed, -9223372036854775807)


@triton.jit
def top_kernel(
    Q, K, LO, HI, ROWS, LSE, SINK, BIAS, WEIGHTS, KEYS, ENTROPY, n_heads, group, n_rows, n_keys, top, scale, softcap,
    q_b, q_h, q_l, k_b, k_h, k_l, a_b, a_h, a_q, a_k, D: tl.constexpr, DP: tl.constexpr, N: tl.constexpr,
    R: tl.constexpr, SOFTCAP: tl.constexpr, HAS_LSE: tl.constexpr, HAS_SINK: tl.constexpr, HAS_BIAS: tl.constexpr,
):
    """The R greatest scores of one chosen row, its log-sum-exp and entropy, in one sweep over its keys."""
    head = tl.program_id(0) % n_heads
    one = tl.program_id(0) // n_heads
    window, position, lo, hi = _row_of(one, ROWS, LO, HI, n_rows, n_keys)
    dims = tl.arange(0, DP)
    some = dims < tl.where(hi > lo, D, 0)
    q = tl.load(Q + window * q_b + head.to(tl.int64) * q_h + position * q_l + dims, mask=some, other=0.0).to(tl.float32)
    k_base = K + window * k_b + (head // group).to(tl.int64) * k_h
    bias_row = BIAS
    if HAS_BIAS:
        bias_row = BIAS + window * a_b + head.to(tl.int64) * a_h + position * a_q
    best = tl.full((R,), -9223372036854775807, tl.int64)
    # running maximum, Σ exp(s - m), Σ exp(s - m) (s - m)
    m = tl.full((), float("-inf"), tl.float32)
    l = tl.full((), 0.0, tl.float32)
    w = tl.full((), 0.0, tl.float32)
    for first in range(lo // N * N, hi, N):
        s, visible, _k = _row_scores(
            q, k_base, k_l, bias_row, a_k, first, lo, hi, scale, softcap, D, DP, N, SOFTCAP, HAS_BIAS
        )
        order = _order(s, first + tl.arange(0, N), visible)
        if tl.max(order, 0) > tl.min(best, 0):  # on most of a long row's tiles nothing enters the list
            best = tl.topk(tl.reshape(tl.join(best, tl.topk(order, R)), (2 * R,)), R)
        m_new = tl.maximum(m, tl.max(tl.where(visible, s, float("-inf")), 0))
        shift = tl.where(m_new == float("-inf"), 0.0, m_new)
        t = tl.where(visible, s - shift, 0.0)
        e = tl.where(visible, tl.exp(t), 0.0)
        step = tl.where(m == float("-inf"), 0.0, m - shift)
        alpha = tl.exp(step)
        w = alpha * (w + step * l) + tl.sum(e * t, 0)
        l = alpha * l + tl.sum(e, 0)
        m = m_new
    found = l != 0.0  # NaN stays
    l = tl.where(found, l, 1.0)
    total = tl.where(m == float("-inf"), 0.0, m) + tl.log(l)
    lse = total
    out = one.to(tl.int64) * n_heads + head
    if HAS_LSE:
        lse = tl.load(LSE + (window * n_heads + head) * n_rows + position)
    elif HAS_SINK:
        sink = tl.load(SINK + head)
        most = tl.maximum(total, sink)
        lse = most + tl.log(tl.exp(total - most) + tl.exp(sink - most))
    tl.store(ENTROPY + out, tl.where(found, tl.log(l) - w / l, 0.0))
    there = best != -9223372036854775807
    rising = (best >> 32).to(tl.int32)
    s = tl.where(rising >= 0, rising, rising ^ 0x7FFFFFFF).to(tl.float32, bitcast=True)
    index = 2147483647 - (best & 0xFFFFFFFF).to(tl.int32)
    rank = tl.arange(0, R)
    tl.store(WEIGHTS + out * top + rank, tl.where(there, tl.exp(s - lse), 0.0), mask=rank < top)
    tl.store(KEYS + out * top + rank, tl.where(there, index, -1), mask=rank < top)
