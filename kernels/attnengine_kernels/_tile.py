"""One compiled pass over a tile of scores, while it is in the L2 cache: everything about the pattern but A K.

A tile holds u_ij = c q_i · (k_j - k̄) for all heads of a window, a block of query rows and the keys they see. The
score's common part c q_i · k̄ and lse_i come per row in fp64, so that p = exp(u + (c q·k̄ - lse)) keeps its digits
where all scores share a large offset. The pass turns u into p in place, for the matrix product with [K | K²] that
follows. Sums over one row are fp32, sums over rows fp64, heads are shared among threads, no two threads add to the
same number: same input, same bits.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from attnengine_kernels._exp import ZERO, f32, fast_exp, fast_tanh, least, most
from attnengine_kernels._facts import INDUCTION, SAME_TOKEN, SENTENCE, own_key
from attnengine_kernels.sums import PATTERN_BINS

#: What a head's row of ``sums`` holds.
SUMS = (
    "entropy", "entropy_normalized", "p_max", "offset_mean", "distance_mean", "same_token_mass", "induction_mass",
    "same_sentence", "learned_sink_mass", "mass_defect_mean", "score_mean", "score_m2_within", "score_m2_between",
    "value_weighted_first_mass", "value_weighted_first_mass_n", "score_min", "score_max", "mass_defect_max",
)  # fmt: skip
(ENTROPY, NORMALIZED, P_MAX, OFFSET, DISTANCE, SAME, INDUCED, SAME_SENTENCE, SINK, DEFECT, SCORE, WITHIN, BETWEEN,
 VALUE_FIRST, VALUE_FIRST_N, SCORE_MIN, SCORE_MAX, DEFECT_MAX) = range(len(SUMS))  # fmt: skip

HIDDEN = f32(-1e4)  # u of a pair that a bias of -inf hides: exp gives 0, and 0 · u is 0
FAINT = -60.0  # log p_max below which fp32 would lose the row: it is normalised by itself, its masses are 0
ADD = {"reassoc", "contract", "nsz", "arcp"}  # sums may be split over vector lanes; NaN and infinity keep their meaning


@njit(cache=True, nogil=True, fastmath=ADD)
def _moments(row):
    total, square, low, high = ZERO, ZERO, row[0], row[0]
    for j in range(row.shape[0]):
        u = row[j]
        total += u
        square += u * u
        low = least(low, u)
        high = most(high, u)
    return total, square, low, high


@njit(cache=True, nogil=True, fastmath=ADD)
def _recentre(row, shift, softcap, bias):
    """Soft-cap and bias applied; the row's mean becomes its shift. Returns (mean, Σ u², min u, max u)."""
    total, number = 0.0, 0
    for j in range(row.shape[0]):
        s = f32(shift) + row[j]
        if softcap > ZERO:
            s = softcap * fast_tanh(s / softcap)
        if bias.shape[0] > 0:
            s += bias[j]
        row[j] = s
        if s != -np.inf:
            total += s
            number += 1
    mean = total / max(number, 1)
    square, low, high = ZERO, f32(np.inf), f32(-np.inf)
    for j in range(row.shape[0]):
        if row[j] == -np.inf:
            row[j] = HIDDEN
        else:
            u = f32(row[j] - mean)
            square += u * u
            low = least(low, u)
            high = most(high, u)
            row[j] = u
    return mean, square, low, high


@njit(cache=True, nogil=True, fastmath=ADD)
def _log_sum(row, high):
    total = ZERO
    for j in range(row.shape[0]):
        total += fast_exp(row[j] - high)
    return float(high) + math.log(total)


@njit(cache=True, nogil=True, fastmath=ADD)
def _exponentiate(row, rest, value_norm, received):
    """Turns u into p = exp(u + rest) in place; Σ p, Σ p log p, Σ p |v|; ``received`` gets the row."""
    mass, surprise, weighted = ZERO, ZERO, ZERO
    for j in range(row.shape[0]):
        t = row[j] + rest
        p = fast_exp(t)
        row[j] = p
        mass += p
        surprise += p * t
        weighted += p * value_norm[j]
        received[j] += p
    return float(mass), float(surprise), float(weighted)


