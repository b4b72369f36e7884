"""One row of a tile: scores to pattern in place, and what is added up on the way. See :mod:`._tile`.

Sums over a row are fp32, sums over rows fp64. With ``core`` only the largest score is looked for, not its moments.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from attnengine_kernels.cpu._exp import LOG2E, ZERO, f32, f64, fast_exp2, fast_tanh, least, most

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


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _greatest(row, factor):
    """The greatest factor · u."""
    low, high = row[0], row[0]
    for j in range(row.shape[0]):
        low = least(low, row[j])
        high = most(high, row[j])
    return max(factor * low, factor * high)


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
def _exponentiate_only(row, factor, rest, received):
    """As :func:`_exponentiate`, without the values."""
    slope, start = f32(factor * LOG2E), f32(rest * LOG2E)
    mass, surprise = ZERO, ZERO
    for j in range(row.shape[0]):
        t = row[j] * slope + start
        p = fast_exp2(t)
        row[j] = p
        mass += p
        surprise += p * t
        received[j] += p
    return f64(mass), f64(surprise) / LOG2E, 0.0


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
    """Log x; by its series near 1, where the sums of most rows are."""
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
def row_pass(row, n, log_n, factor, shift, lse, given, sink, softcap, bias, value_norm, core, column, aside, out):
    """One row of scores becomes one of p; its sums are added. Returns (1 / Σ p, Σ p |v|, whether its masses count).

    ``row`` (n,) fp32 u of the keys that the row sees, ``log_n`` log n; ``column`` (n,) fp32 gets the row's p, unless
    the row is so faint beside a sink that its masses are 0: then ``aside`` does. ``out`` (len(SUMS),) fp64.
    """
    total, square, low, high = 0.0, 0.0, 0.0, 0.0
    if softcap > ZERO or bias.shape[0] > 0:
        shift, square, low, high = _recentre(row, factor, shift, softcap, bias)
        factor = 1.0
    elif core:
        high = _greatest(row, factor)
    else:
        total, square, low, high = _moments(row, factor)
    if not given:
        lse = shift + _log_sum(row, factor, high)
        if sink != -np.inf:
            top = max(lse, sink)
            lse = top + math.log(math.exp(lse - top) + math.exp(sink - top))
    rest = shift - lse
    faint = high + rest < FAINT
    start, received = (-high, aside) if faint else (rest, column)
    if core:
        mass, surprise, weighted = _exponentiate_only(row, factor, start, received)
    else:
        mass, surprise, weighted = _exponentiate(row, factor, start, value_norm, received)
    if not math.isfinite(rest + total + square + surprise):  # the head is poisoned: NaN stays in its sums
        out[:] = np.nan
        return np.nan, np.nan, False
    if not core:
        _add_score(out, n, shift, square, total, low, high)
    p_sink = math.exp(sink - lse) if sink != -np.inf else 0.0
    if faint:
        _add_row(out, log_n, mass, surprise, 0.0, math.exp(high + rest), p_sink)
    else:
        _add_row(out, log_n, mass, surprise, high + rest, 1.0, p_sink)
    return 1 / mass, weighted, not faint
