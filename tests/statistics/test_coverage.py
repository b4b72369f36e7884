"""Intervals cover the truth as often as they say: over invented skewed documents, and over a real model's own."""

from __future__ import annotations

import numpy as np
import pytest

from attnengine.statistics import uncertainty


def plain_interval(sums, counts):
    """The formula of ``ratio_interval`` for one head, in loops."""
    from scipy import stats

    used = [g for g in range(len(sums)) if counts[g]]
    n = len(used)
    x = sum(sums[g] for g in used) / sum(counts[g] for g in used)
    parts = [sums[g] - x * counts[g] for g in used]
    square = sum(part**2 for part in parts)
    se = np.sqrt(n / (n - 1) * square) / sum(counts[g] for g in used)
    effective = sum(counts[g] for g in used) ** 2 / sum(counts[g] ** 2 for g in used)
    t = stats.t.ppf(0.975, effective - 1)
    skew = (sum(part**3 for part in parts) / n) / (square / n) ** 1.5
    shift = skew * (1 + 2 * t**2) / (6 * n**0.5) * se
    return x - t * se + min(shift, 0), x + t * se + max(shift, 0)


def test_an_interval_follows_its_formula():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, (60, 2)).astype(float)
    sums = counts * rng.exponential(1, (60, 2))
    counts[7, 1] = sums[7, 1] = 0.0
    lo, hi = uncertainty.ratio_interval(sums, counts)
    for head in range(2):
        assert (lo[head], hi[head]) == pytest.approx(plain_interval(sums[:, head], counts[:, head]), rel=1e-12)
    again = uncertainty.jackknife_interval(uncertainty.mean, counts, sums)
    np.testing.assert_allclose(again, (lo, hi), rtol=0.02)  # of a ratio, the jackknife says nearly the same


def test_few_or_very_uneven_documents_declare_no_interval():
    many, few = np.ones((40, 1)), np.ones((20, 1))
    rng = np.random.default_rng(1)
    assert np.isfinite(uncertainty.ratio_interval(many * rng.random((40, 1)), many)).all()
    assert np.isnan(uncertainty.ratio_interval(few * rng.random((20, 1)), few)).all()
    uneven = np.where(np.arange(40)[:, None] == 0, 100.0, 1.0)
    assert uncertainty.effective_groups(uneven)[0] < 2
    assert np.isnan(uncertainty.ratio_interval(uneven, uneven)).all()
    assert np.isnan(uncertainty.bootstrap_interval(np.ones((9, 1)), np.array([1]))).all()


@pytest.mark.parametrize("skew", [0.3, 0.6, 0.9])
def test_intervals_cover_the_mean_of_skewed_documents(skew):
    """500 corpora of 60 documents drawn from 200, log-normal effects, uneven lengths, 20 heads."""
    rng = np.random.default_rng(int(10 * skew))
    counts = rng.integers(50, 400, (200, 1)).astype(float) * np.ones((1, 20))
    sums = counts * np.exp(rng.normal(0, skew, (200, 20)))
    truth = sums.sum(0) / counts.sum(0)
    hits = np.zeros(20)
    for _ in range(500):
        drawn = rng.integers(0, 200, 60)
        lo, hi = uncertainty.ratio_interval(sums[drawn], counts[drawn])
        hits += (lo <= truth) & (truth <= hi)
    assert 0.93 <= (hits / 500).mean() <= 0.97
    assert (hits / 500).min() >= 0.9


def test_bootstrap_weights_are_those_of_resampling_with_replacement():
    weights = uncertainty.bootstrap_weights(50, 999, seed=0)
    assert (weights.sum(1) == 50).all()
    assert np.array_equal(weights, uncertainty.bootstrap_weights(50, 999, seed=0))
    assert not np.array_equal(weights, uncertainty.bootstrap_weights(50, 999, seed=1))
    assert weights.var() == pytest.approx(1 - 1 / 50, rel=0.02)  # multinomial
    sums = np.random.default_rng(0).random((50, 3, 4))
    np.testing.assert_allclose(uncertainty.resampled(sums, weights)[7], np.einsum("g,gab->ab", weights[7], sums))
