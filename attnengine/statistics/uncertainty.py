"""Values and standard errors from sums over document groups (STATISTICS.md, "Uncertainty").

Tokens of one document resemble each other, so errors are clustered by group: a ratio has the linearised
(Taylor) error of a cluster sample, anything else a delete-one-group jackknife (Efron & Stein 1981). Intervals are
:func:`ratio_interval` and :func:`jackknife_interval`, corrected for uneven and skewed groups; scores of head types,
which are bounded, have bootstrap intervals instead.
All arrays are fp64 with the groups on the first axis; groups that hold nothing of a statistic do not count.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

Array = np.ndarray

#: Effective groups an interval needs. With 18 (79 documents of very uneven length) single heads were covered in 73 %.
LEAST_GROUPS = 30


def ratio(sums: Array, counts: Array) -> tuple[Array, Array]:
    """The ratio x = Σ S_g / Σ N_g and se = √(G/(G−1) Σ (S_g − x N_g)²) / Σ N_g; NaN where ΣN_g = 0, se if G < 2."""
    total = counts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        # A sum that is a difference keeps rounding noise where nothing was counted: that is no number, not infinity.
        value = np.where(total != 0, sums.sum(0) / total, np.nan)
        groups = (counts != 0).sum(0)
        spread = ((sums - value * counts) ** 2).sum(0)
        error = np.sqrt(spread * groups / (groups - 1)) / total
    return value, np.where(groups < 2, np.nan, error)


def jackknife(statistic: Callable[..., Array], counts: Array, *sums: Array) -> tuple[Array, Array]:
    """Value of ``statistic(counts, *sums)`` on the totals and its delete-one-group standard error.

    ``statistic`` takes arrays whose first axis it leaves alone, so that all deletions are computed at once.
    se = √((G−1)/G Σ (θ_g − θ̄)²) over the groups with counts; NaN if G < 2.
    """
    arrays = (counts, *sums)
    totals = [array.sum(0, keepdims=True) for array in arrays]
    with np.errstate(invalid="ignore", divide="ignore"):
        value = statistic(*totals)[0]
        deleted = statistic(*(total - array for total, array in zip(totals, arrays, strict=True)))
        used = np.broadcast_to(counts != 0, deleted.shape)
        groups = used.sum(0)
        mean = np.where(used, deleted, 0).sum(0) / groups
        spread = np.where(used, (deleted - mean) ** 2, 0).sum(0)
        error = np.sqrt(spread * (groups - 1) / groups)
    return value, np.where(groups < 2, np.nan, error)


def effective_groups(counts: Array) -> Array:
    """Kish's (ΣN)² / ΣN²: how many groups of equal size the groups amount to; 0 where there is nothing."""
    square = (counts**2).sum(0)
    return np.where(square > 0, counts.sum(0) ** 2 / np.where(square > 0, square, 1.0), 0.0)


def ratio_interval(sums: Array, counts: Array, level: float = 0.95) -> tuple[Array, Array]:
    """(lower, upper) of the ratio Σ S_g / Σ N_g; see :func:`_interval`."""
    value, error = ratio(sums, counts)
    with np.errstate(invalid="ignore"):  # NaN where nothing was counted
        parts = sums - value * counts
    return _interval(value, error, parts, counts, level)


def jackknife_interval(
    statistic: Callable[..., Array], counts: Array, *sums: Array, level: float = 0.95
) -> tuple[Array, Array]:
    """(lower, upper) of what :func:`jackknife` estimates; a group's part in it is what its deletion changes."""
    value, error = jackknife(statistic, counts, *sums)
    arrays = (counts, *sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        deleted = statistic(*(array.sum(0, keepdims=True) - array for array in arrays))
    return _interval(value, error, np.where(counts != 0, value - deleted, 0.0), counts, level)


def _interval(value: Array, error: Array, parts: Array, counts: Array, level: float) -> tuple[Array, Array]:
    """Value ∓ t · se, longer on the side where the groups' skewness makes that too short.

    t has the degrees of freedom of the *effective* groups (few large documents decide much), less 1. A group's part
    (g, h) in the error is skewed where one document differs far more than others do: a corpus without it looks safe and
    misses. Johnson (1978, JASA 73) moves the interval by γ (1 + 2 t²) / (6 √G) · se; it is extended by that and never
    shortened. NaN below :data:`LEAST_GROUPS` effective groups, where coverage is not what it should be.
    """
    used = counts != 0
    groups, effective = np.maximum(used.sum(0), 1), effective_groups(counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = (parts**2).sum(0) / groups
        skew = np.where(spread > 0, (parts**3).sum(0) / groups / np.where(spread > 0, spread, 1.0) ** 1.5, 0.0)
    t = stats.t.ppf((1 + level) / 2, np.maximum(effective - 1, 1))
    shift = skew * (1 + 2 * t**2) / (6 * np.sqrt(groups)) * error
    enough = np.where(effective >= LEAST_GROUPS, 1.0, np.nan)
    return (value - t * error + np.minimum(shift, 0)) * enough, (value + t * error + np.maximum(shift, 0)) * enough


def bootstrap_weights(groups: int, resamples: int, seed: int) -> Array:
    """(resamples, groups) how often each resampling draws each group; the same for the same arguments."""
    drawn = np.random.default_rng([seed, groups]).integers(0, max(groups, 1), (resamples, groups))
    return np.apply_along_axis(np.bincount, 1, drawn, minlength=groups).astype(float) if groups else np.zeros((0, 0))


def resampled(sums: Array, weights: Array) -> Array:
    """(resamples, ...) totals of (groups, ...) sums."""
    return (weights @ sums.reshape(len(sums), -1)).reshape(len(weights), *sums.shape[1:])


def bootstrap_interval(values: Array, groups: Array, level: float = 0.95) -> tuple[Array, Array]:
    """(lower, upper) percentiles (h,) of resampled ``values`` (b, h), set wider for few ``groups`` (h,).

    Plain percentiles are too narrow by √((G − 1)/G) and by Student's t against the normal; the share cut off at either
    end is shrunk to Φ(−√(G/(G − 1)) t) (Hesterberg 2015, "expanded percentiles"). NaN where G < 2.
    """
    g = np.maximum(groups, 2)
    share = stats.norm.cdf(np.sqrt(g / (g - 1)) * stats.t.ppf((1 - level) / 2, g - 1))  # (h,)
    lo, hi = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    for head in np.flatnonzero((groups >= 2) & ~np.isnan(values).all(0)):
        lo[head], hi[head] = np.nanquantile(values[:, head], [share[head], 1 - share[head]])
    return lo, hi


def variance(n: Array, first: Array, second: Array) -> Array:
    """Variance from n, Σ(x − c) and Σ(x − c)²; never below zero."""
    return np.maximum(second / n - (first / n) ** 2, 0.0)


def standard_deviation(n: Array, first: Array, second: Array) -> Array:
    """Standard deviation from n, Σ(x − c) and Σ(x − c)²."""
    return np.sqrt(variance(n, first, second))


def mean(n: Array, total: Array) -> Array:
    """Σ / n: the jackknifed form of a ratio (Gini, share)."""
    return total / n


def correlation(n: Array, x: Array, xx: Array, d: Array, dd: Array, xd: Array) -> Array:
    """Pearson correlation from centred sums; NaN where either side does not vary."""
    covariance = xd / n - (x / n) * (d / n)
    spread = np.sqrt(variance(n, x, xx) * variance(n, d, dd))
    return np.where(spread > 0, covariance / np.where(spread > 0, spread, 1.0), np.nan)
