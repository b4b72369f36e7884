"""The jitted kernel of the places pass (see :mod:`attnengine_kernels.gpu.places`): where in the text p lies.

Axes in comments: ``m`` query rows and ``n`` keys of a tile, ``s`` signed bins of distance. Offsets o = own_i - j, own_i
the index of the key at the row's position. Tiles that need a mask, lie near the diagonal or hold keys without a
position come first, then the others: there every pair is visible, has |o| >= 256 and so meets at most two bins.
"""

# fmt: off
# (one line per argument would bury the formulas)
from __future__ import annotations

import triton
import triton.language as tl

from attnengine_kernels.gpu._rows_kernel import FAR, LOG2E, _load_keys, _scores

SLOTS = tl.constexpr(32)  # signed bins -16 … 15: bin s > 0 holds o in [64 · 2^s, 128 · 2^s), 0 the band |o| < 128
CENTRE = tl.constexpr(16)


@triton.jit
def _edge(s):
    """The least offset of signed bin ``s``."""
    wide = tl.full((), 64, tl.int32)
    return tl.where(s > 0, wide << tl.maximum(s, 0), tl.where(s == 0, -127, 1 - (wide << tl.maximum(1 - s, 0))))


@triton.jit
def _bin(offset):
    """The signed bin of an offset: how many bins begin at or before it."""
    s = tl.arange(0, SLOTS) - CENTRE
    begins = tl.where(s == -CENTRE, -FAR, _edge(tl.maximum(s, 1 - CENTRE)))
    return tl.sum((offset >= begins).to(tl.int32), 0) - 1 - CENTRE


