"""The small clouds of all heads for whoever draws them: read a little at a time, then composed into one picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from attnengine.errors import AttnEngineError
from attnengine_explorer.atlas import Grid
from attnengine_explorer.desk import Desk
from attnengine_explorer.points import composed
from attnengine_explorer.points.all_heads import AllHeads, Head

#: Seconds of reading before other sessions have their turn, and between two steps of the progress.
SLICE, REPORT = 0.03, 0.4


class Gathering:
    """One a view. ``size`` is the side of a head's cell in pixels, so that all heads together are one small message."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        grid = desk.run.grid
        self.size = composed.cell_size(len(grid.rows) * grid.n_columns)
        self._turn = 0

    def begin(
        self, projection: str, by: str, progress: Callable[[str], None], finished: Callable[[AllHeads], None]
    ) -> None:
        """Read the heads that are not there yet for a picture coloured ``by``, then call ``finished`` once: at once if
        that is soon. ``progress`` hears how far that is, in words. A newer call ends an older one's reading.
        """
        self.stop()
        heads = self.desk.run.clouds.all_heads(projection, self.size)
        steps = heads.reading(by)
        if self._go_on(steps, progress):
            finished(heads)
        else:
            self._later(heads, steps, progress, finished)

    def problem(self) -> str:
        """Why this run can have no clouds at all; empty if it can."""
        try:
            len(self.desk.run.clouds.tokens)
        except AttnEngineError as problem:
            return str(problem)
        return ""

    def stop(self) -> None:
        """Read no further."""
        self._turn += 1

    def _later(
        self,
        heads: AllHeads,
        steps: Iterator[int],
        progress: Callable[[str], None],
        finished: Callable[[AllHeads], None],
    ) -> None:
        turn, reported = self._turn, time.monotonic()

        def read_on() -> None:
            nonlocal reported
            if turn != self._turn:
                return
            done = self._go_on(steps, progress)
            if not done:
                self.desk.document.add_next_tick_callback(read_on)
            if done or time.monotonic() - reported > REPORT:
                reported = time.monotonic()
                with self.desk.batch():  # the notes that progress wrote go along
                    if done:
                        finished(heads)

        self.desk.document.add_next_tick_callback(read_on)

    def _go_on(self, steps: Iterator[int], progress: Callable[[str], None]) -> bool:
        """Read for a while; whether nothing is left to read."""
        end = time.monotonic() + SLICE
        for done in steps:
            if time.monotonic() > end:
                progress(f"reading the clouds: {done:,} of {len(self.desk.run.index):,} heads")
                return False
        return True


def pictures(
    grid: Grid, columns: Mapping[Head, int], cells: Mapping[Head, np.ndarray], size: int
) -> dict[str, list[object]]:
    """The columns of an image source: one picture a block of rows, each head's cell (size, size) in its column."""
    found: list[object] = []
    for block in grid.blocks:
        picture = np.zeros((len(block) * size, grid.n_columns * size), np.uint8)
        for r, row in enumerate(block):
            for head in range(row.site.n_heads):
                if (row.site.site, head) in cells:
                    composed.place(picture, cells[row.site.site, head], r, columns[row.site.site, head])
        found.append(picture)
    return placed(grid, found)


def placed(grid: Grid, images: list[object]) -> dict[str, list[object]]:
    """The columns of an image source: a picture for each block of the grid, where the block lies."""
    blocks = grid.blocks
    return {
        "image": images, "x": [-0.5] * len(blocks), "y": [block[-1].y - 0.5 for block in blocks],
        "dw": [grid.n_columns] * len(blocks), "dh": [len(block) for block in blocks],
    }  # fmt: skip
