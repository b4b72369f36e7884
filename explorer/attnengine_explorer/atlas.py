"""Where each head stands in the atlas, what colour scale a statistic gets, and the composed picture of patterns.

Rows are sites from top to bottom, columns are heads. A gap separates encoder from decoder and self- from
cross-attention. Coordinates are cells: column c is centred at x = c, the first row at y = 0, downwards negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnengine.records import Site
from attnengine.statistics.catalogue import Statistic

GAP = 0.5
#: The composed picture stays well under the 500 kB that one click may cost.
MAX_PIXELS = 450_000
#: Bins of patterns.npy are drawn with one empty pixel around each head.
BORDER = 1


@dataclass(frozen=True)
class Row:
    """One site in the atlas."""

    site: Site
    y: float
    label: str


@dataclass(frozen=True)
class Grid:
    """All sites in the order they are drawn."""

    rows: tuple[Row, ...]
    n_columns: int

    @property
    def bottom(self) -> float:
        """The lowest y of the grid, half a cell below the last row."""
        return self.rows[-1].y - 0.5

    @property
    def blocks(self) -> list[list[Row]]:
        """Rows without a gap between them: one block per stack and kind."""
        blocks: list[list[Row]] = []
        for row in self.rows:
            if blocks and blocks[-1][-1].y - row.y == 1:
                blocks[-1].append(row)
            else:
                blocks.append([row])
        return blocks


def lay_out(sites: list[Site]) -> Grid:
    """Encoder before decoder, self before cross, each block by layer."""
    stacks = {stack: i for i, stack in enumerate(dict.fromkeys(["", "encoder", "decoder", *(s.stack for s in sites)]))}
    ordered = sorted(sites, key=lambda s: (stacks[s.stack], s.kind == "cross", s.layer, s.site))
    rows, y = [], 0.0
    for before, site in zip([None, *ordered], ordered, strict=False):
        if before is not None:
            y -= 1 if (before.stack, before.kind) == (site.stack, site.kind) else 1 + GAP
        rows.append(Row(site, y, site.name))
    return Grid(tuple(rows), max(site.n_heads for site in sites))


def columns_of(grid: Grid, heads: list[tuple[int, int]], values: np.ndarray, order: str) -> np.ndarray:
    """The column of each head of ``heads``: its own number, or its rank by value in its row (highest first).

    Heads without a value come last, in their own order.
    """
    columns = np.array([head for _, head in heads], dtype=np.int32)
    if order == "head":
        return columns
    sites = np.array([site for site, _ in heads])
    for row in grid.rows:
        mine = np.flatnonzero(sites == row.site.site)
        ranked = mine[np.lexsort((columns[mine], -np.nan_to_num(values[mine], nan=-np.inf)))]
        columns[ranked] = np.arange(len(ranked))
    return columns


def neighbour(
    cells: dict[tuple[int, int], tuple[float, float]], at: tuple[int, int], dx: int, dy: int
) -> tuple[int, int]:
    """The head one step to the right (dx) or down (dy) of ``at`` as the atlas is drawn now; ``at`` at the edge.

    Rows may be of unequal length: a step up or down goes to the nearest column.
    """
    x, y = cells[at]
    if dx:
        row = {head: cx for head, (cx, cy) in cells.items() if cy == y and (cx - x) * dx > 0}
        return min(row, key=lambda head: abs(row[head] - x)) if row else at
    beyond = [cy for _, cy in cells.values() if (y - cy) * dy > 0]
    if not beyond:
        return at
    target = min(beyond, key=lambda cy: abs(cy - y))
    row = {head: cx for head, (cx, cy) in cells.items() if cy == target}
    return min(row, key=lambda head: (abs(row[head] - x), row[head]))


def limits(values: np.ndarray, statistic: Statistic) -> tuple[float, float]:
    """Ends of the colour scale: symmetric about zero for signed statistics, else from the least to the largest.

    A statistic that cannot fall below zero starts there if its least value lies in the lower half of its range.
    """
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return (0.0, 1.0)
    low, high = float(finite.min()), float(finite.max())
    if statistic.signed:
        end = max(abs(low), abs(high)) or 1.0
        return (-end, end)
    if statistic.low == 0 and low < high / 2:
        low = 0.0
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    return (low, high)


def thumbnail(pattern: np.ndarray, fold: int) -> np.ndarray:
    """(query, key) mean pattern → uint8 in 1..255 by square root of the share of the head's own largest bin; 0 = none.

    ``fold`` averages squares of bins, so that a thousand heads stay a small picture.
    """
    size = len(pattern) // fold
    squares = pattern[: size * fold, : size * fold].reshape(size, fold, size, fold)
    known = np.isfinite(squares)
    counts = known.sum(axis=(1, 3))
    mean = np.where(known, squares, 0).sum(axis=(1, 3)) / np.maximum(counts, 1)
    peak = mean.max(initial=0)
    level = np.sqrt(np.clip(mean / peak, 0, 1)) if peak > 0 else mean
    return np.where(counts > 0, 1 + np.round(254 * level), 0).astype(np.uint8)


def compose(
    block: list[Row], columns: dict[tuple[int, int], int], patterns: np.ndarray, n_columns: int, fold: int
) -> np.ndarray:
    """One picture of a block's patterns, first row = lowest cell row (Bokeh draws upwards); 0 where nothing is."""
    cell = patterns.shape[2] // fold + 2 * BORDER
    picture = np.zeros((len(block) * cell, n_columns * cell), dtype=np.uint8)
    for r, row in enumerate(block):
        for head in range(min(row.site.n_heads, patterns.shape[1])):
            column = columns.get((row.site.site, head))
            if column is None or row.site.site >= patterns.shape[0]:
                continue
            thumb = thumbnail(np.asarray(patterns[row.site.site, head]), fold)
            top, left = r * cell + BORDER, column * cell + BORDER
            picture[top : top + len(thumb), left : left + len(thumb)] = thumb
    return picture[::-1]


def fold_for(n_cells: int, bins: int) -> int:
    """How many bins become one pixel so that ``n_cells`` thumbnails stay within :data:`MAX_PIXELS`."""
    for fold in (1, 2, 4, 8):
        if n_cells * (bins // fold + 2 * BORDER) ** 2 <= MAX_PIXELS:
            return fold
    return 16
