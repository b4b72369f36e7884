"""The sums of :mod:`._scan` where all rows of a window see the same keys (no causal mask): totals instead of prefixes.

Σ_ij q_id k_jd = (Σ_i q_id)(Σ_j k_jd), max_ij q_id k_jd is one of four products of extremes, and so on. Totals are taken
token by token over all heads of a piece: where they lie side by side in memory, as transformers leaves them, a token is
one long row, which is read once and in order.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from attnengine_kernels.cpu._exp import ONE, ZERO, f32, f64
from attnengine_kernels.cpu._scan import ADD, HIGH, LOW, NEAR, NEAR_DISTANCE, NEAR_SQUARE, POSITIVE, QK, SQUARE

# Totals over one side: x, x², number > 0, number < 0, x / |x|, index · x, least, greatest; and over the tokens with a
# position x, x², position · x.
SUM, SQUARES, MORE, LESS, UNIT, INDEX, LEAST, MOST, PLACED, PLACED_SQUARES, MOMENT = range(11)
ADDED = LEAST  # the totals before it are fp32 sums over a block of tokens, added up in fp64
FACTOR = 8  # the row of a block that holds 1 / |x|
BLOCK = 32  # tokens of a block


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _powers(x, first, second):
    for e in range(x.shape[0]):
        first[e] += x[e]
        second[e] += x[e] * x[e]


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _signs(x, more, less):
    for e in range(x.shape[0]):
        more[e] += ONE if x[e] > ZERO else ZERO
        less[e] += ONE if x[e] < ZERO else ZERO


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _weighted(x, factor, number, unit, index):
    for e in range(x.shape[0]):
        unit[e] += factor[e] * x[e]
        index[e] += number * x[e]


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _extremes(x, low, high):
    for e in range(x.shape[0]):
        low[e] = x[e] if x[e] < low[e] else low[e]
        high[e] = x[e] if x[e] > high[e] else high[e]


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _add(x, factor, out):
    for e in range(x.shape[0]):
        out[e] += factor * x[e]


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _add_square(x, out):
    for e in range(x.shape[0]):
        v = f64(x[e])
        out[e] += v * v


@njit(cache=True, nogil=True, _nrt=False)
def _flush(block, begin, total):
    """Adds the block's sums, whose index counts from ``begin``, to the totals, and clears them."""
    for one in range(ADDED):
        _add(block[one], 1.0, total[one])
    _add(block[SUM], f64(begin), total[INDEX])
    block[:ADDED] = ZERO


@njit(cache=True, nogil=True, _nrt=False)
def side_pass(x, strides, w, first, counts, placed, norm, block, total):
    """Sets ``total`` (11, heads · d) fp64 to the totals of one side of window ``w``, heads from ``first``.

    ``x`` flat fp32 memory with ``strides`` of (window, head, token); ``counts`` (l,), 0 for tokens to leave out;
    ``placed``, begin and end of the tokens with a position; MOMENT counts the token's index, not its position;
    ``norm`` (heads, l) fp64 lengths; ``block`` (9, heads · d) fp32 is room to work in.
    """
    heads, n = norm.shape
    d, factor = total.shape[1] // heads, block[FACTOR]
    segments = 1 if strides[1] == d else heads
    width = heads * d // segments
    begin, number = 0, 0
    block[:ADDED], total[:ADDED] = ZERO, 0.0
    block[LEAST], block[MOST] = np.inf, -np.inf
    for j in range(n):
        if counts[j] == 0:
            continue
        if number % BLOCK == 0:
            _flush(block, begin, total)
            begin = j
        number += 1
        for one in range(heads):
            factor[one * d : (one + 1) * d] = f32(1 / norm[one, j]) if norm[one, j] != 0 else ZERO
        for s in range(segments):
            at, here = w * strides[0] + (first + s) * strides[1] + j * strides[2], slice(s * width, (s + 1) * width)
            row = x[at : at + width]
            _powers(row, block[SUM, here], block[SQUARES, here])
            _signs(row, block[MORE, here], block[LESS, here])
            _weighted(row, factor[here], f32(j - begin), block[UNIT, here], block[INDEX, here])
            _extremes(row, block[LEAST, here], block[MOST, here])
    _flush(block, begin, total)
    everywhere = _all_placed(counts, placed)
    for e in range(total.shape[1]):
        total[LEAST, e], total[MOST, e] = block[LEAST, e], block[MOST, e]
        total[PLACED, e] = total[SUM, e] if everywhere else 0.0
        total[PLACED_SQUARES, e] = total[SQUARES, e] if everywhere else 0.0
        total[MOMENT, e] = total[INDEX, e] if everywhere else 0.0
    if not everywhere:  # prefix tokens of images
        for j in range(placed[0], placed[1]):
            for one in range(heads):
                at, here = w * strides[0] + (first + one) * strides[1] + j * strides[2], slice(one * d, (one + 1) * d)
                if counts[j] != 0:
                    _add(x[at : at + d], 1.0, total[PLACED, here])
                    _add_square(x[at : at + d], total[PLACED_SQUARES, here])
                    _add(x[at : at + d], f64(j), total[MOMENT, here])


@njit(cache=True, nogil=True, _nrt=False)
def _all_placed(counts, placed):
    outside = 0
    for j in range(counts.shape[0]):
        outside += counts[j] != 0 and not placed[0] <= j < placed[1]
    return outside == 0


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _add_distance(q, here, left, moment, number, whole, out):
    """Adds q (i (2 left - all) - (2 left moment - all moment)) = q Σ_j |i - j| k_j."""
    for e in range(q.shape[0]):
        out[e] += q[e] * (here * (2 * left[e] - number[e]) - (2 * moment[e] - whole[e]))


