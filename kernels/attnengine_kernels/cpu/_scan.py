"""What factors: moments of x_ijd = q_id k_jd over visible pairs in O(L D), and the score variance's shares in O(L D²).

Rows see the keys [lo_i, hi_i), so every Σ_j over a row is a difference of prefix sums, kept in fp64 (from fp32 inputs
they lose nothing that matters); extremes come from running ones, or from a table of power-of-two blocks where lo
moves. Only a bias of -inf, which hides pairs inside the interval, takes the plain loop over pairs.
The share of a neuron in the score's variance: Cov_j(x_ijd, s_ij) = c q_id (Σ_i q_i)_d, Σ_i the keys' covariance.
"""

from __future__ import annotations

import math

from numba import njit

from attnengine_kernels.cpu._exp import f64

ADD = {"reassoc", "contract", "nsz"}

#: Rows of the result (b, h, len(NEURON_SUMS), d).
NEURON_SUMS = ("qk", "qk_square", "qk_positive", "near", "near_square", "near_distance", "share", "qk_min", "qk_max")
QK, SQUARE, POSITIVE, NEAR, NEAR_SQUARE, NEAR_DISTANCE, SHARE, LOW, HIGH = range(len(NEURON_SUMS))
# Prefix sums over keys: k, k², 1[k > 0], 1[k < 0], k / |k|, and over keys with a position k, k², position · k.
P_KEY, P_SQUARE, P_POSITIVE, P_NEGATIVE, P_UNIT, P_NEAR, P_NEAR_SQUARE, P_MOMENT = range(8)


# LLVM vectorises a loop only if few arrays could overlap (it checks at most eight pairs): hence the small loops.


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _step(old, new, x, factor):
    for e in range(x.shape[0]):
        new[e] = old[e] + factor * x[e]


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _add(x, factor, out):
    for e in range(x.shape[0]):
        out[e] += factor * x[e]


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _step_square(old, new, x, factor):
    for e in range(x.shape[0]):
        v = f64(x[e])
        new[e] = old[e] + factor * v * v


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _step_sign(old, new, x, sign):
    for e in range(x.shape[0]):
        new[e] = old[e] + (1.0 if sign * x[e] > 0 else 0.0)


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _norm(x):
    square = 0.0
    for e in range(x.shape[0]):
        square += f64(x[e]) * x[e]
    return math.sqrt(square)


@njit(cache=True, nogil=True, _nrt=False)
def _prefixes(key, placed, key_shift, sums):
    """Sets ``sums`` (k + 1, 8, d) fp64: sums over the keys before each."""
    sums[0] = 0.0
    for j in range(key.shape[0]):
        k, old, new = key[j], sums[j], sums[j + 1]
        norm = _norm(k)
        near = 1.0 if placed[0] <= j < placed[1] else 0.0
        _step(old[P_KEY], new[P_KEY], k, 1.0)
        _step_square(old[P_SQUARE], new[P_SQUARE], k, 1.0)
        _step_sign(old[P_POSITIVE], new[P_POSITIVE], k, 1.0)
        _step_sign(old[P_NEGATIVE], new[P_NEGATIVE], k, -1.0)
        _step(old[P_UNIT], new[P_UNIT], k, 1 / norm if norm != 0 else 0.0)
        _step(old[P_NEAR], new[P_NEAR], k, near)
        _step_square(old[P_NEAR_SQUARE], new[P_NEAR_SQUARE], k, near)
        _step(old[P_MOMENT], new[P_MOMENT], k, near * (j - key_shift))


@njit(cache=True, nogil=True, _nrt=False)
def _extreme_table(key, start, table):
    """Sets ``table`` (levels, 2, k, d): least and greatest of the 2^level keys from j on.

    A single level holds running extremes from ``start`` instead: all that rows need whose lo does not move.
    """
    levels, _, n, d = table.shape
    for j in range(n):
        for e in range(d):
            table[0, 0, j, e] = table[0, 1, j, e] = key[j, e]
            if levels == 1 and j > start:
                table[0, 0, j, e] = min(table[0, 0, j - 1, e], key[j, e])
                table[0, 1, j, e] = max(table[0, 1, j - 1, e], key[j, e])
    for level in range(1, levels):
        half = 2 ** (level - 1)
        for j in range(n - 2 * half + 1):
            for e in range(d):
                table[level, 0, j, e] = min(table[level - 1, 0, j, e], table[level - 1, 0, j + half, e])
                table[level, 1, j, e] = max(table[level - 1, 1, j, e], table[level - 1, 1, j + half, e])


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _fold_extremes(q, low_a, low_b, high_a, high_b, sign, out):
    """Raises out to sign q k over the two blocks): the greatest product for sign 1, minus the least for -1."""
    for e in range(q.shape[0]):
        low = low_a[e] if low_a[e] < low_b[e] else low_b[e]
        high = high_a[e] if high_a[e] > high_b[e] else high_b[e]
        x = sign * q[e]
        product = x * low if x < 0 else x * high
        out[e] = product if product > out[e] else out[e]


