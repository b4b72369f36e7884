"""layout.py compiled: the same steps to the bit, with forces in blocks that the processor's vector units fill.

Due edges are collected first, then all forces of a block are computed side by side, then added one after the other in
the order of the specification. Nothing here may be reassociated or contracted (no fastmath): the bits are the contract.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
from numba import njit

from attnengine.embedding.curve import EXP2, LOG2, SQRT_HALF_BITS, TINY, f32
from attnengine.embedding.layout import (
    CLIP,
    GOLDEN,
    LOW_BITS,
    NEAR,
    NEGATIVES,
    PARTS,
    SECOND,
    THIRD,
    Descent,
    Schedule,
    step_key,
    step_sizes,
)

BLOCK = 512  # due edges a block: its buffers stay in the first cache
L0, L1, L2, L3, L4, L5, L6, L7 = LOG2
E0, E1, E2, E3, E4, E5 = EXP2
u32 = np.uint32
ONE, TWO = f32(1), f32(2)
S13, S16, S23, BIAS = np.uint32(13), np.uint32(16), np.int32(23), np.int32(127)
S32 = np.uint64(32)


@njit(cache=True, nogil=True, inline="always")
def mixed(x):
    """layout.mix of one uint32."""
    x = u32(u32(x ^ (x >> S16)) * SECOND)
    x = u32(u32(x ^ (x >> S13)) * THIRD)
    return u32(x ^ (x >> S16))


@njit(cache=True, nogil=True, inline="always")
def _power(x, b):
    bits = f32(x).view(np.int32)
    whole = np.int32(np.int32(bits - SQRT_HALF_BITS) >> S23)
    t = np.int32(bits - np.int32(whole << S23)).view(np.float32) - ONE
    log = ((((((L7 * t + L6) * t + L5) * t + L4) * t + L3) * t + L2) * t + L1) * t + L0
    e = (f32(whole) + log * t) * b
    nearest = np.rint(e)
    r = e - nearest
    scale = np.int32(np.int32(np.int32(nearest) + BIAS) << S23).view(np.float32)
    return (((((E5 * r + E4) * r + E3) * r + E2) * r + E1) * r + E0) * scale


@njit(cache=True, nogil=True)
def _pull(y, own, tail, m, apart, force, a, b, size):
    """force[0] (dims, BLOCK): attraction of m due edges."""
    dims = y.shape[0]
    _separate(y, own, tail, m, apart)
    top, step = f32(-2) * a * b, TWO * size
    for e in range(m):
        d2 = max(apart[dims, e], TINY)
        p = _power(d2, b)
        apart[dims, e] = top * p / (d2 * (ONE + a * p))
    for d in range(dims):
        for e in range(m):
            force[d, e] = min(max(apart[d, e] * apart[dims, e], -CLIP), CLIP) * step


@njit(cache=True, nogil=True)
def _push(y, own, tail, m, apart, force, a, b, size):
    """force[k] (dims, BLOCK): repulsion of one negative for each of m due edges."""
    dims = y.shape[0]
    _separate(y, own, tail, m, apart)
    top = TWO * b
    for e in range(m):
        d2 = max(apart[dims, e], TINY)
        p = _power(d2, b)
        apart[dims, e] = top / ((NEAR + d2) * (ONE + a * p))
    for d in range(dims):
        for e in range(m):
            force[d, e] = min(max(apart[d, e] * apart[dims, e], -CLIP), CLIP) * size


@njit(cache=True, nogil=True)
def _separate(y, own, other, m, apart):
    """Differences in apart[:dims], squared distances in apart[dims]."""
    dims = y.shape[0]
    for d in range(dims):
        for e in range(m):
            apart[d, e] = y[d, own[e]] - y[d, other[e]]
    for e in range(m):
        apart[dims, e] = apart[0, e] * apart[0, e]
    for d in range(1, dims):
        for e in range(m):
            apart[dims, e] = apart[dims, e] + apart[d, e] * apart[d, e]


@njit(cache=True, nogil=True)
def _block(y, out, own, other, keys, m, apart, force, a, b, size):
    """Add all forces of m due edges to ``out`` (dims, n)."""
    dims, n = y.shape
    _pull(y, own, other, m, apart, force[0], a, b, size)
    for k in range(NEGATIVES):
        salt = u32(u32(k + 1) * SECOND)
        for e in range(m):
            other[e] = np.int32((np.uint64(mixed(u32(keys[e] + salt))) * np.uint64(n)) >> S32)
        _push(y, own, other, m, apart, force[k + 1], a, b, size)
    for d in range(dims):
        for e in range(m):
            total = out[d, own[e]]
            for k in range(NEGATIVES + 1):
                total += force[k, d, e]
            out[d, own[e]] = total


@njit(cache=True, nogil=True)
def _step(y, out, first, last, low, high, heads, tails, rates, epoch, key, a, b, size):
    """One step for the vertices first…last, whose edges are low…high: y (dims, n) → out (dims, n)."""
    dims = y.shape[0]
    own, other, keys = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32), np.empty(BLOCK, np.uint32)
    apart = np.empty((dims + 1, BLOCK), np.float32)
    force = np.empty((NEGATIVES + 1, dims, BLOCK), np.float32)
    for d in range(dims):
        out[d, first:last] = y[d, first:last]
    m = 0
    for e in range(low, high):
        if u32(u32(epoch * rates[e]) & LOW_BITS) < rates[e]:
            own[m], other[m], keys[m] = heads[e], tails[e], mixed(u32(key ^ u32(u32(e) * GOLDEN)))
            m += 1
            if m == BLOCK:
                _block(y, out, own, other, keys, m, apart, force, a, b, size)
                m = 0
    _block(y, out, own, other, keys, m, apart, force, a, b, size)


def lay_out(start: np.ndarray, plan: Schedule, descent: Descent, *, threads: int = 1) -> np.ndarray:
    """The positions (n, dims) fp32 after all epochs, from ``start`` (n, dims); ``threads`` changes no bit of them."""
    y = np.ascontiguousarray(start.T, f32)
    out = np.empty_like(y)
    cuts = np.linspace(0, plan.n, threads + 1).astype(np.int64).tolist()
    with ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:
        for epoch in range(1, descent.epochs + 1):
            for part in range(PARTS):
                _run_step(pool, y, out, cuts, plan, descent, epoch, part)
                y, out = out, y
    return np.ascontiguousarray(y.T)


def _run_step(
    pool: Any, y: np.ndarray, out: np.ndarray, cuts: list[int], plan: Schedule, descent: Descent, epoch: int, part: int
) -> None:
    """One step on every thread of the pool."""
    key, size = step_key(descent.seed, epoch, part), step_sizes(descent, epoch)
    a, b, starts = f32(descent.a), f32(descent.b), plan.starts[part]

    def work(first: int, last: int) -> None:
        _step(
            y, out, first, last, starts[first], starts[last], plan.head, plan.tail, plan.rate, u32(epoch), key, a, b,
            size,
        )  # fmt: skip

    list((pool.map if pool else map)(work, cuts[:-1], cuts[1:]))
