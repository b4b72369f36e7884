"""What factors: moments of x_ijd = q_id k_jd over visible pairs in O(L D), and the score variance's shares in O(L D²).

Rows see the keys [lo_i, hi_i), so every Σ_j over a row is a difference of prefix sums, kept in fp64 (from fp32 inputs
they lose nothing that matters); extremes come from running ones, or from a table of power-of-two blocks where lo
moves. Only a bias of -inf, which hides pairs inside the interval, takes the plain loop over pairs.
The share of a neuron in the score's variance: Cov_j(x_ijd, s_ij) = c q_id (Σ_i q_i)_d, Σ_i the keys' covariance.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

ADD = {"reassoc", "contract", "nsz"}

#: Rows of the result (b, h, len(NEURON_SUMS), d).
NEURON_SUMS = ("qk", "qk_square", "qk_positive", "near", "near_square", "near_distance", "share", "qk_min", "qk_max")
QK, SQUARE, POSITIVE, NEAR, NEAR_SQUARE, NEAR_DISTANCE, SHARE, LOW, HIGH = range(len(NEURON_SUMS))
# Prefix sums over keys: k, k², 1[k > 0], 1[k < 0], k / |k|, and over keys with a position k, k², position · k.
P_KEY, P_SQUARE, P_POSITIVE, P_NEGATIVE, P_UNIT, P_NEAR, P_NEAR_SQUARE, P_MOMENT = range(8)


@njit(cache=True, nogil=True, fastmath=ADD)
def _prefixes(key, placed, key_shift):
    """(k + 1, 8, d) fp64: sums over the keys before each."""
    n, d = key.shape
    sums = np.zeros((n + 1, 8, d))
    for j in range(n):
        norm = 0.0
        for e in range(d):
            norm += float(key[j, e]) * key[j, e]
        unit = 1 / math.sqrt(norm) if norm != 0 else 0.0
        near = 1.0 if placed[0] <= j < placed[1] else 0.0
        position = near * (j - key_shift)
        old, new = sums[j], sums[j + 1]
        for e in range(d):
            k = float(key[j, e])
            new[P_KEY, e] = old[P_KEY, e] + k
            new[P_SQUARE, e] = old[P_SQUARE, e] + k * k
            new[P_POSITIVE, e] = old[P_POSITIVE, e] + (1.0 if k > 0 else 0.0)
            new[P_NEGATIVE, e] = old[P_NEGATIVE, e] + (1.0 if k < 0 else 0.0)
            new[P_UNIT, e] = old[P_UNIT, e] + k * unit
            new[P_NEAR, e] = old[P_NEAR, e] + near * k
            new[P_NEAR_SQUARE, e] = old[P_NEAR_SQUARE, e] + near * k * k
            new[P_MOMENT, e] = old[P_MOMENT, e] + position * k
    return sums


@njit(cache=True, nogil=True)
def _extreme_table(key, start, moving):
    """(levels, 2, k, d): least and greatest of 2^level keys from j; level 0 alone is running from ``start`` if lo
    does not move.
    """
    n, d = key.shape
    levels = 1
    while moving and 2**levels <= n:
        levels += 1
    table = np.empty((levels, 2, n, d), key.dtype)
    for j in range(n):
        for e in range(d):
            table[0, 0, j, e] = table[0, 1, j, e] = key[j, e]
            if not moving and j > start:
                table[0, 0, j, e] = min(table[0, 0, j - 1, e], key[j, e])
                table[0, 1, j, e] = max(table[0, 1, j - 1, e], key[j, e])
    for level in range(1, levels):
        half = 2 ** (level - 1)
        for j in range(n - 2 * half + 1):
            for e in range(d):
                table[level, 0, j, e] = min(table[level - 1, 0, j, e], table[level - 1, 0, j + half, e])
                table[level, 1, j, e] = max(table[level - 1, 1, j, e], table[level - 1, 1, j + half, e])
    return table


@njit(cache=True, nogil=True, fastmath=ADD)
def _row_extremes(q, table, lo, hi, moving, out):
    level = 0
    while moving and 2 ** (level + 1) <= hi - lo:
        level += 1
    right = hi - 2**level
    left = lo if moving else right
    for e in range(q.shape[0]):
        low = min(table[level, 0, left, e], table[level, 0, right, e])
        high = max(table[level, 1, left, e], table[level, 1, right, e])
        a, b = float(q[e]) * low, float(q[e]) * high
        out[LOW, e] = min(out[LOW, e], a if a < b else b)
        out[HIGH, e] = max(out[HIGH, e], b if a < b else a)


@njit(cache=True, nogil=True, fastmath=ADD)
def _row_sums(q, before, after, out):
    """Adds one row's moments; returns Σ_j of its cosines."""
    norm, cosine = 0.0, 0.0
    for e in range(q.shape[0]):
        x = float(q[e])
        out[QK, e] += x * (after[P_KEY, e] - before[P_KEY, e])
        out[SQUARE, e] += x * x * (after[P_SQUARE, e] - before[P_SQUARE, e])
        positive = after[P_POSITIVE, e] - before[P_POSITIVE, e]
        negative = after[P_NEGATIVE, e] - before[P_NEGATIVE, e]
        out[POSITIVE, e] += positive if x > 0 else (negative if x < 0 else 0.0)
        norm += x * x
        cosine += x * (after[P_UNIT, e] - before[P_UNIT, e])
    return cosine / math.sqrt(norm) if norm != 0 else 0.0


