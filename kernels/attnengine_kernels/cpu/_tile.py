"""One compiled pass over a tile of scores, while it is in the L2 cache: everything about the pattern but A K.

A tile holds u_ij = q_i · (k_j - k̄) for all heads of a window, a block of query rows and the keys they see. The
score's common part c q_i · k̄ and lse_i come per row in fp64, so that p = exp(c u + (c q·k̄ - lse)) keeps its digits
where all scores share a large offset. The pass turns u into p in place, for the matrix product with [K | K²] that
follows. Sums over one row are fp32, sums over rows fp64, in a fixed order: same input, same bits.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from attnengine_kernels._facts import INDUCTION, SAME_TOKEN, SENTENCE, own_key
from attnengine_kernels.cpu._exp import LOG2E, ZERO, f32, f64, fast_exp2, fast_tanh, least, most
from attnengine_kernels.sums import PATTERN_BINS

#: What a head's row of ``sums`` holds.
SUMS = (
    "entropy", "entropy_normalized", "p_max", "offset_mean", "distance_mean", "same_token_mass", "induction_mass",
    "same_sentence", "learned_sink_mass", "mass_defect_mean", "score_mean", "score_m2_within", "score_m2_between",
    "value_weighted_first_mass", "value_weighted_first_mass_n", "score_min", "score_max", "mass_defect_max",
)  # fmt: skip
(ENTROPY, NORMALIZED, P_MAX, OFFSET, DISTANCE, SAME, INDUCED, SAME_SENTENCE, SINK, DEFECT, SCORE, WITHIN, BETWEEN,
 VALUE_FIRST, VALUE_FIRST_N, SCORE_MIN, SCORE_MAX, DEFECT_MAX) = range(len(SUMS))  # fmt: skip

HIDDEN = f32(-1e4)  # u of a pair that a bias of -inf hides: exp gives (as good as) 0
FAINT = -60.0  # log p_max below which fp32 would lose the row: it is normalised by itself, its masses are 0
ADD = {"reassoc", "contract", "nsz", "arcp"}  # sums may be split over vector lanes; NaN and infinity keep their meaning


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _moments(row, factor):
    """Of factor · u: Σ, Σ of squares, least, greatest."""
    total, square, low, high = ZERO, ZERO, row[0], row[0]
    for j in range(row.shape[0]):
        u = row[j]
        total += u
        square += u * u
        low = least(low, u)
        high = most(high, u)
    a, b = factor * low, factor * high
    return factor * total, factor * factor * square, min(a, b), max(a, b)


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD)
def _recentre(row, factor, shift, softcap, bias):
    """Turns u into the score, with soft-cap and bias, about its mean in the row. Returns (mean, Σ u², min u, max u)."""
    total, number = 0.0, 0
    for j in range(row.shape[0]):
        s = f32(shift) + f32(factor) * row[j]
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
    return mean, f64(square), f64(low), f64(high)


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD)
def _log_sum(row, factor, high):
    """Log Σ exp(factor u), ``high`` the greatest factor · u."""
    slope, top, total = f32(factor * LOG2E), f32(high * LOG2E), ZERO
    for j in range(row.shape[0]):
        total += fast_exp2(row[j] * slope - top)
    return high + math.log(total)


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _exponentiate(row, factor, rest, value_norm, received):
    """Turns u into p = exp(factor u + rest) in place; Σ p, Σ p log p, Σ p |v|; ``received`` gets the row."""
    slope, start = f32(factor * LOG2E), f32(rest * LOG2E)
    mass, surprise, weighted = ZERO, ZERO, ZERO
    for j in range(row.shape[0]):
        t = row[j] * slope + start
        p = fast_exp2(t)
        row[j] = p
        mass += p
        surprise += p * t
        weighted += p * value_norm[j]
        received[j] += p
    return f64(mass), f64(surprise) / LOG2E, f64(weighted)


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
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
    return f64(mass), f64(signed), f64(distance)


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD)
def _euclid(row, here, patches):
    """Σ p · distance in patches."""
    distance = ZERO
    for j in range(row.shape[0]):
        dr, dc = here[0] - patches[j, 0], here[1] - patches[j, 1]
        distance += row[j] * f32(math.sqrt(dr * dr + dc * dc))
    return f64(distance)


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _range_sum(row):
    total = ZERO
    for j in range(row.shape[0]):
        total += row[j]
    return f64(total)


@njit(cache=True, nogil=True, _nrt=False)
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


@njit(cache=True, nogil=True, _nrt=False)
def _flush(column, received, of_bin):
    """Adds the fp32 column sums of the rows of one relative bin to the window's, and clears them."""
    for j in range(column.shape[0]):
        received[j] += column[j]
    for j in range(column.shape[0]):
        of_bin[j] += column[j]
    column[:] = ZERO


