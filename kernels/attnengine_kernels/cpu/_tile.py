"""One compiled pass over a tile of scores, while it is in the L2 cache: everything about the pattern but A K.

A tile holds u_ij = q_i · (k_j - k̄) for all heads of a window, a block of query rows and the keys they see. The
score's common part c q_i · k̄ and lse_i come per row in fp64, so that p = exp(c u + (c q·k̄ - lse)) keeps its digits
where all scores share a large offset. The pass turns u into p in place, for the matrix product with [K | K²] that
follows. Sums over one row are fp32, sums over rows fp64, in a fixed order: same input, same bits.
"""

from __future__ import annotations

import math

from numba import njit

from attnengine_kernels._facts import INDUCTION, SAME_TOKEN, SENTENCE, own_key
from attnengine_kernels.cpu._exp import ZERO, f32, f64
from attnengine_kernels.cpu._row import (
    ADD,
    DISTANCE,
    INDUCED,
    OFFSET,
    SAME,
    SAME_SENTENCE,
    VALUE_FIRST,
    VALUE_FIRST_N,
    row_pass,
)
from attnengine_kernels.sums import PATTERN_BINS


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
def _flush(column, received, of_bin, core):
    """Adds the fp32 column sums of the rows of one relative bin to the window's, and clears them."""
    for j in range(column.shape[0]):
        received[j] += column[j]
    if not core:
        for j in range(column.shape[0]):
            of_bin[j] += column[j]
    column[:] = ZERO


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
    offset_bin, last, first, cross, core, out, received, by_bin, profile, inverse, column, offsets, aside,
):  # fmt: skip
    """The rows of one head; as in :func:`tile_pass`."""
    column[:], offsets[:] = ZERO, ZERO
    n_of_log, log_n = 1, 0.0
    bin_of_column, x_low, x_high = PATTERN_BINS, offset_bin.shape[0], 0
    biased, no_bias = bias.shape[2] > 0, bias[0, 0, :0]
    for i in range(tile.shape[0]):
        row, at = tile[i], r0 + i
        low, high = lo[at] - k0, hi[at] - k0
        if seen[at] == 0:
            row[:] = ZERO
            inverse[i] = ZERO
            continue
        if not core and query_bin[at] != bin_of_column:
            _flush(column, received[k0:], by_bin[bin_of_column, k0:], core)
            bin_of_column = query_bin[at]
        if low > 0:
            row[:low] = ZERO
        if high < row.shape[0]:
            row[high:] = ZERO
        live = row[low:high]
        if seen[at] != n_of_log:
            n_of_log = seen[at]
            log_n = math.log(n_of_log)
        pair_bias = bias[head % bias.shape[0], i, low:high] if biased else no_bias
        inverse[i], weighted, counts = row_pass(
            live, seen[at], log_n, factor, shift[at], f64(lse[at]), given, sink, softcap, pair_bias,
            norm[lo[at] : hi[at]], core, column[low:high], aside, out,
        )  # fmt: skip
        if not core and not weighted <= 0:  # NaN stays in
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
    _flush(column, received[k0:], by_bin[bin_of_column, k0:], core)
    for x in range(x_low, x_high):
        profile[offset_bin[x]] += offsets[x]


@njit(cache=True, nogil=True, _nrt=False)
def tile_pass(
    tile, r0, k0, factor, shift, lse, given, sink, softcap, bias, value_norm,
    lo, hi, seen, position, key_shift, placed, query_bin, order, begin, end, query_patch, key_patch,
    offset_bin, last, first, cross, core, sums, received, by_bin, profile, inverse, column, offsets, aside,
):  # fmt: skip
    """Scores to pattern, in place, and every sum of the rows, for heads of one window.

    ``tile`` (h, rows, keys) fp32 u, rows from ``r0``, keys from ``k0``; ``factor`` c; ``shift`` (h, q) fp64; ``lse``
    (h, q) fp32, read if ``given``; ``sink`` (h,) fp64, -inf for none; ``softcap`` 0 for none; ``bias`` (1 or h, rows,
    keys) fp32 or (1, 1, 0); ``value_norm`` (hkv, k) fp32; then the window's part of fields of :class:`Prepared`.
    ``core`` leaves out scores' moments, values and bins. Adds to ``sums`` (h, len(SUMS)), ``received`` (h, k),
    ``profile`` (h, n_bins), all fp64, and to ``by_bin`` (h, 33, k) fp32, received from the rows of each relative bin;
    sets ``inverse`` (h, rows) fp32 to 1 / Σ p, 0 for rows that do not count. ``column``, ``aside`` (keys,) and
    ``offsets`` (len(offset_bin),) fp32 are room to work in.
    """
    h = tile.shape[0]
    for head in range(h):
        _tile_head(
            tile[head], head, r0, k0, factor, shift[head], lse[head], given, sink[head], softcap, bias,
            value_norm[head * value_norm.shape[0] // h], lo, hi, seen, position, key_shift, placed, query_bin,
            order, begin, end, query_patch, key_patch, offset_bin, last, first, cross, core, sums[head],
            received[head], by_bin[head], profile[head], inverse[head], column, offsets, aside,
        )  # fmt: skip


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _add_first(q, scale, ak, first):
    for n in range(q.shape[0]):
        first[n] += q[n] * scale * ak[n]


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _add_attended(q, scale, ak, ak2, first, second, cross):
    _add_first(q, scale, ak, first)
    for n in range(q.shape[0]):
        x = f64(q[n])
        second[n] += x * x * scale * ak2[n]
    for n in range(q.shape[0]):
        x = f64(q[n])
        cross[n] += x * x * scale * ak[n]


@njit(cache=True, nogil=True, _nrt=False)
def attend_pass(attended, query, inverse, r0, out):
    """Adds Σ_i q p^K, Σ_i q² p^K² and Σ_i q² p^K of a tile's rows to ``out`` (h, 3, d) fp64; only the first for core.

    ``attended`` (h, rows, 2 d) fp32 is p [K | K²], K about its mean, or (h, rows, d), p K; ``query`` (h, q, d) fp32.
    """
    (h, n_rows), d = inverse.shape, query.shape[2]
    for head in range(h):
        for i in range(n_rows):
            ak, ak2 = attended[head, i, :d], attended[head, i, d:]
            if inverse[head, i] == ZERO:
                continue
            if ak2.shape[0] == 0:
                _add_first(query[head, r0 + i], inverse[head, i], ak, out[head, 0])
            else:
                _add_attended(query[head, r0 + i], inverse[head, i], ak, ak2, out[head, 0], out[head, 1], out[head, 2])


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
