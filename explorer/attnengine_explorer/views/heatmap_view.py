"""The pattern of one head as a heatmap: a row a query, a column a key, the number of a pair under the mouse.

Made from arrays alone, like views/head_view.py; js/heatmap_view.js does what follows the mouse.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from bokeh.core.properties import value
from bokeh.models import (
    BoxSelectTool,
    ColorBar,
    ColumnDataSource,
    LinearColorMapper,
    Model,
    PlainText,
    Quad,
    Range1d,
    Rect,
    Text,
)
from bokeh.plotting import figure

from attnengine.model.sentence import Tokens
from attnengine_explorer.sentence.heatmap import Heatmap
from attnengine_explorer.sentence.tokens import labels
from attnengine_explorer.theme.colours import SEQUENTIAL, look
from attnengine_explorer.views.figures import bare, ticks
from attnengine_explorer.views.fonts import MONO

LABELLED = 60  # tokens a side that are written beside the picture
_NONE: dict[str, Any] = {"x": [], "y": [], "width": [], "height": []}


class HeatmapFigure:
    """``figure`` and its sources. With ``brush`` a box or a click chooses a window, which ``window`` holds."""

    def __init__(self, name: str, *, brush: bool = False) -> None:
        def source(what: str, **columns: Any) -> ColumnDataSource:
            return ColumnDataSource(data=columns, name=f"{name}-{what}")

        self.image = source("image", image=[], x=[], y=[], dw=[], dh=[])
        self.rows = source("rows", edge=[])
        self.columns = source("columns", edge=[])
        self.left = source("left", text=[])
        self.right = source("right", text=[])
        self.readout = source("readout", x=[0.0], y=[0.0], text=[""])
        self.cross = source("cross", **_NONE)
        self.window = source("window", x0=[], x1=[], y0=[], y1=[]) if brush else None
        self.brushed = source("brushed", left=[], right=[], top=[], bottom=[])
        self.mapper = LinearColorMapper(palette=list(SEQUENTIAL), low=0, high=1)
        self.figure = self._figure(name)
        self.restyle(dark=False)

    @property
    def models(self) -> dict[str, Model]:
        """What js/heatmap_view.js works with."""
        names = ("figure", "image", "rows", "columns", "left", "right", "readout", "cross", "window")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _figure(self, name: str) -> figure:
        plot = figure(
            name=f"{name}-figure", tools="", toolbar_location=None, sizing_mode="stretch_both", min_border=4,
            lod_threshold=None, x_range=Range1d(0, 1), y_range=Range1d(1, 0), x_axis_location="above",
        )  # fmt: skip
        bare(plot)
        plot.subscribed_events = {"reset"}  # as in views/head_view.py
        plot.tags = [
            self.rows,
            self.columns,
            self.left,
            self.right,
            *([self.window] if self.window is not None else []),
        ]
        plot.image("image", x="x", y="y", dw="dw", dh="dh", source=self.image, color_mapper=self.mapper)
        self.band = Rect(x="x", y="y", width="width", height="height", fill_alpha=0.14, line_color=None)
        plot.add_glyph(self.cross, self.band)
        self.box = Quad(left="left", right="right", top="top", bottom="bottom", fill_color=None, line_width=2)
        plot.add_glyph(self.brushed, self.box)
        self.words = Text(x="x", y="y", text="text")
        self.words.update(text_font=value(MONO), text_font_size="12px", text_baseline="middle")
        self.bar = ColorBar(color_mapper=self.mapper, width=10, label_standoff=6, padding=4, margin=0)
        plot.add_layout(self.bar, "right")
        plot.add_glyph(self.readout, self.words)
        plot.axis.axis_line_color = None
        plot.axis.major_tick_line_color = None
        plot.axis.major_label_text_font = MONO
        plot.xaxis.major_label_orientation = 1.2
        if self.window is not None:
            select = BoxSelectTool(persistent=False)
            plot.add_tools(select)
            plot.toolbar.active_drag = select
        return plot

    def show(self, found: Heatmap, queries: Tokens, keys: Tokens) -> None:
        """Draw another pattern."""
        n_queries, n_keys = int(found.row_edges[-1]), int(found.column_edges[-1])
        self.image.data = {
            "image": [found.image], "x": [-0.5], "y": [-0.5], "dw": [n_keys], "dh": [n_queries],
        }  # fmt: skip
        self.mapper.update(low=0.0, high=max(float(np.nanmax(found.image, initial=0.0)), 1e-6))
        self.rows.data, self.columns.data = {"edge": found.row_edges}, {"edge": found.column_edges}
        self.left.data, self.right.data = {"text": labels(queries)}, {"text": labels(keys)}
        self.figure.x_range.update(start=-0.5, end=n_keys - 0.5)
        below = 0.06 * n_queries  # where the pair under the mouse is written
        self.figure.y_range.update(start=n_queries - 0.5 + below, end=-0.5)
        self.readout.data = {"x": [-0.5], "y": [n_queries - 0.5 + below / 2], "text": [""]}
        _write(self.figure.yaxis[0], labels(queries))
        _write(self.figure.xaxis[0], labels(keys))

    def frame(self, queries: slice, keys: slice) -> None:
        """Outline the window that is brushed."""
        edges = {"left": keys.start, "right": keys.stop, "top": queries.start, "bottom": queries.stop}
        self.brushed.data = {name: [place - 0.5] for name, place in edges.items()}

    def restyle(self, dark: bool) -> None:
        """Take on the colours of the light or dark theme."""
        colours = look(dark)
        self.words.text_color = colours.ink
        self.band.fill_color = colours.selected
        self.box.line_color = colours.key


def _write(axis: Model, texts: list[str]) -> None:
    """Tokens beside an axis where they can be read, else numbers."""
    n = len(texts)
    step = 1 if n <= LABELLED else next((s for s in (10, 20, 50, 100, 200, 500, 1000) if n <= 24 * s), 2000)
    places = range(0, n, step)
    ticks(axis, {float(place): _inert(texts[place]) if n <= LABELLED else str(place) for place in places})


def _inert(text: str) -> str | PlainText:
    """A label that BokehJS does not take for mathematics, whatever a token says."""
    return PlainText(text=text) if "$$" in text or "\\" in text else text
