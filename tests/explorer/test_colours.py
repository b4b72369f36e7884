"""Colours mean what they say: which side of zero, how far from it, queries and keys apart."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from attnengine_explorer.theme import colours


def rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def lightness(colour: str) -> float:
    red, green, blue = rgb(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue


@pytest.mark.parametrize("dark", [False, True])
def test_below_zero_is_purple_above_zero_is_orange(dark):
    scale = colours.diverging(dark)
    assert len(scale) == 255
    below, above = rgb(scale[50]), rgb(scale[-51])
    assert below[2] > below[0]
    assert above[0] > above[2]
    middle = rgb(scale[127])
    assert max(middle) - min(middle) < 16


@pytest.mark.parametrize("dark", [False, True])
def test_farther_from_zero_stands_out_more(dark):
    """Lightness leaves the middle in one direction: darker on a light page, brighter on a dark one."""
    scale = [lightness(colour) for colour in colours.diverging(dark)]
    sign = 1 if dark else -1
    upper, lower = scale[127:], scale[127::-1]
    for side in (upper, lower):
        assert all(sign * (b - a) >= -1 for a, b in pairwise(side))
        assert sign * (side[-1] - side[0]) > 100


def test_the_sequential_scale_grows_in_lightness():
    scale = [lightness(colour) for colour in colours.SEQUENTIAL]
    assert all(b >= a - 1 for a, b in pairwise(scale))


@pytest.mark.parametrize("dark", [False, True])
def test_figures_and_style_sheet_agree_on_queries_and_keys(dark):
    css = (Path(colours.__file__).parent / "style.css").read_text(encoding="utf-8")
    look = colours.look(dark)
    for name, colour in (("query", look.query), ("key", look.key)):
        found = re.search(rf"--{name}: light-dark\((#\w+), (#\w+)\)", css)
        assert found is not None
        assert found.group(1 + dark) == colour.lower()
