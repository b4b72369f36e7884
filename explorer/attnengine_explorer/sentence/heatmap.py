"""The pattern of one head as a picture: pair by pair, or of a long text the largest weight in each block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnengine.model.sentence import Attention

#: Pixels a side: 350² numbers of 4 bytes are what one click may cost.
MOST = 350
ROWS_A_TILE = 256


@dataclass(frozen=True)
class Heatmap:
    """image: (rows, columns) fp32; row r stands for the queries row_edges[r] to row_edges[r + 1] − 1, columns alike."""

    image: np.ndarray
    row_edges: np.ndarray
    column_edges: np.ndarray

    @property
    def exact(self) -> bool:
        """Whether a pixel is a pair."""
        return len(self.row_edges) == self.row_edges[-1] + 1 and len(self.column_edges) == self.column_edges[-1] + 1


def heatmap(call: Attention, head: int, most: int = MOST) -> Heatmap:
    """The pattern of a head in at most ``most`` × ``most`` pixels."""
    n_queries, n_keys = call.shape
    rows, columns = edges(n_queries, most), edges(n_keys, most)
    image = np.zeros((len(rows) - 1, len(columns) - 1), dtype=np.float32)
    per_tile = max(1, ROWS_A_TILE * (len(rows) - 1) // n_queries)
    for first in range(0, len(rows) - 1, per_tile):
        last = min(first + per_tile, len(rows) - 1)
        pattern = call.pattern(head, slice(int(rows[first]), int(rows[last])))
        blocks = np.maximum.reduceat(pattern, columns[:-1], axis=1)
        image[first:last] = np.maximum.reduceat(blocks, rows[first:last] - rows[first], axis=0)
    return Heatmap(image, rows, columns)


def edges(n: int, most: int) -> np.ndarray:
    """(blocks + 1,) int64: ``n`` places cut into at most ``most`` blocks of nearly the same size."""
    blocks = min(n, most)
    return (np.arange(blocks + 1) * n) // blocks