@njit(cache=True, nogil=True, _nrt=False)
def _row_extremes(q, table, lo, hi, least, most):
    level, moving = 0, table.shape[0] > 1
    while moving and 2 ** (level + 1) <= hi - lo:
        level += 1
    right = hi - 2**level
    left = lo if moving else right
    low_a, low_b, high_a, high_b = (
        table[level, 0, left],
        table[level, 0, right],
        table[level, 1, left],
        table[level, 1, right],
    )
    _fold_extremes(q, low_a, low_b, high_a, high_b, -1.0, least)
    _fold_extremes(q, low_a, low_b, high_a, high_b, 1.0, most)


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _times(q, before, after, out):
    for e in range(q.shape[0]):
        out[e] += q[e] * (after[e] - before[e])


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _times_square(q, before, after, out):
    for e in range(q.shape[0]):
        x = f64(q[e])
        out[e] += x * x * (after[e] - before[e])


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _times_sign(q, before, after, sign, out):
    for e in range(q.shape[0]):
        out[e] += (after[e] - before[e]) if sign * q[e] > 0 else 0.0


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _dot(q, before, after):
    total = 0.0
    for e in range(q.shape[0]):
        total += q[e] * (after[e] - before[e])
    return total


@njit(cache=True, nogil=True, _nrt=False)
def _row_sums(q, before, after, out):
    """Adds one row's moments; returns Σ_j of its cosines."""
    _times(q, before[P_KEY], after[P_KEY], out[QK])
    _times_square(q, before[P_SQUARE], after[P_SQUARE], out[SQUARE])
    _times_sign(q, before[P_POSITIVE], after[P_POSITIVE], 1.0, out[POSITIVE])
    _times_sign(q, before[P_NEGATIVE], after[P_NEGATIVE], -1.0, out[POSITIVE])
    norm = _norm(q)
    return _dot(q, before[P_UNIT], after[P_UNIT]) / norm if norm != 0 else 0.0


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _times_distance(q, position, number_before, number, number_after, before, middle, after, out):
    """Adds q Σ_j |i - j| k_j = q (i (left - right) - (moment left - moment right))."""
    for e in range(q.shape[0]):
        count = 2 * number[e] - number_before[e] - number_after[e]
        moment = 2 * middle[e] - before[e] - after[e]
        out[e] += q[e] * (position * count - moment)


@njit(cache=True, nogil=True, _nrt=False)
def _row_distance(q, position, images, before, middle, after, out):
    """Moments over keys with a position. Images have other distances, see :func:`patch_pass`."""
    _times(q, before[P_NEAR], after[P_NEAR], out[NEAR])
    _times_square(q, before[P_NEAR_SQUARE], after[P_NEAR_SQUARE], out[NEAR_SQUARE])
    if not images:
        _times_distance(
            q, position, before[P_NEAR], middle[P_NEAR], after[P_NEAR], before[P_MOMENT], middle[P_MOMENT],
            after[P_MOMENT], out[NEAR_DISTANCE],
        )  # fmt: skip


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _add_product(weight, q, x, out):
    for e in range(q.shape[0]):
        out[e] += weight * q[e] * x[e]


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _centred_sum(before, after, centre, n, total):
    for e in range(total.shape[0]):
        total[e] = after[e] - before[e] - n * centre[e]


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _inner(q, x):
    total = 0.0
    for e in range(q.shape[0]):
        total += q[e] * x[e]
    return total


@njit(cache=True, nogil=True, _nrt=False)
def _negate(x):
    for e in range(x.shape[0]):
        x[e] = -x[e]