@njit(cache=True, nogil=True, _nrt=False, forceinline=True)
def _add_score(out, n, mean, square, total, low, high):
    """``mean`` is the row's shift; ``total`` and ``square`` are Σ u and Σ u² about it."""
    centre = mean + total / n
    out[SCORE] += n * centre
    out[WITHIN] += square - total * total / n
    out[BETWEEN] += n * centre * centre
    out[SCORE_MIN] = min(out[SCORE_MIN], mean + low)
    out[SCORE_MAX] = max(out[SCORE_MAX], mean + high)


@njit(cache=True, nogil=True, _nrt=False, forceinline=True)
def _log(x):
    """log x; by its series near 1, where the sums of most rows are."""
    y = x - 1
    if abs(y) < 1e-3:
        return y * (1 - y * (0.5 - y * (1 / 3 - y * 0.25)))
    return math.log(x)


@njit(cache=True, nogil=True, _nrt=False, forceinline=True)
def _add_row(out, log_n, mass, surprise, log_p_max, scale, p_sink):
    """``mass`` and ``surprise`` are of exp(log p) as it stands in the tile, ``scale`` times smaller in truth."""
    inverse = 1 / mass
    entropy = max(_log(mass) - surprise * inverse, 0.0)
    out[ENTROPY] += entropy
    if log_n > 0:
        out[NORMALIZED] += entropy / log_n
    out[P_MAX] += fast_exp2(f32(log_p_max) * LOG2E) * inverse
    out[SINK] += p_sink
    defect = abs(mass * scale + p_sink - 1)
    out[DEFECT] += defect
    out[DEFECT_MAX] = max(out[DEFECT_MAX], defect)


@njit(cache=True, nogil=True, _nrt=False)
def _row(row, n, log_n, factor, shift, lse, given, sink, softcap, bias, value_norm, column, aside, out):
    """One row of scores becomes one of p; its sums are added. Returns (1 / Σ p, Σ p |v|, whether its masses count)."""
    total, square, low, high = 0.0, 0.0, 0.0, 0.0
    if softcap > ZERO or bias.shape[0] > 0:
        shift, square, low, high = _recentre(row, factor, shift, softcap, bias)
        factor = 1.0
    else:
        total, square, low, high = _moments(row, factor)
    if not given:
        lse = shift + _log_sum(row, factor, high)
        if sink != -np.inf:
            top = max(lse, sink)
            lse = top + math.log(math.exp(lse - top) + math.exp(sink - top))
    rest = shift - lse
    if not math.isfinite(rest + total + square):  # the head is poisoned: NaN stays in its sums whatever comes
        out[:] = np.nan
        return np.nan, np.nan, False
    _add_score(out, n, shift, square, total, low, high)
    p_sink = math.exp(sink - lse) if sink != -np.inf else 0.0
    if high + rest < FAINT:
        mass, surprise, weighted = _exponentiate(row, factor, -high, value_norm, aside)
        _add_row(out, log_n, mass, surprise, 0.0, math.exp(high + rest), p_sink)
    else:
        mass, surprise, weighted = _exponentiate(row, factor, rest, value_norm, column)
        _add_row(out, log_n, mass, surprise, high + rest, 1.0, p_sink)
    return 1 / mass, weighted, high + rest >= FAINT