@njit(cache=True, nogil=True, fastmath=ADD)
def _offsets(row, profile, offset):
    """Σ p, Σ p (i - j), Σ p |i - j| over keys that have a position; ``offset`` is i - j of the first of them."""
    mass, signed, distance = ZERO, ZERO, ZERO
    for j in range(row.shape[0]):
        p = row[j]
        profile[j] += p
        step = offset - f32(j)
        mass += p
        signed += p * step
        distance += p * abs(step)
    return float(mass), float(signed), float(distance)


@njit(cache=True, nogil=True, fastmath=ADD)
def _euclid(row, here, patches):
    """Σ p · distance in patches."""
    distance = ZERO
    for j in range(row.shape[0]):
        dr, dc = here[0] - patches[j, 0], here[1] - patches[j, 1]
        distance += row[j] * f32(math.sqrt(dr * dr + dc * dc))
    return float(distance)


@njit(cache=True, nogil=True, fastmath=ADD)
def _range_sum(row):
    total = ZERO
    for j in range(row.shape[0]):
        total += row[j]
    return float(total)


@njit(cache=True, nogil=True)
def _group_sum(row, low, members, without, also_without):
    """Σ p over the member keys of a group that lie in the row's range [low, low + len(row))."""
    n = members.shape[0]
    if n == 0:
        return 0.0
    high = low + row.shape[0]
    if without < 0 and members[n - 1] - members[0] == n - 1:  # consecutive keys, as in a sentence
        begin = max(members[0], low)
        return _range_sum(row[begin - low : max(min(members[n - 1] + 1, high), begin) - low])
    total = 0.0
    for g in range(n):
        j = members[g]
        if low <= j < high and j != without and j != also_without:
            total += row[j - low]
    return total


@njit(cache=True, nogil=True)
def _flush(column, received, grid, edges, k0):
    """Adds the fp32 column sums of the rows of one relative bin to the window's fp64 sums, and clears them."""
    k1 = k0 + column.shape[0]
    for one in range(PATTERN_BINS):
        begin, end = max(edges[one], k0), min(edges[one + 1], k1)
        if begin < end:
            grid[one] += _range_sum(column[begin - k0 : end - k0])
    for j in range(column.shape[0]):
        received[j] += column[j]
        column[j] = ZERO


@njit(cache=True, nogil=True)
def _add_score(out, n, mean, square, total, low, high):
    """``mean`` is the row's shift; ``total`` and ``square`` are Σ u and Σ u² about it."""
    centre = mean + total / n
    out[SCORE] += n * centre
    out[WITHIN] += square - total * total / n
    out[BETWEEN] += n * centre * centre
    out[SCORE_MIN] = min(out[SCORE_MIN], mean + low)
    out[SCORE_MAX] = max(out[SCORE_MAX], mean + high)


@njit(cache=True, nogil=True)
def _add_row(out, n, mass, surprise, log_p_max, scale, p_sink):
    """``mass`` and ``surprise`` are of exp(log p) as it stands in the tile, ``scale`` times smaller in truth."""
    entropy = max(math.log(mass) - surprise / mass, 0.0)
    out[ENTROPY] += entropy
    if n >= 2:
        out[NORMALIZED] += entropy / math.log(n)
    out[P_MAX] += math.exp(log_p_max) / mass
    out[SINK] += p_sink
    defect = abs(mass * scale + p_sink - 1)
    out[DEFECT] += defect
    out[DEFECT_MAX] = max(out[DEFECT_MAX], defect)