@njit(cache=True, nogil=True, fastmath=ADD)
def _row_distance(q, position, images, before, middle, after, out):
    """Moments over keys with a position; Σ_j |i - j| k_j = i (left - right) - (moment left - moment right).

    Images have other distances: theirs are added by :func:`_patch_distances`.
    """
    text = 0.0 if images else 1.0
    for e in range(q.shape[0]):
        x = float(q[e])
        out[NEAR, e] += x * (after[P_NEAR, e] - before[P_NEAR, e])
        out[NEAR_SQUARE, e] += x * x * (after[P_NEAR_SQUARE, e] - before[P_NEAR_SQUARE, e])
        number = 2 * middle[P_NEAR, e] - before[P_NEAR, e] - after[P_NEAR, e]
        moment = 2 * middle[P_MOMENT, e] - before[P_MOMENT, e] - after[P_MOMENT, e]
        out[NEAR_DISTANCE, e] += text * x * (position * number - moment)


@njit(cache=True, nogil=True, fastmath=ADD)
def _add_squares(second, key, centre, begin, end):
    """Adds Σ_j (k_j - k̄)(k_j - k̄)ᵀ over [begin, end), two keys at a time."""
    d = key.shape[1]
    for j in range(begin, end, 2):
        other = j + 1 if j + 1 < end else j
        weight = 1.0 if j + 1 < end else 0.0
        for a in range(d):
            left = key[j, a] - centre[a]
            right = weight * (key[other, a] - centre[a])
            line = second[a]
            for e in range(d):
                line[e] += left * (key[j, e] - centre[e]) + right * (key[other, e] - centre[e])


@njit(cache=True, nogil=True, fastmath=ADD)
def _apply(second, q, out):
    out[:] = 0.0
    for a in range(q.shape[0]):
        x = float(q[a])
        line = second[a]
        for e in range(q.shape[0]):
            out[e] += x * line[e]


@njit(cache=True, nogil=True, fastmath=ADD)
def _shares(query, key, centre, edge, order, lo, hi, sign, start, out):
    """Adds ±(1/n_i) q_i ⊙ (Σ_{j < edge_i} k_j k_jᵀ) q_i to the shares of each head of the group, keys centred."""
    d = key.shape[1]
    second, product, done = np.zeros((d, d)), np.empty(d), start
    for at in range(order.shape[0]):
        i = order[at]
        if hi[i] <= lo[i]:
            continue
        if edge[i] > done:
            _add_squares(second, key, centre, done, edge[i])
            done = edge[i]
        if done == start:
            continue
        for head in range(query.shape[0]):
            q = query[head, i]
            _apply(second, q, product)
            weight = sign / (hi[i] - lo[i])
            for e in range(d):
                out[head, SHARE, e] += weight * q[e] * product[e]


