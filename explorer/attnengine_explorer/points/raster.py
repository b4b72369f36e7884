"""Points → a picture of one byte a pixel, in one pass over the points however many there are.

A byte is a *code*: a colour level and a density level in one, or a dim grey, or nothing. :mod:`.palette` says which
colour each code has, so that a light and a dark page, or another palette, need no new picture. Integer arithmetic
throughout: the same points give the same bytes, whatever their order, and :func:`reference` in plain numpy says which.

Neither side hides the other. Where points meet in a pixel, an ordered colour (side, position, norm, …) shows the mean
of its levels, and a class (token class, document) that of one of the points, drawn by a hash of its number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

NOTHING = 0
#: Codes 1 … LEVELS · DENSITIES are colours, the DIM after them greys.
LEVELS = 19
DENSITIES = 12
DIM = 12
FIRST_DIM = 1 + LEVELS * DENSITIES
MAX_RADIUS = 6


@dataclass(frozen=True)
class Window:
    """The part of the plane that is drawn, x0 < x1 and y0 < y1, on ``width`` × ``height`` pixels; row 0 is lowest."""

    x0: float
    x1: float
    y0: float
    y1: float
    width: int
    height: int

    def holds(self, points: np.ndarray) -> np.ndarray:
        """(m,) bool: which of the points (m, 2) lie inside."""
        found = np.empty(len(points), np.bool_)
        _holds(points, self.x0, self.x1, self.y0, self.y1, found)
        return found


@dataclass(frozen=True)
class Marks:
    """What points look like. level: (m,) uint8 below LEVELS. size: (m,) uint8, an index into ``radii`` (pixels).
    shown: (m,) bool, the points in colour; the others are dim. classes: levels are classes and have no mean.
    """

    level: np.ndarray
    size: np.ndarray
    shown: np.ndarray
    radii: tuple[int, ...] = (0,)
    classes: bool = False


def rasterise(points: np.ndarray, marks: Marks, window: Window) -> np.ndarray:
    """(height, width) uint8 codes of the points (m, 2) fp32 in a window."""
    shape = (len(marks.radii), window.height, window.width, 3)
    grid = np.zeros(shape, np.uint32)
    step = (window.width / (window.x1 - window.x0), window.height / (window.y1 - window.y0))
    _splat(points, marks.level, marks.size, marks.shown, window.x0, window.y0, *step, marks.classes, grid)
    flat = grid[0] if marks.radii == (0,) else np.zeros(shape[1:], np.uint32)
    if marks.radii != (0,):
        for one, radius in zip(grid, marks.radii, strict=True):
            _spread(one, disc(radius), marks.classes, flat)
    codes = np.zeros(shape[1:3], np.uint8)
    _encode(flat, steps(int(flat[..., 0].max()), DENSITIES), steps(int(flat[..., 2].max()), DIM), marks.classes, codes)
    return codes


def extent(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest coordinates (2,) fp64 of points (m, 2), in one pass over them."""
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    _extent(points, low, high)
    return low, high


@njit(cache=True, nogil=True)
def _extent(points, low, high):  # type: ignore[no-untyped-def]
    for i in range(len(points)):
        for c in range(2):
            low[c] = min(low[c], points[i, c])
            high[c] = max(high[c], points[i, c])


@njit(cache=True, nogil=True)
def _holds(points, x0, x1, y0, y1, found):  # type: ignore[no-untyped-def]
    for i in range(len(points)):
        found[i] = x0 <= points[i, 0] < x1 and y0 <= points[i, 1] < y1


def disc(radius: int) -> np.ndarray:
    """(p, 2) int64 offsets of the pixels of a mark: one pixel for 0, a plus for 1, then rounder and rounder."""
    offsets = np.mgrid[-radius : radius + 1, -radius : radius + 1].reshape(2, -1).T
    return offsets[(offsets**2).sum(axis=1) <= radius * radius]


def steps(most: int, levels: int) -> np.ndarray:
    """(levels − 1,) uint32: the counts at which the next density level begins, by their logarithm up to ``most``."""
    return np.ceil(np.maximum(most, 1) ** (np.arange(1, levels) / levels)).astype(np.uint32)


@njit(cache=True, nogil=True)
def _splat(points, level, size, shown, x0, y0, x_step, y_step, classes, grid):  # type: ignore[no-untyped-def]
    """Add every point to its pixel of its size: [shown points, their levels summed (or the drawn class), others]."""
    height, width = grid.shape[1], grid.shape[2]
    for i in range(len(points)):
        x = (points[i, 0] - x0) * x_step
        y = (points[i, 1] - y0) * y_step
        if not (0 <= x < width and 0 <= y < height):
            continue
        cell = grid[size[i], int(y), int(x)]
        if not shown[i]:
            cell[2] += 1
            continue
        cell[0] += 1
        if classes:
            cell[1] = max(cell[1], _ticket(i, level[i]))
        else:
            cell[1] += level[i]


@njit(cache=True, nogil=True)
def _ticket(number, level):  # type: ignore[no-untyped-def]
    """24 hashed bits of a point's number above its class: the largest ticket of a pixel is drawn, whatever came last.

    The hash is a 32-bit finaliser (xor, shift, multiply), so that queries and keys, first and second half, interleave.
    """
    h = np.uint32(number)
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D))
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B))
    h = np.uint32(h ^ (h >> np.uint32(16)))
    return np.uint32((h & np.uint32(0xFFFFFF00)) | np.uint32(level))


@njit(cache=True, nogil=True)
def _spread(one, offsets, classes, flat):  # type: ignore[no-untyped-def]
    """Grow every occupied pixel of ``one`` into its mark on ``flat``: the cost is that of pixels, not of points."""
    height, width = flat.shape[0], flat.shape[1]
    for y in range(height):
        for x in range(width):
            if one[y, x, 0] == 0 and one[y, x, 2] == 0:
                continue
            for o in range(len(offsets)):
                v, u = y + offsets[o, 0], x + offsets[o, 1]
                if not (0 <= v < height and 0 <= u < width):
                    continue
                flat[v, u, 0] += one[y, x, 0]
                flat[v, u, 2] += one[y, x, 2]
                if classes:
                    flat[v, u, 1] = max(flat[v, u, 1], one[y, x, 1])
                else:
                    flat[v, u, 1] += one[y, x, 1]


@njit(cache=True, nogil=True)
def _encode(flat, dense, dim, classes, codes):  # type: ignore[no-untyped-def]
    """Counts → codes; a shown point wins over any number of dim ones."""
    for y in range(codes.shape[0]):
        for x in range(codes.shape[1]):
            count, acc, others = flat[y, x, 0], flat[y, x, 1], flat[y, x, 2]
            if count > 0:
                level = acc & np.uint32(255) if classes else (2 * acc + count) // (2 * count)
                codes[y, x] = 1 + level * DENSITIES + _rank(count, dense)
            elif others > 0:
                codes[y, x] = FIRST_DIM + _rank(others, dim)


@njit(cache=True, nogil=True)
def _rank(count, thresholds):  # type: ignore[no-untyped-def]
    rank = 0
    while rank < len(thresholds) and count > thresholds[rank]:
        rank += 1
    return rank