@njit(cache=True, nogil=True)
def _row(row, n, shift, lse, given, sink, softcap, bias, value_norm, column, out):
    """One row of scores becomes one of p; its sums are added. Returns (1 / Σ p, Σ p |v|, whether its masses count)."""
    total, square, low, high = ZERO, ZERO, ZERO, ZERO
    if softcap > ZERO or bias.shape[0] > 0:
        shift, square, low, high = _recentre(row, shift, softcap, bias)
    else:
        total, square, low, high = _moments(row)
    if not given:
        lse = shift + _log_sum(row, high)
        if sink != -np.inf:
            top = max(lse, sink)
            lse = top + math.log(math.exp(lse - top) + math.exp(sink - top))
    rest = shift - lse
    if not math.isfinite(rest + total + square):  # the head is poisoned: NaN stays in its sums whatever comes
        out[:] = np.nan
        return np.nan, np.nan, False
    _add_score(out, n, shift, square, total, low, high)
    p_sink = math.exp(sink - lse)
    if high + rest < FAINT:
        mass, surprise, weighted = _exponentiate(row, -high, value_norm, np.zeros_like(row))
        _add_row(out, n, mass, surprise, 0.0, math.exp(high + rest), p_sink)
    else:
        mass, surprise, weighted = _exponentiate(row, f32(rest), value_norm, column)
        _add_row(out, n, mass, surprise, high + rest, 1.0, p_sink)
    return 1 / mass, weighted, high + rest >= FAINT


@njit(cache=True, nogil=True)
def _add_groups(row, w, i, low, own, order, begin, end, out):
    """Masses on keys of the same token, after the same token, in the same sentence."""
    nowhere = -2
    same = order[SAME_TOKEN, w, begin[SAME_TOKEN, w, i] : end[SAME_TOKEN, w, i]]
    out[SAME] += _group_sum(row, low, same, own, nowhere)
    after = order[INDUCTION, w, begin[INDUCTION, w, i] : end[INDUCTION, w, i]]
    out[INDUCED] += _group_sum(row, low, after, own, own + 1 if own >= 0 else nowhere)
    sentence = order[SENTENCE, w, begin[SENTENCE, w, i] : end[SENTENCE, w, i]]
    out[SAME_SENTENCE] += _group_sum(row, low, sentence, nowhere, nowhere)


@njit(cache=True, nogil=True)
def _add_offsets(row, low, offset, query_patch, key_patch, w, at, counts, x, offsets, out):
    """Mean offset and distance of one row over its keys with a position, which begin at key ``low``."""
    target = offsets[x : x + row.shape[0]] if counts else np.zeros_like(row)
    mass, signed, distance = _offsets(row, target, f32(offset))
    if key_patch.shape[0] > 0:
        distance = _euclid(row, query_patch[w, at], key_patch[w, low : low + row.shape[0]])
    if mass > 0:
        out[OFFSET] += signed / mass
        out[DISTANCE] += distance / mass


@njit(cache=True, nogil=True)
def _tile_head(
    tile, w, head, r0, k0, shift, lse, given, sink, softcap, bias, norm,
    lo, hi, seen, position, key_shift, placed, query_bin, key_edges, order, begin, end, query_patch, key_patch,
    offset_bin, last, first, cross, out, received, grid, profile, inverse,
):  # fmt: skip
    """The rows of one head; what is per window comes as that window's, the groups whole."""
    column, offsets = np.zeros(tile.shape[1], np.float32), np.zeros(offset_bin.shape[0], np.float32)
    bin_of_column, x_low, x_high, biased = PATTERN_BINS, offset_bin.shape[0], 0, int(bias.shape[2] > 0)
    for i in range(tile.shape[0]):
        row, at = tile[i], r0 + i
        low, high = lo[at] - k0, hi[at] - k0
        if seen[at] == 0:
            row[:] = ZERO
            inverse[i] = ZERO
            continue
        if query_bin[at] != bin_of_column:
            _flush(column, received[k0:], grid[bin_of_column], key_edges, k0)
            bin_of_column = query_bin[at]
        row[:low] = ZERO
        row[high:] = ZERO
        live = row[low:high]
        pair_bias = bias[head % bias.shape[0], i if biased else 0, low * biased : high * biased]
        inverse[i], weighted, counts = _row(
            live, seen[at], shift[at], float(lse[at]), given, sink, softcap, pair_bias, norm[lo[at] : hi[at]],
            column[low:high], out,
        )  # fmt: skip
        if not weighted <= 0:  # NaN stays in
            out[VALUE_FIRST_N] += 1
            p_first = live[first - lo[at]] if lo[at] <= first < hi[at] else ZERO
            out[VALUE_FIRST] += p_first * norm[first] / weighted
        if counts:
            own = own_key(position[at], key_shift, cross)
            _add_groups(live, w, at, lo[at], own, order, begin, end, out)
        near, far = max(lo[at], placed[0]), min(hi[at], placed[1])
        if cross or position[at] < 0 or near >= far:
            continue
        x = near - key_shift - position[at] + last
        if counts:
            x_low, x_high = min(x_low, x), max(x_high, x + far - near)
        _add_offsets(row[near - k0 : far - k0], near, last - x, query_patch, key_patch, w, at, counts, x, offsets, out)
    _flush(column, received[k0:], grid[bin_of_column], key_edges, k0)
    for x in range(x_low, x_high):
        profile[offset_bin[x]] += offsets[x]