@njit(cache=True, nogil=True, _nrt=False)
def distance_pass(
    query, query_strides, key, key_strides, w, first_query, first_key, d, seen, position, shift, near, keys, left, out
):
    """Sets ``out`` (h · d,) fp64 to Σ_i q_i Σ_j |i - j| k_j over keys [near), which have positions, in order of rows'.

    ``query``, ``key`` flat fp32 memory and strides of (window, head, token); ``keys`` (11, hkv · d) the keys' totals
    of :func:`side_pass`; ``left`` (2, hkv · d) fp64 is room to work in: sums over the keys up to the row's position.
    """
    heads, key_heads = out.shape[0] // d, left.shape[1] // d
    group, joint = heads // key_heads, query_strides[1] == d and key_strides[1] == d
    segments = 1 if joint and heads == key_heads else heads  # all heads at once, or one after the other
    width, key_segments = out.shape[0] // segments, 1 if joint else key_heads
    key_width = left.shape[1] // key_segments
    left[:], out[:], reached = 0.0, 0.0, near[0]
    for i in range(seen.shape[0]):
        if seen[i] == 0 or position[i] < 0:
            continue
        here = position[i] + shift  # as an index of keys
        while reached < near[1] and reached <= here:
            for s in range(key_segments):
                at = w * key_strides[0] + (first_key + s) * key_strides[1] + reached * key_strides[2]
                row, there = key[at : at + key_width], slice(s * key_width, (s + 1) * key_width)
                _add(row, 1.0, left[0, there])
                _add(row, f64(reached), left[1, there])
            reached += 1
        for s in range(segments):
            at = w * query_strides[0] + (first_query + s) * query_strides[1] + i * query_strides[2]
            of_key = slice(s // group * width, (s // group + 1) * width)
            _add_distance(query[at : at + width], f64(here), left[0, of_key], left[1, of_key], keys[PLACED, of_key],
                          keys[MOMENT, of_key], out[s * width : (s + 1) * width])  # fmt: skip


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD)
def combine_pass(queries, keys, distance, sums, cosine):
    """Sets the sums over all pairs, and ``cosine`` (h,), from the totals of both sides, as :func:`._scan.scan_pass`.

    ``queries`` (11, h · d), ``keys`` (11, hkv · d) of :func:`side_pass`; ``distance`` (h · d,); ``sums`` (h, sums, d).
    """
    heads, _, d = sums.shape
    group = queries.shape[1] // keys.shape[1]
    for head in range(heads):
        out, total = sums[head], 0.0
        a = queries[:, head * d : (head + 1) * d]
        b = keys[:, head // group * d : (head // group + 1) * d]
        for e in range(d):
            out[QK, e] = a[SUM, e] * b[SUM, e]
            out[SQUARE, e] = a[SQUARES, e] * b[SQUARES, e]
            out[POSITIVE, e] = a[MORE, e] * b[MORE, e] + a[LESS, e] * b[LESS, e]
            out[NEAR, e] = a[PLACED, e] * b[PLACED, e]
            out[NEAR_SQUARE, e] = a[PLACED_SQUARES, e] * b[PLACED_SQUARES, e]
            out[NEAR_DISTANCE, e] = distance[head * d + e]
            total += a[UNIT, e] * b[UNIT, e]
            w, x = a[LEAST, e] * b[LEAST, e], a[LEAST, e] * b[MOST, e]
            y, z = a[MOST, e] * b[LEAST, e], a[MOST, e] * b[MOST, e]
            out[LOW, e], out[HIGH, e] = min(min(w, x), min(y, z)), max(max(w, x), max(y, z))
        cosine[head] = total


@njit(cache=True, nogil=True, _nrt=False)
def totals_pass(
    query, query_strides, key, key_strides, w, first_query, first_key, query_norm, key_norm, interval, seen, rows,
    position, shift, query_placed, placed, apart, query_room, key_room, queries, keys, left, distance, sums, cosine,
):  # fmt: skip
    """As :func:`._scan.scan_pass`, for window ``w``, whose rows all see the keys of ``interval``.

    Arguments as of :func:`side_pass` and :func:`distance_pass`; ``seen`` (q,) and ``rows`` (k,), 0 for what does not
    count; ``apart`` says that |i - j| is not the distance (images) or that there is none (cross-attention). Room to
    work in: ``query_room`` (9, h · d) and ``key_room`` (9, hkv · d) fp32; ``queries`` (11, h · d), ``keys``
    (11, hkv · d), ``left`` (2, hkv · d) and ``distance`` (h · d,) fp64. Sets ``sums`` (h, sums, d) but for the shares
    (:mod:`._shares`) and the distances of images, and ``cosine`` (h,).
    """
    side_pass(query, query_strides, w, first_query, seen, query_placed, query_norm, query_room, queries)
    side_pass(key, key_strides, w, first_key, rows, placed, key_norm, key_room, keys)
    near = (max(interval[0], placed[0]), min(interval[1], placed[1]))
    distance[:] = 0.0
    if near[0] < near[1] and not apart:
        distance_pass(query, query_strides, key, key_strides, w, first_query, first_key, sums.shape[2], seen, position,
                      shift, near, keys, left, distance)  # fmt: skip
    combine_pass(queries, keys, distance, sums, cosine)
