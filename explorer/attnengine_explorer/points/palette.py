"""Code of the raster → colour. 256 colours with opacity, for a kind of colouring and a light or dark page."""

from __future__ import annotations

from functools import cache

import numpy as np

from attnengine_explorer.points.composed import FADED, FADED_STEPS
from attnengine_explorer.points.raster import DENSITIES, DIM, FIRST_DIM, LEVELS
from attnengine_explorer.theme.colours import SEQUENTIAL, look

#: Okabe–Ito's, then lighter and darker hues between them; grey for what has no class of its own comes last.
CLASSES = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#A6761D", "#1B9E77", "#E7298A",
    "#66A61E", "#7570B3", "#B2912F", "#4DB6AC", "#C0504D", "#5B8DB8", "#9C8E6E", "#A0522D", "#8A9099",
)  # fmt: skip
CLASSES_DARK = (
    "#3AA0DC", "#F0853A", "#2BC49A", "#E09BC2", "#F2B632", "#8FD0F5", "#B094D6", "#CF9A3A", "#45C7A0", "#F263AE",
    "#92CF4A", "#A39FE0", "#D6B75A", "#7FD6CD", "#E07F7B", "#8CB8DE", "#C4B795", "#CD8157", "#979FAB",
)  # fmt: skip
#: Opacity of the thinnest and of the densest pixel.
THIN, DENSE = 0.5, 1.0
_DIM_THIN, _DIM_DENSE = 0.10, 0.42
_FADED_THIN, _FADED_DENSE = 0.30, 0.60


@cache
def palette(kind: str, dark: bool) -> tuple[str, ...]:
    """256 colours ``#rrggbbaa`` by code; ``kind`` is side, sequential or classes."""
    found = ["#00000000"]
    for colour in levels(kind, dark):
        found += [colour + _alpha(THIN, DENSE, step, DENSITIES) for step in range(DENSITIES)]
    assert len(found) == FIRST_DIM
    grey = "#8a919b" if dark else "#7d858f"
    found += [grey + _alpha(_DIM_THIN, _DIM_DENSE, step, DIM) for step in range(DIM)]
    assert len(found) == FADED
    found += [grey + _alpha(_FADED_THIN, _FADED_DENSE, step, FADED_STEPS) for step in range(FADED_STEPS)]
    return (*found, *["#00000000"] * (256 - len(found)))


def levels(kind: str, dark: bool) -> list[str]:
    """The LEVELS solid colours of a kind of colouring, ``#rrggbb``."""
    if kind == "side":
        return [mixed(look(dark).query, look(dark).key, i / (LEVELS - 1)) for i in range(LEVELS)]
    if kind == "sequential":
        # Viridis' darkest end is lost on a dark page, its lightest on a light one.
        low, high = (40, 255) if dark else (0, 235)
        return [SEQUENTIAL[round(at)] for at in np.linspace(low, high, LEVELS)]
    return list(CLASSES_DARK if dark else CLASSES)


def mixed(a: str, b: str, share: float) -> str:
    """The colour between two, mixed as light is (in linear intensities), so that the middle is not a muddy dark."""
    one, two = (_linear(colour) for colour in (a, b))
    light = (1 - share) * one + share * two
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in encoded.tolist())


def _linear(colour: str) -> np.ndarray:
    encoded = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def _alpha(thin: float, dense: float, step: int, count: int) -> str:
    return f"{round(255 * (thin + (dense - thin) * step / (count - 1))):02x}"


def rgba(codes: np.ndarray, colours: tuple[str, ...]) -> np.ndarray:
    """(height, width, 4) uint8 of a raster, row 0 topmost: what a PNG holds."""
    table = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5, 7)] for colour in colours], np.uint8)
    return table[codes[::-1]]
