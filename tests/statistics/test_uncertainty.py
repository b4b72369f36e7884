"""Errors equal their textbook formulas, computed here by plain loops, and cover the truth as often as they say."""

import numpy as np
import pytest

from attnengine.statistics import uncertainty

RNG = np.random.default_rng(0)


def test_the_ratio_and_its_clustered_error_follow_the_formula():
    sums, counts = RNG.normal(5, 1, (9, 3)), RNG.integers(1, 9, (9, 3)).astype(float)
    counts[4, 1] = sums[4, 1] = 0.0  # a group without rows does not count
    value, error = uncertainty.ratio(sums, counts)
    for c in range(3):
        used = [g for g in range(9) if counts[g, c]]
        x = sum(sums[g, c] for g in used) / sum(counts[g, c] for g in used)
        square = sum((sums[g, c] - x * counts[g, c]) ** 2 for g in used)
        expected = np.sqrt(len(used) / (len(used) - 1) * square) / sum(counts[g, c] for g in used)
        assert value[c] == pytest.approx(x, rel=1e-14)
        assert error[c] == pytest.approx(expected, rel=1e-14)


def test_the_jackknife_deletes_one_group_at_a_time():
    n = RNG.integers(5, 20, (7, 1)).astype(float)
    data = [RNG.normal(2, 3, int(size)) for size in n[:, 0]]
    first = np.asarray([[x.sum()] for x in data])
    second = np.asarray([[(x**2).sum()] for x in data])
    value, error = uncertainty.jackknife(uncertainty.standard_deviation, n, first, second)
    thetas = [np.concatenate(data[:g] + data[g + 1 :]).std() for g in range(7)]
    assert value[0] == pytest.approx(np.concatenate(data).std(), rel=1e-12)
    assert error[0] == pytest.approx(np.sqrt(6 / 7 * ((thetas - np.mean(thetas)) ** 2).sum()), rel=1e-9)


def test_one_group_has_a_value_but_no_error_and_none_has_neither():
    value, error = uncertainty.ratio(np.asarray([[2.0, 0.0]]), np.asarray([[4.0, 0.0]]))
    assert value[0] == 0.5
    assert np.isnan([error[0], value[1], error[1]]).all()
    value, error = uncertainty.jackknife(uncertainty.mean, np.asarray([[4.0]]), np.asarray([[2.0]]))
    assert value[0] == 0.5
    assert np.isnan(error[0])


def test_rounding_noise_without_a_count_is_no_number():
    noise, none = np.array([[9e-8, 1e-8], [0.0, -2e-8]]), np.zeros((2, 2))
    for found in (*uncertainty.ratio(noise, none), *uncertainty.ratio_interval(noise, none)):
        assert np.isnan(found).all()


def test_a_nan_stays_in_its_own_head():
    sums, counts = np.ones((4, 2)), np.full((4, 2), 2.0)
    sums[1, 0] = np.nan
    value, error = uncertainty.ratio(sums, counts)
    assert np.isnan(value[0])
    assert value[1] == 0.5
    assert error[1] == 0.0


def test_correlation_equals_numpy():
    x, d = RNG.normal(size=50), RNG.normal(size=50)
    sums = [np.asarray([v]) for v in (50.0, x.sum(), (x**2).sum(), d.sum(), (d**2).sum(), (x * d).sum())]
    assert uncertainty.correlation(*sums)[0] == pytest.approx(np.corrcoef(x, d)[0, 1], rel=1e-12)


def test_intervals_cover_the_true_mean_about_as_often_as_they_promise():
    """400 corpora of 30 documents whose tokens share a document effect: 95 % intervals cover it in 89 … 98 %."""
    covered = 0
    for _ in range(400):
        sizes = RNG.integers(5, 40, 30)
        effects = RNG.normal(0, 1, 30)
        sums = np.asarray([(1.0 + e + RNG.normal(0, 1, n)).sum() for e, n in zip(effects, sizes, strict=True)])
        value, error = uncertainty.ratio(sums[:, None], sizes[:, None].astype(float))
        covered += abs(value[0] - 1.0) <= 1.96 * error[0]
    assert 0.89 <= covered / 400 <= 0.98
