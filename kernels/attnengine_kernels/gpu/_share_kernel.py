"""The jitted kernels of the share pass (see :mod:`attnengine_kernels.gpu.share`): chunk Grams, running states, rows.

Axes in comments: ``m`` query rows and ``n`` keys of a tile, ``t`` keys of a chunk taken at a time, ``d`` a block of
dims of the result, ``e`` a block of the dims that a product runs over.
"""

# fmt: off
# (one line per argument would bury the formulas)
from __future__ import annotations

import triton
import triton.language as tl

from attnengine_kernels.gpu._rows_kernel import FAR


@triton.jit
def _gram_step(left, right, acc, COMPUTE: tl.constexpr):
    """Add leftᵀ right to acc, of fp32 tiles (t, e), (t, d); in bf16 each is split in two, which keeps 16 bits."""
    if tl.float32 == COMPUTE:
        acc = tl.dot(tl.trans(left), right, acc, input_precision="tf32x3")
    else:
        left_high, right_high = left.to(COMPUTE), right.to(COMPUTE)
        left_low = (left - left_high.to(tl.float32)).to(COMPUTE)
        right_low = (right - right_high.to(tl.float32)).to(COMPUTE)
        acc = tl.dot(tl.trans(left_high), right_high, acc)
        acc = tl.dot(tl.trans(left_low), right_high, acc)
        acc = tl.dot(tl.trans(left_high), right_low, acc)
    return acc


@triton.jit
def _chunk_tile(K, SEEN, first, n_keys, k_l, dims, dim_ok, T: tl.constexpr):
    cols = first + tl.arange(0, T)
    seen = tl.load(SEEN + cols, mask=cols < n_keys, other=0) != 0
    ok = seen[:, None] & dim_ok[None, :]
    at = K + first * tl.cast(k_l, tl.int64) + (tl.arange(0, T)[:, None] * k_l + dims[None, :])
    return tl.load(at, mask=ok, other=0.0).to(tl.float32), ok, tl.sum(seen.to(tl.float32), 0)  # (t, d)


@triton.jit
def gram_kernel(
    K, SEEN, MEAN, GRAM, first_head, n_heads, n_keys, n_chunks, k_b, k_h, k_l, D: tl.constexpr, BD: tl.constexpr,
    T: tl.constexpr, C: tl.constexpr, COMPUTE: tl.constexpr,
):
    """Mean (d,) and Gram matrix about it, Σ (k - mean)(k - mean)ᵀ (e, d), of the seen keys of every chunk of C keys."""
    chunk = tl.program_id(0) % n_chunks
    batch = tl.program_id(0) // n_chunks // n_heads
    head = tl.program_id(0) // n_chunks % n_heads
    d_blocks: tl.constexpr = (D + BD - 1) // BD
    left = tl.program_id(1) // d_blocks * BD + tl.arange(0, BD)
    right = tl.program_id(1) % d_blocks * BD + tl.arange(0, BD)
    K += batch.to(tl.int64) * k_b + (first_head + head).to(tl.int64) * k_h
    SEEN += batch.to(tl.int64) * n_keys
    left_sum = tl.zeros((BD,), tl.float32)
    right_sum = tl.zeros((BD,), tl.float32)
    count = 0.0
    for first in range(chunk * C, chunk * C + C, T):
        tile, _ok, number = _chunk_tile(K, SEEN, first, n_keys, k_l, left, left < D, T)
        left_sum += tl.sum(tile, 0)
        tile, _ok, _n = _chunk_tile(K, SEEN, first, n_keys, k_l, right, right < D, T)
        right_sum += tl.sum(tile, 0)
        count += number
    left_mean = left_sum / tl.maximum(count, 1.0)
    right_mean = right_sum / tl.maximum(count, 1.0)
    acc = tl.zeros((BD, BD), tl.float32)
    for first in range(chunk * C, chunk * C + C, T):
        a, ok, _n = _chunk_tile(K, SEEN, first, n_keys, k_l, left, left < D, T)
        a = tl.where(ok, a - left_mean[None, :], 0.0)
        b, ok, _n = _chunk_tile(K, SEEN, first, n_keys, k_l, right, right < D, T)
        b = tl.where(ok, b - right_mean[None, :], 0.0)
        acc = _gram_step(a, b, acc, COMPUTE)
    slot = (batch.to(tl.int64) * n_heads + head) * n_chunks + chunk
    tl.store(MEAN + slot * D + right, right_mean, mask=right < D)  # programs of one column store the same bits
    at = GRAM + slot * D * D + (left[:, None] * D + right[None, :])
    tl.store(at, acc, mask=(left < D)[:, None] & (right < D)[None, :])


