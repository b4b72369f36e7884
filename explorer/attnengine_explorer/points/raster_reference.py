"""The raster in plain numpy: what every byte of :func:`.raster.rasterise` must be. For reading and for tests."""

from __future__ import annotations

import numpy as np

from attnengine_explorer.points.raster import DENSITIES, DIM, FIRST_DIM, Marks, Window, disc, steps


def rasterise(points: np.ndarray, marks: Marks, window: Window) -> np.ndarray:
    """(height, width) uint8 codes."""
    height, width = window.height, window.width
    column = (points[:, 0].astype(np.float64) - window.x0) * (width / (window.x1 - window.x0))
    row = (points[:, 1].astype(np.float64) - window.y0) * (height / (window.y1 - window.y0))
    shown, others, acc = (np.zeros((height, width), np.int64) for _ in range(3))
    for i in np.flatnonzero((column >= 0) & (column < width) & (row >= 0) & (row < height)):
        for dy, dx in disc(marks.radii[marks.size[i]]):
            y, x = int(row[i]) + dy, int(column[i]) + dx
            if not (0 <= y < height and 0 <= x < width):
                continue
            if not marks.shown[i]:
                others[y, x] += 1
                continue
            shown[y, x] += 1
            mine = ticket(int(i), int(marks.level[i])) if marks.classes else int(marks.level[i])
            acc[y, x] = max(acc[y, x], mine) if marks.classes else acc[y, x] + mine
    return _codes(shown, acc, others, classes=marks.classes)


def ticket(number: int, level: int) -> int:
    """24 hashed bits of a point's number, then its class."""
    h, mask = number, 2**32 - 1
    h = ((h ^ (h >> 16)) * 0x7FEB352D) & mask
    h = ((h ^ (h >> 15)) * 0x846CA68B) & mask
    return ((h ^ (h >> 16)) & 0xFFFFFF00) | level


def _codes(shown: np.ndarray, acc: np.ndarray, others: np.ndarray, *, classes: bool) -> np.ndarray:
    level = acc & 255 if classes else (2 * acc + shown) // np.maximum(2 * shown, 1)
    dense = np.searchsorted(steps(int(shown.max()), DENSITIES), shown)
    dim = np.searchsorted(steps(int(others.max()), DIM), others)
    codes = np.where(others > 0, FIRST_DIM + dim, 0)
    return np.where(shown > 0, 1 + level * DENSITIES + dense, codes).astype(np.uint8)
