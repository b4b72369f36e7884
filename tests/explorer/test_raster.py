"""The picture of many points: its bytes, its colours, and which point lies nearest, each against an oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnengine_explorer.points import raster, raster_reference
from attnengine_explorer.points.composed import FADED, Look, cell, cell_size, pixels, place
from attnengine_explorer.points.palette import levels, palette, rgba
from attnengine_explorer.points.polygon import nearest
from attnengine_explorer.points.raster import DENSITIES, FIRST_DIM, LEVELS, Marks, Window, rasterise
from attnengine_explorer.points.turning import seen


@given(
    m=st.integers(0, 300), radii=st.sampled_from([(0,), (2,), (0, 1, 3)]), classes=st.booleans(),
    seed=st.integers(0, 2**32 - 1), side=st.integers(1, 40),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_raster_has_the_bytes_of_the_numpy_reference(m, radii, classes, seed, side):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(m, 2)).astype(np.float32)
    marks = Marks(
        rng.integers(0, LEVELS, m).astype(np.uint8), rng.integers(0, len(radii), m).astype(np.uint8),
        rng.random(m) < 0.7, radii, classes,
    )  # fmt: skip
    window = Window(-1.5, 1.2, -0.7, 2, side, side + 3)
    found = rasterise(points, marks, window)
    assert found.dtype == np.uint8
    assert np.array_equal(found, raster_reference.rasterise(points, marks, window))


def test_neither_side_hides_the_other_and_no_order_matters():
    rng = np.random.default_rng(0)
    points = np.repeat(rng.normal(size=(500, 2)).astype(np.float32), 2, axis=0)  # a query and a key at each place
    level = np.tile([0, LEVELS - 1], 500).astype(np.uint8)
    marks = Marks(level, np.zeros(1000, np.uint8), np.ones(1000, bool))
    window = Window(-4, 4, -4, 4, 60, 60)
    found = rasterise(points, marks, window)
    mixes = (found[found > 0].astype(int) - 1) // DENSITIES
    assert set(mixes) == {(LEVELS - 1) // 2}
    order = rng.permutation(1000)
    shuffled = Marks(level[order], marks.size, marks.shown)
    assert np.array_equal(found, rasterise(points[order], shuffled, window))
    classes = Marks(level, marks.size, marks.shown, classes=True)
    drawn = (rasterise(points, classes, window).astype(int) - 1) // DENSITIES
    share = np.mean(drawn[found > 0] > 0)
    assert 0.4 < share < 0.6  # of two classes at one place, either wins as often


def test_a_denser_pixel_has_a_higher_density_level_and_a_shown_point_covers_dim_ones():
    points = np.array([[0.5, 0.5]] * 40 + [[1.5, 0.5]] * 4 + [[2.5, 0.5], [3.5, 0.5], [3.5, 0.5]], np.float32)
    shown = np.array([True] * 45 + [True, False])
    marks = Marks(np.zeros(47, np.uint8), np.zeros(47, np.uint8), shown)
    row = rasterise(points, marks, Window(0, 5, 0, 1, 5, 1))[0]
    assert row[0] == DENSITIES
    assert row[0] > row[1] > row[2] == row[3] == 1
    assert row[4] == 0
    only_dim = Marks(marks.level, marks.size, np.zeros(47, bool))
    assert (rasterise(points, only_dim, Window(0, 5, 0, 1, 5, 1))[0][:4] >= FIRST_DIM).all()


def test_every_code_has_a_colour_of_its_kind_and_nothing_is_transparent_but_nothing():
    for kind in ("side", "sequential", "classes"):
        for dark in (False, True):
            colours = palette(kind, dark)
            assert len(colours) == 256
            assert colours[0].endswith("00")
            assert len(set(levels(kind, dark))) == LEVELS
            for level in (0, 7, LEVELS - 1):
                ramp = colours[1 + level * DENSITIES : 1 + (level + 1) * DENSITIES]
                assert {colour[:7].lower() for colour in ramp} == {levels(kind, dark)[level].lower()}
                assert sorted(colour[7:] for colour in ramp) == [colour[7:] for colour in ramp]
                assert ramp[-1].endswith("ff")
    picture = rgba(np.array([[0], [1]], np.uint8), palette("side", False))
    assert picture[0, 0].tolist()[:3] == [0, 0x72, 0xB2]  # Okabe–Ito blue, the upper row
    assert picture[1, 0, 3] == 0


def test_the_nearest_point_is_the_one_of_a_kd_tree_in_pixels():
    from scipy.spatial import KDTree

    points = np.random.default_rng(2).normal(size=(2000, 2)).astype(np.float32)
    tree = KDTree(points * [3.0, 50.0])
    for x, y in np.random.default_rng(3).normal(size=(50, 2)):
        distance, number = tree.query([3 * x, 50 * y])
        assert nearest(points, x, y, (3, 50)) == (number, pytest.approx(distance, rel=1e-5))
    assert nearest(points[:0], 0, 0, (1, 1)) == (-1, np.inf)


def test_a_cell_is_the_head_in_small_and_grey_where_the_picture_cannot_be_read(clouds):
    cloud = clouds.cloud(1, 1, "layout")
    at = pixels(cloud, 40)
    level = np.repeat([0, LEVELS - 1], len(at) // 2).astype(np.uint8)
    one = cell(at, Look(level, np.ones(len(at), bool)), 40)
    occupied = np.zeros(1600, bool)
    occupied[at[at < 1600]] = True
    assert np.array_equal(one.ravel() > 0, occupied)
    assert not one[[0, -1]].any()
    assert not one[:, [0, -1]].any()
    assert (at < 1600).mean() > 0.98
    faded = cell(at, Look(level, np.ones(len(at), bool), faded=True), 40)
    assert np.array_equal(faded > 0, one > 0)
    assert set(np.unique(faded)) <= {0, FADED, FADED + 1, FADED + 2}
    picture = np.zeros((80, 120), np.uint8)
    place(picture, one, 1, 2)
    assert np.array_equal(picture[:40, 80:], one)
    assert cell_size(1024) ** 2 * 1024 < 500_000
    assert raster.DIM > 0


def test_a_turned_cloud_is_a_rotation_seen_from_the_front():
    points = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    middle = (points.min(0) + points.max(0)) / 2
    np.testing.assert_allclose(seen(points, 3, 0, 0), (points - middle)[:, :2], atol=1e-6)
    np.testing.assert_allclose(seen(points, 3, 90, 0), (points - middle)[:, [2, 1]], atol=1e-6)
    np.testing.assert_allclose(seen(points, 3, 0, 90), (points - middle)[:, [0, 2]] * [1, -1], atol=1e-6)
    assert np.array_equal(seen(points, 2, 77, 8), points[:, :2])
    with pytest.raises(ValueError, match="expected 3 coordinates"):
        seen(points[:, :2], 3, 0, 0)
