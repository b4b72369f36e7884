"""One head's cloud as it is drawn in a window: a picture of many points, or marks one by one where they are few."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnengine_explorer.points.colouring import Colouring
from attnengine_explorer.points.raster import DENSITIES, DIM, FIRST_DIM, Marks, Window, extent, rasterise

#: With at most so many points in the window each is a mark of its own.
FEW = 5_000
#: A picture has at most so many pixels: one byte each, they stay under the 500 kB of a message.
MAX_PIXELS = 470_000
#: Square pixels a visible point may have, and the radius of its mark.
_ROOM = ((8.0, 0), (40.0, 1), (150.0, 2))
_SIZES = 3


@dataclass(frozen=True)
class Scene:
    """screen: (2n, 2) fp32 the cloud as seen. colours: of every point. size: (2n,) uint8 below three, by length or all
    0. emphasised: (2n,) bool or None. Points that are not emphasised, or have no value to colour them by, are dim.
    """

    screen: np.ndarray
    colours: Colouring
    size: np.ndarray
    emphasised: np.ndarray | None = None

    @property
    def shown(self) -> np.ndarray:
        """(2n,) bool: the points in colour."""
        known = self.colours.known
        return known if self.emphasised is None else known & self.emphasised

    def picture(self, window: Window, visible: int) -> np.ndarray:
        """Codes of the window at its resolution, or at less if that has more than :data:`MAX_PIXELS`.

        visible: how many points lie in it.
        """
        shrink = max(1.0, float(np.sqrt(window.width * window.height / MAX_PIXELS)))
        small = Window(
            window.x0, window.x1, window.y0, window.y1, int(window.width / shrink), int(window.height / shrink)
        )
        radius = radius_for(visible, small.width * small.height)
        by_length = bool(self.size.any())
        radii = (max(radius - 1, 0), radius, radius + 1) if by_length else (radius,) * _SIZES
        size, shown = self.size, self.shown
        if self.emphasised is not None:  # what is emphasised is drawn a pixel larger
            size = size + np.uint8(_SIZES) * self.emphasised.astype(np.uint8)
            radii = (*radii, *(one + 1 for one in radii))
        elif not by_length:
            radii = (radius,)
        return rasterise(self.screen, Marks(self.colours.level, size, shown, radii, self._classes), small)

    @property
    def _classes(self) -> bool:
        return self.colours.kind == "classes"

    def mixed(self, inside: np.ndarray) -> np.ndarray:
        """Points in an order in which neither side lies above the other, and dim ones lie below."""
        order = (inside.astype(np.uint32) * np.uint32(2654435761)).argsort(kind="stable")
        order = order[np.argsort(self.shown[inside[order]], kind="stable")]
        return inside[order]

    def codes(self, points: np.ndarray) -> np.ndarray:
        """(p,) uint8 the code of single points, as dense as a lone mark should be."""
        colour = 1 + self.colours.level[points].astype(np.int64) * DENSITIES + DENSITIES // 2
        return np.where(self.shown[points], colour, FIRST_DIM + DIM // 2).astype(np.uint8)


def radius_for(visible: int, n_pixels: int) -> int:
    """How large marks may be so that the visible points, spread evenly, would not cover one another."""
    room = n_pixels / max(visible, 1)
    return next((radius for most, radius in _ROOM if room < most), _SIZES)


def sizes(lengths: np.ndarray) -> np.ndarray:
    """(2n,) uint8 0, 1, 2: the shortest, middle and longest third of each side (queries and keys have scales)."""
    n = len(lengths) // 2
    return np.concatenate([_thirds(side) for side in (lengths[:n], lengths[n:])])


def _thirds(lengths: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.quantile(lengths, (1 / 3, 2 / 3)), lengths, side="right").astype(np.uint8)


def window_of(screen: np.ndarray, width: int, height: int) -> Window:
    """The window that shows a whole cloud, both axes on one scale, with a little room around."""
    low, high = extent(screen)
    scale = float(max((high[0] - low[0]) / width, (high[1] - low[1]) / height)) * 1.06 or 1.0
    (x, y), half_x, half_y = (low + high) / 2, scale * width / 2, scale * height / 2
    return Window(float(x - half_x), float(x + half_x), float(y - half_y), float(y + half_y), width, height)
