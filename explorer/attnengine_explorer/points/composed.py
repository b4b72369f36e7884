"""All heads' clouds in one picture of one byte a pixel, whatever their number: small squares, cell by cell.

Each point's pixel within its cell is kept (two bytes a point), so that another colouring or a search draws every head
anew in one pass over these. Codes are those of :mod:`.raster`; heads whose picture is too unfaithful to be read are
drawn with the codes of :data:`FADED`, grey as dim points are, but never fainter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from attnengine_explorer.points.heads import HeadCloud
from attnengine_explorer.points.lasso import frame_of
from attnengine_explorer.points.raster import DENSITIES, DIM, FIRST_DIM, _encode, _ticket, steps

#: Codes of points in heads that fail the rule of faithfulness: three densities, after all codes of the raster.
FADED = FIRST_DIM + DIM
FADED_STEPS = 3
#: One message stays under the 500 kB that a click may cost.
MAX_PIXELS = 440_000
LARGEST_CELL, SMALLEST_CELL = 150, 12
OUTSIDE = np.uint16(2**16 - 1)
#: Share of a cloud's points on either side that may lie outside its cell: UMAP throws a few far away.
_STRAY = 0.2


def cell_size(n_cells: int) -> int:
    """Pixels along a cell's side, so that the whole picture stays within :data:`MAX_PIXELS`."""
    return int(np.clip(np.sqrt(MAX_PIXELS / max(n_cells, 1)), SMALLEST_CELL, LARGEST_CELL))


def pixels(cloud: HeadCloud, size: int) -> np.ndarray:
    """(2n,) uint16: each point's pixel in a cell of ``size``² with an empty border, OUTSIDE for the strays."""
    points = cloud.points[:, :2]
    low, high = np.percentile(points, (_STRAY, 100 - _STRAY), axis=0)
    frame = frame_of(np.stack([low, high]))
    at = np.floor((points - [frame.x, frame.y]) * ((size - 2) / frame.side)).astype(np.int64) + 1
    inside = ((at >= 1) & (at <= size - 2)).all(axis=1)
    return np.where(inside, at[:, 1] * size + at[:, 0], OUTSIDE).astype(np.uint16)


@dataclass(frozen=True)
class Look:
    """How the points of a cell are drawn: level (2n,) uint8, shown (2n,) bool, classes, as in :class:`.raster.Marks`;
    faded: the head fails the rule of faithfulness.
    """

    level: np.ndarray
    shown: np.ndarray
    classes: bool = False
    faded: bool = False


def cell(at: np.ndarray, look: Look, size: int) -> np.ndarray:
    """(size, size) uint8 codes of one head, row 0 lowest; at: (2n,) from :func:`pixels`."""
    flat = np.zeros((size * size, 3), np.uint32)
    _gather(at, look.level, look.shown, look.classes, flat)
    codes = np.zeros((size, size), np.uint8)
    square = flat.reshape(size, size, 3)
    dense, dim = steps(int(flat[:, 0].max()), DENSITIES), steps(int(flat[:, 2].max()), DIM)
    _encode(square, dense, dim, look.classes, codes)
    if look.faded:
        density = ((codes.astype(np.int64) - 1) % DENSITIES) * FADED_STEPS // DENSITIES
        codes = np.where((codes > 0) & (codes < FIRST_DIM), FADED + density, codes).astype(np.uint8)
    return codes


@njit(cache=True, nogil=True)
def _gather(at, level, shown, classes, flat):  # type: ignore[no-untyped-def]
    """Add every point to its pixel: [shown points, their levels summed (or the drawn class), others]."""
    for i in range(len(at)):
        pixel = at[i]
        if pixel >= len(flat):
            continue
        if not shown[i]:
            flat[pixel, 2] += 1
            continue
        flat[pixel, 0] += 1
        if classes:
            flat[pixel, 1] = max(flat[pixel, 1], _ticket(i, level[i]))
        else:
            flat[pixel, 1] += level[i]


def place(picture: np.ndarray, one: np.ndarray, row: int, column: int) -> None:
    """Put a cell into a picture whose row 0 is lowest; rows of cells count from the top, columns from the left."""
    size = len(one)
    top = len(picture) - row * size
    picture[top - size : top, column * size : (column + 1) * size] = one