@njit(cache=True, nogil=True, _nrt=False)
def _add_groups(row, i, low, own, order, begin, end, out):
    """Masses on keys of the same token, after the same token, in the same sentence."""
    nowhere = -2
    same = order[SAME_TOKEN, begin[SAME_TOKEN, i] : end[SAME_TOKEN, i]]
    out[SAME] += _group_sum(row, low, same, own, nowhere)
    after = order[INDUCTION, begin[INDUCTION, i] : end[INDUCTION, i]]
    out[INDUCED] += _group_sum(row, low, after, own, own + 1 if own >= 0 else nowhere)
    sentence = order[SENTENCE, begin[SENTENCE, i] : end[SENTENCE, i]]
    out[SAME_SENTENCE] += _group_sum(row, low, sentence, nowhere, nowhere)


@njit(cache=True, nogil=True, _nrt=False)
def _add_offsets(row, low, offset, query_patch, key_patch, at, target, out):
    """Mean offset and distance of one row over its keys with a position, which begin at key ``low``."""
    mass, signed, distance = _offsets(row, target, f32(offset))
    if key_patch.shape[0] > 0:
        distance = _euclid(row, query_patch[at], key_patch[low : low + row.shape[0]])
    if mass > 0:
        out[OFFSET] += signed / mass
        out[DISTANCE] += distance / mass


@njit(cache=True, nogil=True, _nrt=False)
def _tile_head(
    tile, head, r0, k0, factor, shift, lse, given, sink, softcap, bias, norm,
    lo, hi, seen, position, key_shift, placed, query_bin, order, begin, end, query_patch, key_patch,
    offset_bin, last, first, cross, out, received, by_bin, profile, inverse, column, offsets, aside,
):  # fmt: skip
    """The rows of one head; as in :func:`tile_pass`."""
    column[:], offsets[:] = ZERO, ZERO
    n_of_log, log_n = 1, 0.0
    bin_of_column, x_low, x_high, biased = PATTERN_BINS, offset_bin.shape[0], 0, int(bias.shape[2] > 0)
    for i in range(tile.shape[0]):
        row, at = tile[i], r0 + i
        low, high = lo[at] - k0, hi[at] - k0
        if seen[at] == 0:
            row[:] = ZERO
            inverse[i] = ZERO
            continue
        if query_bin[at] != bin_of_column:
            _flush(column, received[k0:], by_bin[bin_of_column, k0:])
            bin_of_column = query_bin[at]
        row[:low] = ZERO
        row[high:] = ZERO
        live = row[low:high]
        if seen[at] != n_of_log:
            n_of_log = seen[at]
            log_n = math.log(n_of_log)
        pair_bias = bias[head % bias.shape[0], i if biased else 0, low * biased : high * biased]
        inverse[i], weighted, counts = _row(
            live, seen[at], log_n, factor, shift[at], f64(lse[at]), given, sink, softcap, pair_bias, norm[lo[at] : hi[at]],
            column[low:high], aside, out,
        )  # fmt: skip
        if not weighted <= 0:  # NaN stays in
            out[VALUE_FIRST_N] += 1
            p_first = live[first - lo[at]] if lo[at] <= first < hi[at] else ZERO
            out[VALUE_FIRST] += p_first * norm[first] / weighted
        if counts:
            own = own_key(position[at], key_shift, cross)
            _add_groups(live, at, lo[at], own, order, begin, end, out)
        near, far = max(lo[at], placed[0]), min(hi[at], placed[1])
        if cross or position[at] < 0 or near >= far:
            continue
        x = near - key_shift - position[at] + last
        if counts:
            x_low, x_high = min(x_low, x), max(x_high, x + far - near)
        target = offsets[x : x + far - near] if counts else aside[: far - near]
        _add_offsets(row[near - k0 : far - k0], near, last - x, query_patch, key_patch, at, target, out)
    _flush(column, received[k0:], by_bin[bin_of_column, k0:])
    for x in range(x_low, x_high):
        profile[offset_bin[x]] += offsets[x]


