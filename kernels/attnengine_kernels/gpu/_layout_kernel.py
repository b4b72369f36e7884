"""The jitted step of a layout (see :mod:`.layout`): one program per head and block of vertices.

One thread moves one vertex: it walks the vertex' own edges and gathers the positions they name, so no sum depends on
another program. Compiled without contraction and with correctly rounded division, every operation here is IEEE 754's,
in the order of the specification: the bits are those of the CPU.
"""

# fmt: off
# (one line per argument would bury the formulas)
from __future__ import annotations

import triton
import triton.language as tl

ROUND = tl.constexpr(12582912.0)  # 1.5·2^23: adding and subtracting it rounds to an integer, halves to even


@triton.jit
def _mixed(x, SECOND: tl.constexpr, THIRD: tl.constexpr):
    """Murmur3's 32-bit finaliser of uint32."""
    x = (x ^ (x >> 16)) * SECOND
    x = (x ^ (x >> 13)) * THIRD
    return x ^ (x >> 16)


@triton.jit
def _power(x, b, POWER: tl.constexpr):
    """x^b by the two polynomials ``POWER`` = (log2's eight, exp2's six, √½'s bits)."""
    bits = x.to(tl.int32, bitcast=True)
    whole = (bits - POWER[14]) >> 23
    t = (bits - (whole << 23)).to(tl.float32, bitcast=True) - 1.0
    log = POWER[7] * t + POWER[6]
    for i in tl.static_range(5, -1, -1):
        log = log * t + POWER[i]
    e = (whole.to(tl.float32) + log * t) * b
    nearest = (e + ROUND) - ROUND
    r = e - nearest
    exp = POWER[13] * r + POWER[12]
    for i in tl.static_range(11, 7, -1):
        exp = exp * r + POWER[i]
    return exp * ((nearest.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _clipped(x, CLIP: tl.constexpr):
    return tl.minimum(tl.maximum(x, -CLIP), CLIP)


@triton.jit(do_not_specialize=["epoch", "part", "a", "b", "pull", "push", "size"])
def layout_kernel(
    Y, OUT, FIRST_VERTEX, FIRST_EDGE, STARTS, TAIL, RATE, SEED, epoch, part, a, b, pull, push, size,
    DIMS: tl.constexpr, PARTS: tl.constexpr, NEGATIVES: tl.constexpr, HASH: tl.constexpr, POWER: tl.constexpr,
    TINY: tl.constexpr, NEAR: tl.constexpr, CLIP: tl.constexpr, BLOCK: tl.constexpr,
):
    """One step of all heads: Y (n, DIMS) → OUT (n, DIMS). HASH: the three constants of the specification's hashes."""
    head = tl.program_id(1)
    base = tl.load(FIRST_VERTEX + head)
    n = (tl.load(FIRST_VERTEX + head + 1) - base).to(tl.int32)
    v = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = v < n
    row = STARTS + PARTS * (base + head) + part.to(tl.int64) * (n + 1) + v
    first = tl.load(row, mask=real, other=0)
    edges = tl.load(row + 1, mask=real, other=0) - first
    edge_base = tl.load(FIRST_EDGE + head)
    step = (epoch * PARTS + part).to(tl.uint32)
    seed = tl.load(SEED + head).to(tl.uint32, bitcast=True)
    step_key = _mixed(_mixed(step + HASH[0], HASH[1], HASH[2]) ^ seed, HASH[1], HASH[2])
    own = Y + (base + v) * DIMS
    x0 = tl.load(own, mask=real, other=0.0)
    x1 = tl.load(own + 1, mask=real, other=0.0)
    x2 = x0
    if DIMS == 3:
        x2 = tl.load(own + 2, mask=real, other=0.0)
    s0, s1, s2 = x0, x1, x2
    for t in range(tl.max(edges, 0)):
        e = first + t
        there = t < edges
        rate = tl.load(RATE + edge_base + e, mask=there, other=0).to(tl.uint32, bitcast=True)
        due = ((epoch.to(tl.uint32) * rate) & 0x7FFFFFFF) < rate  # never for rate 0
        edge_key = _mixed(step_key ^ (e.to(tl.uint32) * HASH[0]), HASH[1], HASH[2])
        for k in tl.static_range(NEGATIVES + 1):
            if k == 0:
                other = tl.load(TAIL + edge_base + e, mask=due, other=0)
            else:
                drawn = _mixed(edge_key + tl.full((), k, tl.uint32) * HASH[1], HASH[1], HASH[2])
                other = tl.umulhi(drawn, n.to(tl.uint32)).to(tl.int32)
            at = Y + (base + other) * DIMS
            d0 = x0 - tl.load(at, mask=due, other=0.0)
            d1 = x1 - tl.load(at + 1, mask=due, other=0.0)
            d2 = d0
            square = d0 * d0 + d1 * d1
            if DIMS == 3:
                d2 = x2 - tl.load(at + 2, mask=due, other=0.0)
                square = square + d2 * d2
            square = tl.maximum(square, TINY)
            p = _power(square, b, POWER)
            if k == 0:
                g = tl.div_rn(pull * p, square * (1.0 + a * p))
                length = 2.0 * size
            else:
                g = tl.div_rn(push, (NEAR + square) * (1.0 + a * p))
                length = size
            s0 = tl.where(due, s0 + _clipped(d0 * g, CLIP) * length, s0)
            s1 = tl.where(due, s1 + _clipped(d1 * g, CLIP) * length, s1)
            if DIMS == 3:
                s2 = tl.where(due, s2 + _clipped(d2 * g, CLIP) * length, s2)
    out = OUT + (base + v) * DIMS
    tl.store(out, s0, mask=real)
    tl.store(out + 1, s1, mask=real)
    if DIMS == 3:
        tl.store(out + 2, s2, mask=real)
