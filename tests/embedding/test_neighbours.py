"""Neighbours are exact to the last tie, whatever the tiles; duplicates are found by their bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnengine.embedding import neighbours
from attnengine.embedding.neighbours import distinct, exact, nearest


@st.composite
def hard_points(draw):
    """(n, d) fp32 points: plain ones, ones with nothing but ties, and ones whose fp32 products say nothing."""
    n, d, seed = draw(st.integers(1, 300)), draw(st.integers(1, 9)), draw(st.integers(0, 2**32 - 1))
    kind = draw(st.sampled_from(["normal", "grid", "far"]))
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, d))
    if kind == "grid":  # nothing but ties
        points = rng.integers(0, 3, (n, d))
    if kind == "far":  # fp32 products lose every digit of these differences
        points = 1e4 + 1e-3 * points
        points[n // 2 :] *= -1
    return points.astype(np.float32)


def brute(points, rows, k):
    """By fp64 differences of all pairs, sorted by distance, then index, the point itself first."""
    x = points.astype(np.float64)
    squares = ((x[rows, None] - x[None]) ** 2).sum(-1)
    squares[np.arange(len(rows)), rows] = -1
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    return order, np.maximum(np.take_along_axis(squares, order, axis=1), 0)


def check(points, k, rows=None, **options):
    rows = np.arange(len(points)) if rows is None else rows
    found, squares = exact(points, rows, k, **options)
    expected, expected_squares = brute(points, rows, k)
    assert np.array_equal(found, expected)
    np.testing.assert_allclose(squares, expected_squares, rtol=1e-12)


@given(hard_points())
def test_neighbours_equal_brute_force_in_double_precision(points):
    check(points, min(len(points), 15))


def test_neighbours_of_a_real_head_are_exact(cloud):
    check(cloud, 15)


@pytest.mark.parametrize("tile", [1, 5000, 2**24])
def test_tiles_change_no_bit(cloud, tile):
    rows = np.arange(0, len(cloud), 7)
    for one, other in zip(exact(cloud, rows, 15), exact(cloud, rows, 15, tile=tile), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.acceptance  # pynndescent compiles for half a minute
def test_above_the_limit_a_search_graph_finds_nearly_all(cloud, monkeypatch):
    monkeypatch.setattr(neighbours, "EXACT_LIMIT", 500)
    found, squares = nearest(cloud, 15, seed=3)
    expected, _ = brute(cloud, np.arange(len(cloud)), 15)
    recall = np.mean([len(set(a) & set(b)) / 15 for a, b in zip(found, expected, strict=True)])
    assert recall >= 0.99
    assert np.array_equal(found[:, 0], np.arange(len(cloud)))
    assert (np.diff(squares, axis=1) >= 0).all()
    assert np.array_equal(found, nearest(cloud, 15, seed=3)[0])


@pytest.mark.parametrize("k", [0, 11])
def test_more_neighbours_than_points_are_refused(k):
    with pytest.raises(ValueError, match=f"between 1 and 10 neighbours for 10 points, got {k}"):
        nearest(np.zeros((10, 2), np.float32), k)


def test_rows_are_duplicates_if_their_bits_are_and_minus_zero_is_zero():
    points = np.array([[1, 0], [2, 3], [1, -0.0], [2, 3], [1, 1e-40]], np.float32)
    first, which = distinct(points)
    assert first.tolist() == [0, 1, 4]
    assert which.tolist() == [0, 1, 0, 1, 2]