@njit(cache=True, nogil=True, fastmath=ADD)
def _mean_part(q, before, after, centre, n, out):
    """Takes q ⊙ S (S · q) / n² off the share, S the row's sum of centred keys."""
    dot = 0.0
    for e in range(q.shape[0]):
        dot += q[e] * (after[P_KEY, e] - before[P_KEY, e] - n * centre[e])
    for e in range(q.shape[0]):
        out[SHARE, e] -= q[e] * (after[P_KEY, e] - before[P_KEY, e] - n * centre[e]) * dot / (n * n)


@njit(cache=True, nogil=True, fastmath=ADD)
def _patch_distances(query, key, position, here, patches, placed, lo, hi, out):
    """Σ_j distance · k_j per row (images: Euclidean, which does not factor), then times q for each head."""
    total = np.empty(key.shape[1])
    for i in range(query.shape[1]):
        if position[i] < 0:
            continue
        total[:] = 0.0
        for j in range(max(lo[i], placed[0]), min(hi[i], placed[1])):
            dr, dc = float(here[i, 0] - patches[j, 0]), float(here[i, 1] - patches[j, 1])
            far = math.sqrt(dr * dr + dc * dc)
            for e in range(total.shape[0]):
                total[e] += far * key[j, e]
        for head in range(query.shape[0]):
            for e in range(total.shape[0]):
                out[head, NEAR_DISTANCE, e] += query[head, i, e] * total[e]


@njit(cache=True, nogil=True)
def _scan_group(q, k, mean, lo, hi, by_lo, by_hi, position, key_shift, placed, images, cross, out, cosine):
    """All of one key head and the ``group`` query heads that read it, but the distances of images."""
    start, last_start = k.shape[0], 0
    for i in range(q.shape[1]):
        if lo[i] < hi[i]:
            start, last_start = min(start, lo[i]), max(last_start, lo[i])
    if start == k.shape[0]:
        return
    moving = start != last_start
    prefix = _prefixes(k, placed, key_shift)
    table = _extreme_table(k, start, moving)
    for i in range(q.shape[1]):
        first, end = lo[i], hi[i]
        if first >= end:
            continue
        middle = min(max(position[i] + key_shift + 1, first), end)
        for head in range(q.shape[0]):
            row = q[head, i]
            cosine[head] += _row_sums(row, prefix[first], prefix[end], out[head])
            _row_extremes(row, table, first, end, moving, out[head])
            _mean_part(row, prefix[first], prefix[end], mean, end - first, out[head])
            if not cross and position[i] >= 0:
                _row_distance(row, position[i], images, prefix[first], prefix[middle], prefix[end], out[head])
    _shares(q, k, mean, hi, by_hi, lo, hi, 1.0, start, out)
    if moving:
        _shares(q, k, mean, lo, by_lo, lo, hi, -1.0, start, out)


@njit(cache=True, nogil=True, parallel=True)
def scan_pass(
    query, key, centre, lo, hi, by_lo, by_hi, position, key_shift, placed, query_patch, key_patch, cross, sums, cosine
):
    """Adds to ``sums`` (b, h, len(NEURON_SUMS), d) and ``cosine`` (b, h), fp64; one key head per turn of a thread.

    ``query`` (b, h, q, d) and ``key`` (b, hkv, k, d), zeros where nobody counts them; ``centre`` (b, hkv, d) fp64 the
    mean key; ``by_lo``, ``by_hi`` (b, q) the rows in ascending order of lo and hi. The share lacks its factor scale².
    """
    b, hkv = key.shape[:2]
    group = query.shape[1] // hkv
    for turn in prange(b * hkv):
        w, one = turn // hkv, turn % hkv
        first, end = one * group, (one + 1) * group
        images = key_patch.shape[0] > 0
        q, out = query[w, first:end], sums[w, first:end]
        _scan_group(
            q, key[w, one], centre[w, one], lo[w], hi[w], by_lo[w], by_hi[w], position[w], key_shift[w], placed[w],
            images, cross, out, cosine[w, first:end],
        )  # fmt: skip
        if images and not cross:
            _patch_distances(q, key[w, one], position[w], query_patch[w], key_patch[w], placed[w], lo[w], hi[w], out)
