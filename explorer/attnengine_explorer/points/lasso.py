"""Lassos as part of a link: on which picture each was drawn, and its corners, few and short.

    2.3.layout.2.0.0|+a3x09f…|-…        site, head, projection, dimensions, turn; then add (+) or subtract (-)

A corner is two numbers of three base-36 digits: its place in the square around the whole picture. What is selected is
computed from exactly these corners, so that a link selects the same points as the hand did. The selection belongs to
sampled tokens and sides; other heads show where the same ones lie.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnengine_explorer.fields import Plain

CORNERS = 48
LOOPS = 6
UNITS = 36**3 - 1
_PART = re.compile(r"[+-](?:[0-9a-z]{6}){3,48}\Z")
_PLACE = re.compile(r"(\d{1,5})\.(\d{1,5})\.(layout|pca)\.([23])\.(\d{1,3})\.(\d{1,3})\Z")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Place:
    """The picture that a lasso was drawn on. yaw and pitch: how a 3-D one was turned, in degrees from 0 to 359."""

    site: int
    head: int
    projection: str
    dims: int = 2
    yaw: int = 0
    pitch: int = 0

    def write(self) -> str:
        """As in a link."""
        return f"{self.site}.{self.head}.{self.projection}.{self.dims}.{self.yaw}.{self.pitch}"


@dataclass(frozen=True)
class Lasso:
    """Loops on one picture, applied in order: (True adds or False subtracts, corners (v, 2) int in 0 … UNITS)."""

    place: Place
    loops: tuple[tuple[bool, np.ndarray], ...]


@dataclass(frozen=True)
class Frame:
    """The square around a picture: its lower left corner and its side."""

    x: float
    y: float
    side: float

    def to_units(self, corners: np.ndarray) -> np.ndarray:
        """(v, 2) int64 corners of a link, kept inside the square's surroundings."""
        unit = (corners - [self.x, self.y]) / self.side
        return np.clip(np.round(unit * UNITS), 0, UNITS).astype(np.int64)

    def to_plane(self, corners: np.ndarray) -> np.ndarray:
        """(v, 2) fp64 where corners of a link lie on the picture."""
        return np.array([self.x, self.y]) + corners * (self.side / UNITS)


def frame_of(points: np.ndarray) -> Frame:
    """The square around points (m, 2), a little larger than they need."""
    from attnengine_explorer.points.raster import extent  # numba: this module also serves the state, which needs none

    low, high = extent(points)
    side = float((high - low).max()) * 1.08 or 1.0
    x, y = (low + high) / 2 - side / 2
    return Frame(float(x), float(y), side)


def read(text: str) -> Lasso | None:
    """The lasso of a link, None for the empty one; ValueError for anything else."""
    if not text:
        return None
    where, *parts = text.split("|")
    found = _PLACE.match(where)
    if found is None or not 0 < len(parts) <= LOOPS or not all(_PART.match(part) for part in parts):
        raise ValueError(f"expected a lasso of at most {LOOPS} loops, got {text[:60]!r}")
    site, head, projection, dims, yaw, pitch = found.groups()
    place = Place(int(site), int(head), projection, int(dims), int(yaw) % 360, int(pitch) % 360)
    return Lasso(place, tuple((part[0] == "+", _numbers(part[1:])) for part in parts))


def write(lasso: Lasso | None) -> str:
    """The lasso as in a link."""
    if lasso is None:
        return ""
    parts = ["+-"[not adds] + "".join(_digits(int(n)) for n in corners.ravel()) for adds, corners in lasso.loops]
    return "|".join([lasso.place.write(), *parts])


def extended(before: Lasso | None, place: Place, corners: np.ndarray, how: str) -> Lasso:
    """``before`` after one more loop (v, 2, in units): replace, add or subtract.

    On another picture than ``before`` it replaces. ValueError beyond :data:`LOOPS` loops.
    """
    if how not in ("replace", "add", "subtract"):
        raise ValueError(f"expected replace, add or subtract, got {how!r}")
    loop = (how != "subtract", corners)
    if before is None or how == "replace" or before.place != place:
        return Lasso(place, (loop,))
    if len(before.loops) == LOOPS:
        raise ValueError(f"a selection holds at most {LOOPS} loops; begin a new one")
    return Lasso(place, (*before.loops, loop))


def simplified(corners: np.ndarray) -> np.ndarray:
    """At most CORNERS of the corners (v, 2): the one that changes the outline least goes first (Visvalingam 1993)."""
    kept = [tuple(corner) for corner in np.asarray(corners, np.float64)]
    while len(kept) > CORNERS:
        at = np.array(kept)
        before, after = np.roll(at, 1, axis=0), np.roll(at, -1, axis=0)
        one, two = at - before, after - before
        del kept[int(np.abs(one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).argmin())]
    return np.array(kept)


class LassoText(Plain):
    """The kind of the state's field ``lasso``: a lasso as in a link, or the empty text."""

    def check(self, value: Any) -> str:
        """The one way to write it."""
        if not isinstance(value, str):
            raise ValueError(f"expected a lasso, got {value!r}")
        return write(read(value))


def _numbers(text: str) -> np.ndarray:
    return np.array([int(text[i : i + 3], 36) for i in range(0, len(text), 3)], np.int64).reshape(-1, 2)


def _digits(number: int) -> str:
    return "".join(_DIGITS[number // 36**place % 36] for place in (2, 1, 0))
