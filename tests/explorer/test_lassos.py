"""Which points an outline holds, by exact arithmetic, and how it travels in a link."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnengine_explorer.points import lasso
from attnengine_explorer.points.polygon import inside


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3, max_size=12), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_a_polygon_holds_what_it_goes_around_by_exact_arithmetic(corners, seed):
    points = (np.random.default_rng(seed).integers(-40, 40, (30, 2)) / 4 + 0.125).astype(np.float32)
    found = inside(points, np.array(corners, float))
    assert found.tolist() == [winding(x, y, corners) != 0 for x, y in points.tolist()]


def winding(x: float, y: float, corners: list[tuple[int, int]]) -> int:
    """Crossings of the ray to the right, upward ones less downward ones, in fractions."""
    number = 0
    px, py = Fraction(x), Fraction(y)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (ay <= py) == (by <= py):
            continue
        at = ax + Fraction(bx - ax) * (py - ay) / (by - ay)
        if at > px:
            number += 1 if by > ay else -1
    return number


@pytest.mark.parametrize("polygon", [[[0, 0], [1, 1]], [[0, 0], [1, 1], [np.nan, 0]], [0, 1, 2]])
def test_half_a_polygon_is_refused(polygon):
    with pytest.raises(ValueError, match="three finite corners"):
        inside(np.zeros((3, 2), np.float32), np.array(polygon, float))


def test_a_lasso_comes_back_from_its_link_and_selects_the_same_points():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(5000, 2)).astype(np.float32) * 30
    frame = lasso.frame_of(points)
    angle = np.linspace(0, 2 * np.pi, 300)
    hand = np.stack([np.cos(angle), np.sin(angle)], axis=1) * 20 + rng.normal(0, 0.1, (300, 2))
    place_ = lasso.Place(3, 11, "pca", 3, 45, 10)
    first = lasso.extended(None, place_, frame.to_units(lasso.simplified(hand)), "replace")
    both = lasso.extended(first, place_, frame.to_units(lasso.simplified(hand / 2)), "subtract")
    text = lasso.write(both)
    assert len(text) < 700
    again = lasso.read(text)
    assert again is not None
    assert again.place == place_
    assert lasso.write(again) == text
    outer, inner = (frame.to_plane(corners) for _, corners in again.loops)
    assert [adds for adds, _ in again.loops] == [True, False]
    assert inside(points, outer).sum() == pytest.approx(inside(points, hand).sum(), rel=0.01)
    assert inside(points, inner).sum() < inside(points, outer).sum()
    assert lasso.extended(both, lasso.Place(0, 0, "pca"), first.loops[0][1], "add").loops[0][0] is True
    assert len(lasso.extended(both, lasso.Place(0, 0, "pca"), first.loops[0][1], "add").loops) == 1
    assert lasso.read("") is None


@pytest.mark.parametrize("text", [
    "x", "0.0.layout.2.0.0", "0.0.layout.2.0.0|+aa", "0.0.tsne.2.0.0|+" + "0" * 18, "0.0.pca.2.0.0|*" + "0" * 18,
    "0.0.pca.4.0.0|+" + "0" * 18, "0.0.pca.2.0.0" + ("|+" + "0" * 18) * 7, "0.0.pca.2.0.0|+" + "A" * 18,
])  # fmt: skip
def test_a_strange_lasso_of_a_link_is_refused(text):
    with pytest.raises(ValueError, match="expected a lasso"):
        lasso.read(text)


def test_too_many_loops_are_refused():
    before = lasso.read("0.0.pca.2.0.0" + ("|+" + "0" * 18) * lasso.LOOPS)
    assert before is not None
    with pytest.raises(ValueError, match="at most 6 loops"):
        lasso.extended(before, before.place, before.loops[0][1], "add")
