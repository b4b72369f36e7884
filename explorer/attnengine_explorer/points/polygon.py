"""Which points a lasso holds: winding numbers, so that a loop that crosses itself still holds what it goes around."""

from __future__ import annotations

import numpy as np
from numba import njit


def inside(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """(m,) bool: the points (m, 2) around which the closed polygon (v, 2) goes, of either direction.

    Points outside the polygon's box cost two comparisons. ValueError for fewer than three finite corners.
    """
    corners = np.ascontiguousarray(polygon, np.float64)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not np.isfinite(corners).all():
        raise ValueError(f"expected a polygon of at least three finite corners, got shape {corners.shape}")
    found = np.zeros(len(points), np.bool_)
    _inside(points, corners, corners.min(axis=0), corners.max(axis=0), found)
    return found


@njit(cache=True, nogil=True)
def _inside(points, corners, low, high, found):  # type: ignore[no-untyped-def]
    for i in range(len(points)):
        x, y = np.float64(points[i, 0]), np.float64(points[i, 1])
        if low[0] <= x <= high[0] and low[1] <= y <= high[1]:
            found[i] = _winding(x, y, corners) != 0


@njit(cache=True, nogil=True)
def _winding(x, y, corners):  # type: ignore[no-untyped-def]
    """How often the polygon goes around (x, y): upward edges that leave it on their left, less downward ones."""
    number = 0
    ax, ay = corners[-1]
    for v in range(len(corners)):
        bx, by = corners[v]
        if (ay <= y) != (by <= y):
            left = (bx - ax) * (y - ay) - (x - ax) * (by - ay)
            if by > ay and left > 0:
                number += 1
            elif by < ay and left < 0:
                number -= 1
        ax, ay = bx, by
    return number


@njit(cache=True, nogil=True)
def _nearest(points, x, y, x_step, y_step):  # type: ignore[no-untyped-def]
    best, number = np.inf, -1
    for i in range(len(points)):
        dx, dy = (points[i, 0] - x) * x_step, (points[i, 1] - y) * y_step
        square = dx * dx + dy * dy
        if square < best:
            best, number = square, i
    return number, best


def nearest(points: np.ndarray, x: float, y: float, scale: tuple[float, float]) -> tuple[int, float]:
    """The point (m, 2) next to (x, y) and how far away it is in pixels; ``scale`` pixels a unit in x and y.

    (-1, inf) where there is none. A scan: it costs a millisecond at a million points, a tree would have to be made
    anew, for half a second, with each head and each turn of a 3-D cloud.
    """
    number, square = _nearest(points, x, y, *scale)
    return int(number), float(np.sqrt(square))