@njit(cache=True, nogil=True, _nrt=False)
def _scan_group(
    q, k, mean, start, lo, hi, position, key_shift, placed, images, cross, prefix, table, total, out, cosine
):
    """All of one key head and the ``group`` query heads that read it, but the distances of images."""
    _prefixes(k, placed, key_shift, prefix)
    _extreme_table(k, start, table)
    for head in range(q.shape[0]):
        _negate(out[head, LOW])  # _fold_extremes takes minus the least
    for i in range(q.shape[1]):
        first, end = lo[i], hi[i]
        if first >= end:
            continue
        n, middle = end - first, min(max(position[i] + key_shift + 1, first), end)
        _centred_sum(prefix[first, P_KEY], prefix[end, P_KEY], mean, n, total)
        for head in range(q.shape[0]):
            row = q[head, i]
            cosine[head] += _row_sums(row, prefix[first], prefix[end], out[head])
            _row_extremes(row, table, first, end, out[head, LOW], out[head, HIGH])
            _add_product(-_inner(row, total) / (f64(n) * n), row, total, out[head, SHARE])
            if not cross and position[i] >= 0:
                _row_distance(row, position[i], images, prefix[first], prefix[middle], prefix[end], out[head])
    for head in range(q.shape[0]):
        _negate(out[head, LOW])


@njit(cache=True, nogil=True, _nrt=False)
def scan_pass(
    query, key, centre, start, lo, hi, position, key_shift, placed, images, cross, prefix, table, total, sums, cosine
):
    """Adds to ``sums`` (h, len(NEURON_SUMS), d) and ``cosine`` (h,), fp64, for heads of one window.

    ``query`` (h, q, d) and ``key`` (hkv, k, d), zeros where nobody counts them; ``centre`` (hkv, d) fp64 the mean key;
    ``lo``, ``hi``, ``position`` (q,), ``start`` the least lo. Room to work in: ``prefix`` (k + 1, 8, d) fp64, ``table``
    (levels, 2, k, d) fp32, one level if lo does not move, else log2(k) + 1, ``total`` (d,) fp64. Of the share this is
    - Σ_i q_i ⊙ S_i (S_i · q_i) / n_i², S_i the row's sum of centred keys; the distances of images are missing, see
    :func:`patch_pass`.
    """
    group = query.shape[0] // key.shape[0]
    for one in range(key.shape[0]):
        first, end = one * group, (one + 1) * group
        _scan_group(
            query[first:end], key[one], centre[one], start, lo, hi, position, key_shift, placed, images, cross, prefix,
            table, total, sums[first:end], cosine[first:end],
        )  # fmt: skip


@njit(cache=True, nogil=True, _nrt=False)
def patch_pass(query, key, lo, hi, position, placed, query_patch, key_patch, total, sums):
    """Adds Σ distance · q k for images, O(q k d): Euclidean distances do not factor. Patches (q, 2), (k, 2) fp32."""
    group = query.shape[0] // key.shape[0]
    for one in range(key.shape[0]):
        for i in range(query.shape[1]):
            if position[i] < 0:
                continue
            total[:] = 0.0
            for j in range(max(lo[i], placed[0]), min(hi[i], placed[1])):
                dr, dc = query_patch[i, 0] - key_patch[j, 0], query_patch[i, 1] - key_patch[j, 1]
                _add(key[one, j], math.sqrt(f64(dr * dr + dc * dc)), total)
            for head in range(one * group, (one + 1) * group):
                _add_product(1.0, query[head, i], total, sums[head, NEAR_DISTANCE])


@njit(cache=True, nogil=True, _nrt=False)
def sum_pass(query, key, lo, hi, running, sums):
    """Adds Σ_i q_i Σ_j k_j to ``sums`` (h, len(NEURON_SUMS), d), and nothing else: all that core needs of a scan.

    ``query`` (h, q, d) and ``key`` (hkv, k, d), zeros where nobody counts them; ``running`` (k + 1, d) fp64 is room.
    """
    group = query.shape[0] // key.shape[0]
    for one in range(key.shape[0]):
        running[0] = 0.0
        for j in range(key.shape[1]):
            _step(running[j], running[j + 1], key[one, j], 1.0)
        for head in range(one * group, (one + 1) * group):
            for i in range(query.shape[1]):
                if lo[i] < hi[i]:
                    _add_product(1.0, query[head, i], running[hi[i]], sums[head, QK])
                    _add_product(-1.0, query[head, i], running[lo[i]], sums[head, QK])