@njit(cache=True, nogil=True, parallel=True)
def tile_pass(
    tile, w, r0, k0, shift, lse, given, sink, softcap, bias, value_norm,
    lo, hi, seen, position, key_shift, placed, query_bin, key_edges, order, begin, end, query_patch, key_patch,
    offset_bin, last, first, cross, sums, received, grid, profile, inverse,
):  # fmt: skip
    """Scores to pattern, in place, and every sum of the rows.

    ``tile`` (h, rows, keys) fp32 u of window ``w``, rows from ``r0``, keys from ``k0``; ``shift`` (b, h, q) fp64;
    ``lse`` (b, h, q) fp32, read if ``given``; ``sink`` (h,) fp64, -inf for none; ``softcap`` 0 for none; ``bias``
    (1 or h, rows, keys) fp32 or (1, 1, 0); ``value_norm`` (b, hkv, k) fp32; then fields of :class:`Prepared`. Adds to
    ``sums`` (b, h, len(SUMS)), ``received`` (b, h, k), ``grid`` (b, h, 33, 32), ``profile`` (b, h, n_bins), all fp64;
    sets ``inverse`` (h, rows) fp32 to 1 / Σ p, 0 for rows that do not count.
    """
    h = tile.shape[0]
    for head in prange(h):
        _tile_head(
            tile[head], w, head, r0, k0, shift[w, head], lse[w, head], given, sink[head], softcap, bias,
            value_norm[w, head * value_norm.shape[1] // h], lo[w], hi[w], seen[w], position[w], key_shift[w],
            placed[w], query_bin[w], key_edges[w], order, begin, end, query_patch, key_patch, offset_bin, last,
            first[w], cross, sums[w, head], received[w, head], grid[w, head], profile[w, head], inverse[head],
        )  # fmt: skip


@njit(cache=True, nogil=True, fastmath=ADD)
def _attend_head(attended, query, inverse, total):
    d = query.shape[1]
    for i in range(query.shape[0]):
        for n in range(d):
            q = query[i, n]
            first = q * inverse[i] * attended[i, n]
            total[0, n] += first
            total[1, n] += q * q * inverse[i] * attended[i, d + n]
            total[2, n] += q * first


@njit(cache=True, nogil=True, parallel=True)
def attend_pass(attended, query, inverse, w, r0, out):
    """Adds Σ_i q p^K, Σ_i q² p^K² and Σ_i q² p^K of a tile's rows to ``out`` (b, h, 3, d) fp64.

    ``attended`` (h, rows, 2 d) fp32 is p [K | K²], K about its mean; ``query`` (b, h, q, d) fp32.
    """
    h, n_rows = inverse.shape
    for head in prange(h):
        _attend_head(attended[head], query[w, head, r0 : r0 + n_rows], inverse[head], out[w, head])
