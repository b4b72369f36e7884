"""Where heads stand, how they are coloured, and what the arrow keys reach."""

from __future__ import annotations

import numpy as np
import pytest

from attnengine.statistics.catalogue import HEADS
from attnengine_explorer.atlas import (
    MAX_PIXELS,
    columns_of,
    compose,
    fold_for,
    lay_out,
    limits,
    neighbour,
    thumbnail,
)
from tests.explorer.synthetic_run import site

RAGGED = [
    site(0, 0, heads=3, stack="encoder"), site(1, 0, heads=5, stack="decoder"),
    site(2, 0, heads=2, stack="decoder", kind="cross"), site(3, 1, heads=5, stack="decoder"),
]  # fmt: skip


def test_stacks_and_cross_attention_are_blocks_with_a_gap_between_them():
    grid = lay_out(RAGGED)
    assert [row.label for row in grid.rows] == ["encoder L0", "decoder L0", "decoder L1", "decoder L0 cross"]
    assert [row.y for row in grid.rows] == [0.0, -1.5, -2.5, -4.0]
    assert [len(block) for block in grid.blocks] == [1, 2, 1]
    assert grid.n_columns == 5


def test_sorting_ranks_within_a_row_and_puts_missing_values_last():
    heads = [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)]
    values = np.array([0.1, np.nan, 0.9, np.nan, np.nan])
    assert columns_of(lay_out(RAGGED), heads, values, "value").tolist() == [1, 2, 0, 0, 1]
    assert columns_of(lay_out(RAGGED), heads, values, "head").tolist() == [0, 1, 2, 0, 1]


def test_arrows_walk_rows_and_step_to_the_nearest_column():
    cells = {(0, 0): (0.0, 0.0), (0, 1): (1.0, 0.0), (0, 2): (2.0, 0.0), (1, 0): (0.0, -1.5), (1, 1): (1.0, -1.5)}
    assert neighbour(cells, (0, 0), 1, 0) == (0, 1)
    assert neighbour(cells, (0, 0), -1, 0) == (0, 0)
    assert neighbour(cells, (0, 2), 0, 1) == (1, 1)
    assert neighbour(cells, (1, 1), 0, -1) == (0, 1)
    assert neighbour(cells, (1, 1), 0, 1) == (1, 1)


@pytest.mark.parametrize(("name", "values", "expected"), [
    ("score_mean", [-3.0, 1.0], (-3.0, 3.0)),  # signed: symmetric about zero
    ("entropy", [0.5, 4.0], (0.0, 4.0)),  # cannot be negative and reaches low: from zero
    ("entropy", [3.0, 4.0], (3.0, 4.0)),
    ("entropy", [2.0, 2.0], (1.0, 3.0)),
    ("score_mean", [0.0, 0.0], (-1.0, 1.0)),
    ("entropy", [np.nan], (0.0, 1.0)),
])  # fmt: skip
def test_limits_of_the_colour_scale(name, values, expected):
    assert limits(np.array(values), HEADS[name]) == expected


def test_a_thumbnail_is_the_square_root_of_the_share_of_its_peak():
    pattern = np.array([[0.0, 0.25], [1.0, np.nan]])
    assert thumbnail(pattern, 1).tolist() == [[1, 128], [255, 0]]


def test_folding_averages_squares_of_bins_and_ignores_missing_ones():
    pattern = np.array([[4.0, np.nan, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [1.0, 1.0, 8.0, 8.0], [1.0, 1.0, 8.0, 8.0]])
    assert thumbnail(pattern, 2).tolist() == [[128, 1], [1 + round(254 * 0.125**0.5), 255]]


def test_the_composed_picture_holds_each_pattern_in_its_own_cell_drawn_upwards():
    grid = lay_out([site(0, 0, heads=2), site(1, 1, heads=1)])
    patterns = np.full((2, 2, 2, 2), np.nan)
    patterns[0, 0], patterns[0, 1], patterns[1, 0] = np.eye(2), np.ones((2, 2)), np.tri(2)
    (block,) = grid.blocks
    picture = compose(block, {(0, 0): 1, (0, 1): 0, (1, 0): 0}, patterns, 2, 1)[::-1]
    assert picture.shape == (8, 8)
    assert (picture[1:3, 1:3] == 255).all()  # head 1 sorted into column 0
    assert (picture[1:3, 5:7] == [[255, 1], [1, 255]]).all()
    assert (picture[5:7, 1:3] == [[255, 1], [255, 255]]).all()
    assert (picture[5:7, 5:7] == 0).all()
    assert (picture[[0, 3, 4, 7]] == 0).all()  # borders stay empty


def test_a_thousand_thumbnails_stay_within_the_payload():
    assert fold_for(72, 32) == 1
    fold = fold_for(1024, 32)
    assert 1024 * (32 // fold + 2) ** 2 <= MAX_PIXELS