@triton.jit
def run_kernel(
    TABLE, WHOLE, RUN, MEAN, GRAM, CENTRE, STATE, n_heads, n_chunks, D: tl.constexpr, BD: tl.constexpr,
    C: tl.constexpr,
):
    """Mean and Gram matrix about it of the whole chunks that all rows of a block see, for every block of a run.

    Blocks of a run begin at the same chunk and end at the same or later ones, so each adds to the one before (Chan's
    merge: only sums, never a difference of running sums). The first block of a run has its length in RUN, others 0.
    """
    block = tl.program_id(0) // n_heads
    head = tl.program_id(0) % n_heads
    d_blocks: tl.constexpr = (D + BD - 1) // BD
    left = tl.program_id(1) // d_blocks * BD + tl.arange(0, BD)
    right = tl.program_id(1) % d_blocks * BD + tl.arange(0, BD)
    inside = (left < D)[:, None] & (right < D)[None, :]
    square = left[:, None] * D + right[None, :]  # (e, d)
    batch = tl.load(TABLE + 3 * block)
    slots = (batch.to(tl.int64) * n_heads + head) * n_chunks
    acc = tl.zeros((BD, BD), tl.float32)
    left_mean = tl.zeros((BD,), tl.float32)
    right_mean = tl.zeros((BD,), tl.float32)
    chunk = tl.load(WHOLE + 2 * block)
    count = 0.0  # chunks so far
    for one in range(block, block + tl.load(RUN + block)):
        end = tl.load(WHOLE + 2 * one + 1)
        for c in range(chunk, end):
            a = tl.load(MEAN + (slots + c) * D + left, mask=left < D, other=0.0) - left_mean
            b = tl.load(MEAN + (slots + c) * D + right, mask=right < D, other=0.0) - right_mean
            gram = tl.load(GRAM + (slots + c) * D * D + square, mask=inside, other=0.0)
            part = 1.0 / (count + 1.0)
            acc += gram + a[:, None] * b[None, :] * (C * count * part)
            left_mean += a * part
            right_mean += b * part
            count += 1.0
        chunk = end
        out = one * tl.cast(n_heads, tl.int64) + head
        tl.store(CENTRE + out * D + right, right_mean, mask=right < D)
        tl.store(STATE + out * D * D + square, acc, mask=inside)


@triton.jit
def _tile_scores(
    q_rows, some, offset, centre_at, k_base, k_l, SEEN, first, low, high, n_keys, lo, hi, D: tl.constexpr,
    BK: tl.constexpr, M: tl.constexpr, N: tl.constexpr, COMPUTE: tl.constexpr,
):
    """Visible scores q · k - offset (m, n), 0 elsewhere, and the keys' mask (n,): between the block's ends, and seen.

    In half precision the product with the keys as they are is exact but for its fp32 sum, so their centre comes off
    with the offset; fp32 keys are centred first. Wide fp32 heads take BK dims at a time: whole rows would spill.
    """
    cols = first + tl.arange(0, N)
    key_ok = (cols >= low) & (cols < high)
    key_ok = key_ok & (tl.load(SEEN + cols, mask=cols < n_keys, other=0) != 0)
    k_rows = k_base + first * tl.cast(k_l, tl.int64) + tl.arange(0, N)[:, None] * k_l
    s = tl.zeros((M, N), tl.float32)
    for e in range(0, D, BK):
        dims = e + tl.arange(0, BK)
        q = tl.load(q_rows + dims[None, :], mask=some[:, None] & (dims < D)[None, :], other=0.0).to(COMPUTE)  # (m, e)
        ok = key_ok[:, None] & (dims < D)[None, :]
        k = tl.load(k_rows + dims[None, :], mask=ok, other=0.0).to(COMPUTE)  # (n, e)
        if tl.float32 == COMPUTE:
            centre = _finite(tl.load(centre_at + dims, mask=dims < D, other=0.0))
            s = tl.dot(q, tl.trans(tl.where(ok, k - centre[None, :], 0.0)), s, input_precision="tf32x3")
        else:
            s = tl.dot(q, tl.trans(k), s)
    visible = (cols[None, :] >= lo[:, None]) & (cols[None, :] < hi[:, None])
    return tl.where(visible, s - offset[:, None], 0.0), key_ok


