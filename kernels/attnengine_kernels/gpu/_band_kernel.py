"""The jitted kernel of the band pass (see :mod:`attnengine_kernels.gpu.band`): the tiles about the diagonal.

Axes in comments: ``m`` query rows and ``n`` keys of a square tile of side S, ``x`` a residue of the offset modulo S.
"""

# fmt: off
# (one line per argument would bury the formulas)
from __future__ import annotations

import triton
import triton.language as tl

from attnengine_kernels.gpu._rows_kernel import FAR, LOG2E, _load_keys, _scores


@triton.jit
def band_kernel(
    Q, K, BLOCKS, LO, HI, SEES, SEEN, SHIFT, BIAS, LSE, PROFILE, NEAR, n_heads, group, n_rows, n_keys, near_stride,
    scale, softcap, q_b, q_h, q_l, k_b, k_h, k_l, a_b, a_h, a_q, a_k, D: tl.constexpr, DP: tl.constexpr,
    S: tl.constexpr, BAND: tl.constexpr, COMPUTE: tl.constexpr, SOFTCAP: tl.constexpr, HAS_BIAS: tl.constexpr,
):
    """One program per (block of S rows, head): 2 BAND / S + 1 tiles, and 2 BAND sums by offset.

    Tile t holds the keys from ``first row + shift + t S`` on, so its pair (a, b) has the offset a - b - t S. Gathering
    column (a - x) mod S into column x turns its diagonals into columns: the part a >= x has the offset x - t S, the
    rest x - (t + 1) S, which the next tile's first part completes.
    """
    head = tl.program_id(0) % n_heads
    block = tl.program_id(0) // n_heads
    batch = tl.load(BLOCKS + block * 3)
    first = tl.load(BLOCKS + block * 3 + 1)
    last = tl.load(BLOCKS + block * 3 + 2)
    a = tl.arange(0, S)
    rows = first + a
    at = batch.to(tl.int64) * n_rows + rows
    row_ok = rows < last
    row_ok = tl.load(SEES + at, mask=row_ok, other=0) != 0
    lo = tl.load(LO + at, mask=row_ok, other=0)
    hi = tl.load(HI + at, mask=row_ok, other=0)  # (m,)
    some = hi > lo
    start = tl.min(tl.where(some, lo, FAR), 0)
    stop = tl.max(tl.where(some, hi, 0), 0)
    dims = tl.arange(0, DP)
    dim_ok = dims < D
    q_base = Q + batch.to(tl.int64) * q_b + head.to(tl.int64) * q_h
    q = _load_keys(q_base, first, q_l, dims, row_ok, dim_ok, S, True).to(COMPUTE)  # (m, d)
    k_base = K + batch.to(tl.int64) * k_b + (head // group).to(tl.int64) * k_h
    SEEN += batch.to(tl.int64) * n_keys
    out = (batch.to(tl.int64) * n_heads + head) * n_rows + rows  # (m,)
    lse = tl.load(LSE + out, mask=row_ok, other=0.0)
    bias_row = BIAS
    if HAS_BIAS:
        bias_row = BIAS + batch.to(tl.int64) * a_b + head.to(tl.int64) * a_h + rows.to(tl.int64) * a_q
    own = first + tl.load(SHIFT + batch)  # the key at the first row's position
    step = a[:, None] - a[None, :]  # (m, x), and (m, n): the offset, less t S
    source = step & (S - 1)
    tiles: tl.constexpr = 2 * BAND // S

    carry = tl.zeros((S,), tl.float32)
    before = tl.zeros((S,), tl.float32)
    itself = tl.zeros((S,), tl.float32)
    after = tl.zeros((S,), tl.float32)
    profile = PROFILE + tl.program_id(0).to(tl.int64) * (2 * BAND) + a
    for number in range(tiles + 1):
        base = (number - BAND // S) * S  # t S
        corner = own + base
        upper = tl.zeros((S,), tl.float32)
        lower = tl.zeros((S,), tl.float32)
        if (corner < stop) & (corner + S > start):
            cols = corner + a
            inside = (cols >= 0) & (cols < n_keys)
            key_ok = tl.load(SEEN + cols, mask=inside, other=0) != 0
            k = _load_keys(k_base, corner, k_l, dims, key_ok, dim_ok, S, True).to(COMPUTE)  # (n, d)
            at_bias = tl.where(inside, cols, n_keys)  # where there is no bias to load
            s = _scores(q, k, scale, softcap, bias_row, a_k, row_ok, at_bias, n_keys, SOFTCAP, HAS_BIAS)  # (m, n)
            visible = (cols[None, :] >= lo[:, None]) & (cols[None, :] < hi[:, None])
            if HAS_BIAS:
                visible = visible & (s != float("-inf"))  # NaN stays in
            p = tl.where(visible, tl.exp2((s - lse[:, None]) * LOG2E), 0.0)
            skewed = tl.gather(p, source, 1)  # (m, x)
            upper = tl.sum(tl.where(step >= 0, skewed, 0.0), 0)
            lower = tl.sum(tl.where(step >= 0, 0.0, skewed), 0)
            if (base <= S) & (base >= -S):
                before += tl.sum(tl.where(step == base + 1, p, 0.0), 1)
                itself += tl.sum(tl.where(step == base, p, 0.0), 1)
                after += tl.sum(tl.where(step == base - 1, p, 0.0), 1)
        if number > 0:
            tl.store(profile + (tiles - number) * S, upper + carry)
        carry = lower
    tl.store(NEAR + out, before, mask=rows < last)
    tl.store(NEAR + near_stride + out, itself, mask=rows < last)
    tl.store(NEAR + 2 * near_stride + out, after, mask=rows < last)
