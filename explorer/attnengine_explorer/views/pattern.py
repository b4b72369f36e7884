"""The mean pattern of the open head, on relative positions."""

from __future__ import annotations

import numpy as np
from bokeh.models import ColorBar, ColumnDataSource, LinearColorMapper, Range1d

from attnengine_explorer.head_data import relative_bin
from attnengine_explorer.run_data import RunData
from attnengine_explorer.state import ViewState
from attnengine_explorer.theme.colours import SEQUENTIAL, look
from attnengine_explorer.views import changed
from attnengine_explorer.views.figures import hover, plain_figure, recolour, ticks

_PERCENT = {0.0: "0", 0.5: "50", 1.0: "100 %"}


class PatternView:
    """Rows are queries from top to bottom, columns keys from left to right, both as percent of the window."""

    def __init__(self, run: RunData) -> None:
        self.run = run
        self.notes = {"pattern": ""}
        self.bins = 32 if run.patterns is None else run.patterns.shape[2]
        where = np.array([relative_bin(i, self.bins) for i in range(self.bins)], dtype=object)
        self.source = ColumnDataSource(
            name="pattern-source",
            data={
                "image": [self._nothing],
                "query": [np.repeat(where[::-1, None], self.bins, axis=1).tolist()],
                "key": [np.repeat(where[None, :], self.bins, axis=0).tolist()],
            },
        )
        self.mapper = LinearColorMapper(palette=list(SEQUENTIAL), low=0, high=1)
        self.root = plain_figure("pattern", x_range=Range1d(0, 1), y_range=Range1d(0, 1))
        image = self.root.image("image", x=0, y=0, dw=1, dh=1, source=self.source, color_mapper=self.mapper)
        rows = [("query at", "@query"), ("key at", "@key"), ("mean weight", "@image{0.0000}")]
        self.root.add_tools(hover([image], "Mean pattern", rows))
        ticks(self.root.xaxis[0], _PERCENT)
        ticks(self.root.yaxis[0], {1 - at: label for at, label in _PERCENT.items()})
        self.root.xaxis[0].axis_label = "key position in the window"
        self.root.yaxis[0].axis_label = "query position"
        self.root.add_layout(ColorBar(color_mapper=self.mapper, width=8, label_standoff=4, padding=2), "right")

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Draw the open head's pattern."""
        if not changed(old, new, "site", "head"):
            return
        pattern = None if new.selected is None else self.run.pattern(*new.selected)
        self.notes["pattern"] = ""
        if pattern is None:
            self.source.data["image"] = [self._nothing]
            if new.selected is not None:
                self.notes["pattern"] = self.run.nothing_to_draw("patterns", "mean pattern")
            return
        self.mapper.update(low=0, high=float(np.nanmax(pattern)) or 1.0)
        self.source.data["image"] = [pattern[::-1]]  # Bokeh draws the first row at the bottom

    @property
    def _nothing(self) -> np.ndarray:
        return np.full((self.bins, self.bins), np.nan, dtype=np.float32)

    def restyle(self, dark: bool) -> None:
        """Bins without a query take the theme's neutral grey."""
        recolour(self.mapper, SEQUENTIAL, look(dark))