@triton.jit
def _finite(x):
    """Zero for what is no number: another sequence's NaN in a shared chunk is no reason to lose this one's sums."""
    return tl.where((x == x) & (tl.abs(x) < float("inf")), x, 0.0)


@triton.jit
def share_kernel(
    Q, K, LO, HI, SEEN, TABLE, WHOLE, MEAN, CENTRE, STATE, OUT, first_head, n_heads, group, n_rows, n_keys, n_chunks,
    q_b, q_h, q_l, k_b, k_h, k_l, D: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, C: tl.constexpr, SUBS: tl.constexpr, COMPUTE: tl.constexpr,
):
    """Σ_i q_id Σ_j (s_ij - mean s_i) (k_jd - centre_d) / n_i over the rows i of a tile and their visible keys j.

    Keys are taken about a centre of their neighbourhood: the mean of the whole chunks that the block's rows share, or
    of the chunk where the rows begin. Shared chunks enter as state @ q (their s - mean s needs no mean: keys about
    their own mean add to 0); the ragged rest twice, first for the rows' mean scores, then against the keys.
    """
    sub = tl.program_id(0) % SUBS
    block = tl.program_id(0) // SUBS // (n_heads * group)
    head = tl.program_id(0) // SUBS % (n_heads * group)
    batch = tl.load(TABLE + 3 * block)
    first_row = tl.load(TABLE + 3 * block + 1) + sub * M
    rows = first_row + tl.arange(0, M)
    row_ok = rows < tl.load(TABLE + 3 * block + 2)
    lo = tl.load(LO + batch.to(tl.int64) * n_rows + rows, mask=row_ok, other=0)
    hi = tl.load(HI + batch.to(tl.int64) * n_rows + rows, mask=row_ok, other=0)
    some = hi > lo
    low = tl.min(tl.where(some, lo, FAR), 0)
    high = tl.max(tl.where(some, hi, 0), 0)
    full_lo = tl.load(WHOLE + 2 * block) * C
    full_hi = tl.load(WHOLE + 2 * block + 1) * C
    start = tl.minimum(low, high) // N * N
    if full_hi == full_lo:
        full_lo = start
        full_hi = start
    skipped = tl.where(high > 0, full_hi - full_lo, 0)

    q_head = Q + batch.to(tl.int64) * q_b + (first_head * group + head).to(tl.int64) * q_h
    q_rows = q_head + first_row.to(tl.int64) * q_l + tl.arange(0, M)[:, None] * q_l
    key_head = head // group
    state_slot = block.to(tl.int64) * n_heads + key_head
    chunk_slot = (batch.to(tl.int64) * n_heads + key_head) * n_chunks + tl.minimum(start // C, n_chunks - 1)
    centre_at = MEAN + chunk_slot * D
    if skipped > 0:
        centre_at = CENTRE + state_slot * D
    offset = tl.zeros((M,), tl.float32)
    if tl.float32 != COMPUTE:
        for e in range(0, D, BE):
            dims = e + tl.arange(0, BE)
            q = tl.load(q_rows + dims[None, :], mask=some[:, None] & (dims < D)[None, :], other=0.0).to(tl.float32)
            offset += tl.sum(q * _finite(tl.load(centre_at + dims, mask=dims < D, other=0.0))[None, :], 1)
    k_base = K + batch.to(tl.int64) * k_b + (first_head + key_head).to(tl.int64) * k_h
    SEEN += batch.to(tl.int64) * n_keys

    total = tl.zeros((M,), tl.float32)
    for at in range(start, high - skipped, N):
        first = tl.where(at < full_lo, at, at + skipped)
        s, _ok = _tile_scores(
            q_rows, some, offset, centre_at, k_base, k_l, SEEN, first, low, high, n_keys, lo, hi, D, BK, M, N,
            COMPUTE,
        )
        total += tl.sum(s, 1)
    n = tl.where(some, hi - lo, 1).to(tl.float32)
    offset += total / n  # (m,) the row's mean score

    out_dims = tl.program_id(1) * BD + tl.arange(0, BD)
    out_centre = _finite(tl.load(centre_at + out_dims, mask=out_dims < D, other=0.0))
    acc = tl.zeros((M, BD), tl.float32)
    rest = tl.zeros((M,), tl.float32)
    for at in range(start, high - skipped, N):
        first = tl.where(at < full_lo, at, at + skipped)
        g, key_ok = _tile_scores(
            q_rows, some, offset, centre_at, k_base, k_l, SEEN, first, low, high, n_keys, lo, hi, D, BK, M, N,
            COMPUTE,
        )
        rest += tl.sum(g, 1)
        ok = key_ok[:, None] & (out_dims < D)[None, :]
        k_tile = k_base + first * tl.cast(k_l, tl.int64) + (tl.arange(0, N)[:, None] * k_l + out_dims[None, :])
        k = tl.load(k_tile, mask=ok, other=0.0).to(COMPUTE)  # (n, d)
        if tl.float32 == COMPUTE:
            k = tl.where(ok, k - out_centre[None, :], 0.0)
            acc = tl.dot(g, k, acc, input_precision="tf32x3")
        else:  # three parts hold all bits of g, so that keys far from 0 cost no more digits than in fp32
            g_high = g.to(COMPUTE)
            g -= g_high.to(tl.float32)
            g_low = g.to(COMPUTE)
            acc = tl.dot(g_high, k, acc)
            acc = tl.dot(g_low, k, acc)
            acc = tl.dot((g - g_low.to(tl.float32)).to(COMPUTE), k, acc)
    if tl.float32 != COMPUTE:
        acc -= rest[:, None] * out_centre[None, :]

    if skipped > 0:
        for e in tl.range(0, D, BE, num_stages=1):  # pipelined, its loads would spill
            inner = e + tl.arange(0, BE)
            part = tl.load(q_rows + inner[None, :], mask=some[:, None] & (inner < D)[None, :], other=0.0).to(COMPUTE)
            # the state is symmetric: read as (d, e), so that the product's inner axis is the one in rows
            state_at = STATE + state_slot * D * D + (out_dims[:, None] * D + inner[None, :])
            state = tl.load(state_at, mask=(out_dims < D)[:, None] & (inner < D)[None, :], other=0.0)  # (d, e)
            if tl.float32 == COMPUTE:
                acc = tl.dot(part, tl.trans(state), acc, input_precision="tf32x3")
            else:
                state_high = state.to(COMPUTE)
                acc = tl.dot(part, tl.trans(state_high), acc)
                acc = tl.dot(part, tl.trans((state - state_high.to(tl.float32)).to(COMPUTE)), acc)

    q_out = tl.load(q_rows + out_dims[None, :], mask=some[:, None] & (out_dims < D)[None, :], other=0.0).to(tl.float32)
    out = (block.to(tl.int64) * SUBS + sub) * (n_heads * group) + head
    tl.store(OUT + out * D + out_dims, tl.sum(q_out * acc / n[:, None], 0), mask=out_dims < D)