@njit(cache=True, nogil=True, _nrt=False)
def tile_pass(
    tile, r0, k0, factor, shift, lse, given, sink, softcap, bias, value_norm,
    lo, hi, seen, position, key_shift, placed, query_bin, order, begin, end, query_patch, key_patch,
    offset_bin, last, first, cross, sums, received, by_bin, profile, inverse, column, offsets, aside,
):  # fmt: skip
    """Scores to pattern, in place, and every sum of the rows, for heads of one window.

    ``tile`` (h, rows, keys) fp32 u, rows from ``r0``, keys from ``k0``; ``factor`` c; ``shift`` (h, q) fp64; ``lse``
    (h, q) fp32, read if ``given``; ``sink`` (h,) fp64, -inf for none; ``softcap`` 0 for none; ``bias`` (1 or h, rows,
    keys) fp32 or (1, 1, 0); ``value_norm`` (hkv, k) fp32; then the window's part of fields of :class:`Prepared`.
    Adds to ``sums`` (h, len(SUMS)), ``received`` (h, k), ``profile`` (h, n_bins), all fp64, and to ``by_bin``
    (h, 33, k) fp32, received from the rows of each relative bin; sets ``inverse`` (h, rows) fp32 to 1 / Σ p, 0 for rows that do not count. ``column``, ``aside`` (keys,) and ``offsets``
    (len(offset_bin),) fp32 are room to work in.
    """
    h = tile.shape[0]
    for head in range(h):
        _tile_head(
            tile[head], head, r0, k0, factor, shift[head], lse[head], given, sink[head], softcap, bias,
            value_norm[head * value_norm.shape[0] // h], lo, hi, seen, position, key_shift, placed, query_bin,
            order, begin, end, query_patch, key_patch, offset_bin, last, first, cross, sums[head],
            received[head], by_bin[head], profile[head], inverse[head], column, offsets, aside,
        )  # fmt: skip


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _add_attended(q, scale, ak, ak2, first, second, cross):
    for n in range(q.shape[0]):
        first[n] += q[n] * scale * ak[n]
    for n in range(q.shape[0]):
        x = f64(q[n])
        second[n] += x * x * scale * ak2[n]
    for n in range(q.shape[0]):
        x = f64(q[n])
        cross[n] += x * x * scale * ak[n]


@njit(cache=True, nogil=True, _nrt=False)
def _attend_head(attended, query, inverse, total):
    d = query.shape[1]
    for i in range(query.shape[0]):
        if inverse[i] == ZERO:
            continue
        _add_attended(query[i], inverse[i], attended[i, :d], attended[i, d:], total[0], total[1], total[2])


@njit(cache=True, nogil=True, _nrt=False)
def attend_pass(attended, query, inverse, r0, out):
    """Adds Σ_i q p^K, Σ_i q² p^K² and Σ_i q² p^K of a tile's rows to ``out`` (h, 3, d) fp64.

    ``attended`` (h, rows, 2 d) fp32 is p [K | K²], K about its mean; ``query`` (h, q, d) fp32.
    """
    h, n_rows = inverse.shape
    for head in range(h):
        _attend_head(attended[head], query[head, r0 : r0 + n_rows], inverse[head], out[head])


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD)
def grid_pass(by_bin, edges, grid):
    """Sets ``grid`` (h, 33, 32) fp64 to the sums of ``by_bin`` (h, 33, k) over keys [edges[c], edges[c + 1])."""
    for head in range(by_bin.shape[0]):
        for one in range(by_bin.shape[1]):
            row = by_bin[head, one]
            for c in range(PATTERN_BINS):
                total = 0.0
                for j in range(edges[c], edges[c + 1]):
                    total += row[j]
                grid[head, one, c] = total