@triton.jit
def _range_of_tiles(LO, HI, SEES, at, rows, last, N: tl.constexpr, BIAS: tl.constexpr):
    """As :func:`._rows_kernel._interval`, for the rows of a block that may end inside the window."""
    row_ok = tl.load(SEES + at, mask=rows < last, other=0) != 0
    lo = tl.load(LO + at, mask=row_ok, other=0)  # (m,)
    hi = tl.load(HI + at, mask=row_ok, other=0)  # (m,)
    some = hi > lo
    stop = tl.max(tl.where(some, hi, 0), 0)
    start = tl.minimum(tl.min(tl.where(some, lo, FAR), 0) // N * N, stop)
    full_lo = tl.minimum((tl.max(tl.where(some, lo, 0), 0) + N - 1) // N * N, (stop + N - 1) // N * N)
    full_hi = tl.maximum(tl.minimum(tl.min(tl.where(some, hi, FAR), 0) // N * N, stop), full_lo)
    if BIAS:
        full_lo = start
        full_hi = start
    return lo, hi, some, start, full_lo, full_hi, stop


@triton.jit
def _place_tiles(
    same, induced, other, weighted, weighted_first, near, signed, far, bins, q, lse, k_base, k_stride, dims, dim_ok,
    SEEN, KEY_TOKEN, BEFORE_TOKEN, KEY_SENTENCE, KEY_PATCH, NORM, token, sentence, patch_row, patch_col, own, placed,
    first_own, first_key, placed_lo, placed_hi, lo, hi, some, scale, softcap, bias_row, bias_stride, n_keys, start,
    full_lo, near_lo, near_hi, full_hi, stop, M: tl.constexpr, N: tl.constexpr, COMPUTE: tl.constexpr,
    MASKED: tl.constexpr, SOFTCAP: tl.constexpr, BIAS: tl.constexpr, TOKENS: tl.constexpr, SENTENCES: tl.constexpr,
    OFFSETS: tl.constexpr, PATCHES: tl.constexpr,
):
    left = near_lo - full_lo  # keys of the two runs of unmasked tiles
    right = full_hi - near_hi
    slots = tl.arange(0, SLOTS)
    for at in range(start if MASKED else full_lo, stop - left - right if MASKED else full_lo + left + right, N):
        if MASKED:
            corner = tl.where(at < full_lo, at, at + left)
            corner = tl.where(corner < near_hi, corner, corner + right)
        else:
            corner = tl.where(at < near_lo, at, at + near_hi - near_lo)
        cols = corner + tl.arange(0, N)
        key_ok = cols < n_keys
        if MASKED:
            key_ok = tl.load(SEEN + cols, mask=key_ok, other=0) != 0
        k = _load_keys(k_base, corner, k_stride, dims, key_ok, dim_ok, N, MASKED).to(COMPUTE)  # (n, d)
        s = _scores(q, k, scale, softcap, bias_row, bias_stride, some, cols, n_keys, SOFTCAP, BIAS)  # (m, n)
        p = tl.exp2((s - lse[:, None]) * LOG2E)
        both = some[:, None]  # (m, n): both have a position; without MASKED all keys do
        if MASKED:
            visible = (cols[None, :] >= lo[:, None]) & (cols[None, :] < hi[:, None])
            if BIAS:
                visible = visible & (s != float("-inf"))  # NaN stays in
            p = tl.where(visible, p, 0.0)
            both = placed[:, None] & ((cols >= placed_lo) & (cols < placed_hi))[None, :]
        offset = own[:, None] - cols[None, :]
        if TOKENS:
            theirs = tl.load(KEY_TOKEN + cols, mask=key_ok, other=-1)  # (n,)
            match = token[:, None] == theirs[None, :]
            if MASKED:
                match = match & ~(both & (offset == 0))
            same += tl.sum(tl.where(match, p, 0.0), 1)
            before = tl.load(BEFORE_TOKEN + cols, mask=key_ok, other=-1)  # (n,)
            match = token[:, None] == before[None, :]
            if MASKED:
                match = match & ~(both & ((offset == 0) | (offset == -1)))
            induced += tl.sum(tl.where(match, p, 0.0), 1)
        if SENTENCES:
            theirs = tl.load(KEY_SENTENCE + cols, mask=key_ok, other=-1)  # (n,)
            other += tl.sum(tl.where((theirs != sentence[:, None]) & (theirs >= 0), p, 0.0), 1)
        norm = tl.load(NORM + cols, mask=key_ok, other=0.0)  # (n,)
        value = p * norm[None, :]
        weighted += tl.sum(value, 1)
        if MASKED:
            weighted_first += tl.sum(tl.where((cols == first_key)[None, :], value, 0.0), 1)
        if OFFSETS:
            if MASKED:
                p = tl.where(both, p, 0.0)
            total = tl.sum(p, 1)  # (m,)
            near += total
            if PATCHES:
                dr = patch_row[:, None] - tl.load(KEY_PATCH + 2 * cols, mask=key_ok, other=0.0)[None, :]
                dc = patch_col[:, None] - tl.load(KEY_PATCH + 2 * cols + 1, mask=key_ok, other=0.0)[None, :]
                far += tl.sum(p * tl.sqrt(dr * dr + dc * dc), 1)
            least = first_own - corner - (N - 1)  # of the tile's offsets
            most = first_own + (M - 1) - corner
            if MASKED:
                step = tl.where(both, offset, 0).to(tl.float32)
                signed += tl.sum(p * step, 1)
                if not PATCHES:
                    far += tl.sum(p * tl.abs(step), 1)
                for one in range(_bin(least), _bin(most) + 1):
                    if one != 0:
                        inside = (offset >= _edge(one)) & (offset < _edge(one + 1))
                        amount = tl.sum(tl.sum(tl.where(inside, p, 0.0), 1), 0)
                        bins += tl.where(slots == one + CENTRE, amount, 0.0)
            else:
                inner = tl.sum(p * tl.arange(0, N).to(tl.float32)[None, :], 1)
                by_row = (own - corner).to(tl.float32) * total - inner  # Σ p o
                signed += by_row
                if not PATCHES:
                    far += tl.where(least > 0, by_row, -by_row)
                low = _bin(least)
                high = _bin(most)
                if low == high:
                    amount = tl.sum(tl.where(placed, total, 0.0), 0)
                    bins += tl.where(slots == low + CENTRE, amount, 0.0)
                else:
                    p = tl.where(placed[:, None], p, 0.0)
                    above = offset >= _edge(high)
                    amount = tl.sum(tl.sum(tl.where(above, p, 0.0), 1), 0)
                    bins += tl.where(slots == high + CENTRE, amount, 0.0)
                    amount = tl.sum(tl.sum(tl.where(above, 0.0, p), 1), 0)
                    bins += tl.where(slots == low + CENTRE, amount, 0.0)
    return same, induced, other, weighted, weighted_first, near, signed, far, bins


@triton.jit
def places_kernel(
    Q, K, BLOCKS, LO, HI, SEES, SEEN, SHIFT, PLACED, ROW_PLACED, FIRST, NORM, TOKEN, KEY_TOKEN, BEFORE_TOKEN, SENTENCE,
    KEY_SENTENCE, PATCH, KEY_PATCH, BIAS, LSE, OUT, BINS, n_heads, group, n_rows, n_keys, out_stride, scale, softcap,
    q_b, q_h, q_l, k_b, k_h, k_l, a_b, a_h, a_q, a_k, D: tl.constexpr, DP: tl.constexpr, M: tl.constexpr,
    N: tl.constexpr, EDGE: tl.constexpr, COMPUTE: tl.constexpr, SOFTCAP: tl.constexpr, HAS_BIAS: tl.constexpr,
    TOKENS: tl.constexpr, SENTENCES: tl.constexpr, OFFSETS: tl.constexpr, PATCHES: tl.constexpr,
):
    """One program per (row block, head); its key tiles come in a fixed order, so its bits are fixed too.

    Per row to OUT (7, b, h, q), bins summed over the block's rows to BINS (blocks, h, SLOTS). TOKENS, SENTENCES,
    OFFSETS, PATCHES say which facts there are.
    """
    head = tl.program_id(0) % n_heads
    block = tl.program_id(0) // n_heads
    batch = tl.load(BLOCKS + block * 3)
    first = tl.load(BLOCKS + block * 3 + 1)
    last = tl.load(BLOCKS + block * 3 + 2)
    rows = first + tl.arange(0, M)
    at = batch.to(tl.int64) * n_rows + rows
    lo, hi, some, start, full_lo, full_hi, stop = _range_of_tiles(LO, HI, SEES, at, rows, last, N, HAS_BIAS)
    dims = tl.arange(0, DP)
    dim_ok = dims < D
    q_base = Q + batch.to(tl.int64) * q_b + head.to(tl.int64) * q_h
    q = _load_keys(q_base, first, q_l, dims, some, dim_ok, M, True).to(COMPUTE)  # (m, d)
    k_base = K + batch.to(tl.int64) * k_b + (head // group).to(tl.int64) * k_h
    out = (batch.to(tl.int64) * n_heads + head) * n_rows + rows  # (m,)
    lse = tl.load(LSE + out, mask=some, other=0.0)
    bias_row = BIAS
    if HAS_BIAS:
        bias_row = BIAS + batch.to(tl.int64) * a_b + head.to(tl.int64) * a_h + rows.to(tl.int64) * a_q
    keys = batch.to(tl.int64) * n_keys
    NORM += (batch.to(tl.int64) * (n_heads // group) + head // group) * n_keys
    first_key = tl.load(FIRST + batch)
    # the first key's tile, and all before it, are masked ones: only those look for it
    full_lo = tl.where((first_key >= full_lo) & (first_key < full_hi), (first_key // N + 1) * N, full_lo)

    token = tl.zeros((M,), tl.int32)
    sentence = tl.zeros((M,), tl.int32)
    patch_row = tl.zeros((M,), tl.float32)
    patch_col = tl.zeros((M,), tl.float32)
    if TOKENS:
        token = tl.load(TOKEN + at, mask=some, other=-2)
        KEY_TOKEN += keys
        BEFORE_TOKEN += keys
    if SENTENCES:
        sentence = tl.load(SENTENCE + at, mask=some, other=-1)
        KEY_SENTENCE += keys
    if PATCHES:
        patch_row = tl.load(PATCH + 2 * at, mask=some, other=0.0)
        patch_col = tl.load(PATCH + 2 * at + 1, mask=some, other=0.0)
        KEY_PATCH += 2 * keys
    placed = some  # without offsets nothing has a place, and no key is left out as the query itself
    placed_lo = 0
    placed_hi = 0
    first_own = 0
    near_lo = full_lo
    near_hi = full_lo
    if OFFSETS:
        placed = some & (tl.load(ROW_PLACED + at, mask=some, other=0) != 0)
        placed_lo = tl.load(PLACED + 2 * batch)
        placed_hi = tl.load(PLACED + 2 * batch + 1)
        first_own = first + tl.load(SHIFT + batch)
        full_lo = tl.maximum(full_lo, (placed_lo + N - 1) // N * N)
        full_hi = tl.minimum(full_hi, placed_hi // N * N)
        full_hi = tl.maximum(full_hi, full_lo)
        near_lo = tl.minimum(tl.maximum(tl.maximum(first_own - 255, 0) // N * N, full_lo), full_hi)
        near_hi = tl.maximum(first_own + M + 255, 0)
        near_hi = tl.minimum(tl.maximum((near_hi + N - 1) // N * N, near_lo), full_hi)
    else:
        full_hi = tl.maximum(full_hi, full_lo)
    own = first_own + tl.arange(0, M)

    same = tl.zeros((M,), tl.float32)
    induced = tl.zeros((M,), tl.float32)
    other = tl.zeros((M,), tl.float32)
    weighted = tl.zeros((M,), tl.float32)
    weighted_first = tl.zeros((M,), tl.float32)
    near = tl.zeros((M,), tl.float32)
    signed = tl.zeros((M,), tl.float32)
    far = tl.zeros((M,), tl.float32)
    bins = tl.zeros((SLOTS,), tl.float32)
    for part in tl.static_range(2):
        same, induced, other, weighted, weighted_first, near, signed, far, bins = _place_tiles(
            same, induced, other, weighted, weighted_first, near, signed, far, bins, q, lse, k_base, k_l, dims, dim_ok,
            SEEN + keys, KEY_TOKEN, BEFORE_TOKEN, KEY_SENTENCE, KEY_PATCH, NORM, token, sentence, patch_row, patch_col,
            own, placed, first_own, first_key, placed_lo, placed_hi, lo, hi, some, scale, softcap, bias_row, a_k,
            n_keys, start, full_lo, near_lo, near_hi, full_hi, stop, M, N if part == 1 else EDGE, COMPUTE, part == 0,
            SOFTCAP, HAS_BIAS, TOKENS, SENTENCES, OFFSETS, PATCHES,
        )

    mine = rows < last
    tl.store(OUT + out, tl.where(some, same, 0.0), mask=mine)
    tl.store(OUT + out_stride + out, tl.where(some, induced, 0.0), mask=mine)
    tl.store(OUT + 2 * out_stride + out, tl.where(some & (sentence >= 0), other, 0.0), mask=mine)
    tl.store(OUT + 3 * out_stride + out, tl.where(some, weighted, 0.0), mask=mine)
    tl.store(OUT + 4 * out_stride + out, tl.where(some, weighted_first, 0.0), mask=mine)
    has = placed & (near != 0.0)  # NaN stays in
    near = tl.where(has, near, 1.0)
    tl.store(OUT + 5 * out_stride + out, tl.where(has, signed / near, 0.0), mask=mine)
    tl.store(OUT + 6 * out_stride + out, tl.where(has, far / near, 0.0), mask=mine)
    tl.store(BINS + tl.program_id(0).to(tl.int64) * SLOTS + tl.arange(0, SLOTS), bins)
