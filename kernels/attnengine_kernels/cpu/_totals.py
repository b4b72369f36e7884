"""The sums of :mod:`._scan` where all rows of a window see the same keys (no causal mask): totals instead of prefixes.

Σ_ij q_id k_jd = (Σ_i q_id)(Σ_j k_jd), max_ij q_id k_jd is one of four products of extremes, and so on.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from attnengine_kernels.cpu._exp import f64
from attnengine_kernels.cpu._scan import ADD, HIGH, LOW, NEAR, NEAR_DISTANCE, NEAR_SQUARE, POSITIVE, QK, SQUARE

# Totals over one side: x, x², number > 0, number < 0, x / |x|, and over tokens with a position x, x², position · x.
SUM, SQUARES, MORE, LESS, UNIT, PLACED, PLACED_SQUARES, MOMENT, LEAST, MOST = range(10)


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _add(x, factor, out):
    for e in range(x.shape[0]):
        out[e] += factor * x[e]


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _add_square(x, out):
    for e in range(x.shape[0]):
        v = f64(x[e])
        out[e] += v * v


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _add_sign(x, sign, out):
    for e in range(x.shape[0]):
        out[e] += 1.0 if sign * x[e] > 0 else 0.0


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _raise(x, sign, out):
    for e in range(x.shape[0]):
        v = sign * x[e]
        out[e] = v if v > out[e] else out[e]


@njit(cache=True, nogil=True, _nrt=False)
def _totals(x, norm, begin, end, counts, placed, shift, total):
    """Totals over rows [begin, end) of x (l, d), but those where ``counts`` is 0; position = index - shift."""
    total[:] = 0.0
    total[LEAST], total[MOST] = -np.inf, -np.inf
    for j in range(begin, end):
        if counts[j] == 0:
            continue
        row = x[j]
        _add(row, 1.0, total[SUM])
        _add_square(row, total[SQUARES])
        _add_sign(row, 1.0, total[MORE])
        _add_sign(row, -1.0, total[LESS])
        _add(row, 1 / norm[j] if norm[j] != 0 else 0.0, total[UNIT])
        _raise(row, -1.0, total[LEAST])
        _raise(row, 1.0, total[MOST])
        if placed[0] <= j < placed[1]:
            _add(row, f64(j - shift), total[MOMENT])
    for e in range(x.shape[1]):
        total[LEAST, e] *= -1
        total[PLACED, e], total[PLACED_SQUARES, e] = total[SUM, e], total[SQUARES, e]
    for j in range(begin, end):  # prefix tokens of images, or padding, have no position: few
        if counts[j] != 0 and not placed[0] <= j < placed[1]:
            _add(x[j], -1.0, total[PLACED])
            for e in range(x.shape[1]):
                total[PLACED_SQUARES, e] -= f64(x[j, e]) * x[j, e]


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _add_distance(q, here, left, moment, number, whole, out):
    """Adds q (i (2 left - all) - (2 left moment - all moment)) = q Σ_j |i - j| k_j."""
    for e in range(q.shape[0]):
        out[e] += q[e] * (here * (2 * left[e] - number[e]) - (2 * moment[e] - whole[e]))


@njit(cache=True, nogil=True, _nrt=False)
def _distances(q, k, seen, position, shift, begin, end, total, left, moment, out):
    """Σ_i q_i Σ_j |i - j| k_j over keys [begin, end), which have positions, for rows in order of theirs."""
    left[:], moment[:], reached = 0.0, 0.0, begin
    for i in range(q.shape[0]):
        if seen[i] == 0 or position[i] < 0:
            continue
        while reached < end and reached - shift <= position[i]:
            _add(k[reached], 1.0, left)
            _add(k[reached], f64(reached - shift), moment)
            reached += 1
        _add_distance(q[i], f64(position[i]), left, moment, total[PLACED], total[MOMENT], out)


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD)
def _combine(a, b, out):
    """The sums over all pairs from the totals of queries ``a`` and of keys ``b``; returns Σ of cosines."""
    cosine = 0.0
    for e in range(a.shape[1]):
        out[QK, e] = a[SUM, e] * b[SUM, e]
        out[SQUARE, e] = a[SQUARES, e] * b[SQUARES, e]
        out[POSITIVE, e] = a[MORE, e] * b[MORE, e] + a[LESS, e] * b[LESS, e]
        out[NEAR, e] = a[PLACED, e] * b[PLACED, e]
        out[NEAR_SQUARE, e] = a[PLACED_SQUARES, e] * b[PLACED_SQUARES, e]
        cosine += a[UNIT, e] * b[UNIT, e]
        w, x = a[LEAST, e] * b[LEAST, e], a[LEAST, e] * b[MOST, e]
        y, z = a[MOST, e] * b[LEAST, e], a[MOST, e] * b[MOST, e]
        out[LOW, e], out[HIGH, e] = min(min(w, x), min(y, z)), max(max(w, x), max(y, z))
    return cosine


@njit(cache=True, nogil=True, _nrt=False)
def _totals_group(
    q, k, q_norm, k_norm, begin, end, seen, rows, position, key_shift, placed, images, cross, work, out, cosine
):
    """One key head of one window and the query heads that read it."""
    keys, queries, left, moment = work[:10], work[10:20], work[20], work[21]
    near = (max(begin, placed[0]), min(end, placed[1]))
    _totals(k, k_norm, begin, end, rows, near, key_shift, keys)
    first = 0
    while first < position.shape[0] and position[first] < 0:
        first += 1
    last = first
    while last < position.shape[0] and position[last] >= 0:
        last += 1
    for head in range(q.shape[0]):
        _totals(q[head], q_norm[head], 0, q.shape[1], seen, (first, last), 0, queries)
        cosine[head] = _combine(queries, keys, out[head])
        if not cross and not images:
            _distances(
                q[head], k, seen, position, key_shift, near[0], near[1], keys, left, moment, out[head, NEAR_DISTANCE]
            )


@njit(cache=True, nogil=True, _nrt=False)
def totals_pass(
    query, key, q_norm, k_norm, begin, end, seen, rows, position, key_shift, placed, images, cross, work, sums,
    cosine,
):  # fmt: skip
    """As :func:`._scan.scan_pass`, for a window whose rows all see keys [begin, end).

    ``q_norm`` (h, q) and ``k_norm`` (hkv, k) fp64 lengths; ``seen`` (q,) and ``rows`` (k,), 0 for what does not count;
    ``work`` (22, d) fp64 is room to work in. All but the shares, for which see :mod:`._shares`, and the distances of
    images.
    """
    group = query.shape[0] // key.shape[0]
    for one in range(key.shape[0]):
        first, last = one * group, (one + 1) * group
        _totals_group(
            query[first:last], key[one], q_norm[first:last], k_norm[one], begin, end, seen, rows, position, key_shift,
            placed, images, cross, work, sums[first:last], cosine[first:last],
        )  # fmt: skip
