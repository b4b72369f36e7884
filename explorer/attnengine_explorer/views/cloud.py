"""The joint query–key cloud of the open head: its stored embedding, or its two main axes."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from bokeh.models import (
    BoxZoomTool,
    ColorBar,
    ColumnDataSource,
    GlyphRenderer,
    LinearColorMapper,
    PanTool,
    Range1d,
    ResetTool,
    Toolbar,
    WheelZoomTool,
)

from attnengine_explorer.cloud_data import Cloud, cloud, token_columns
from attnengine_explorer.points.names import COLOUR_BY
from attnengine_explorer.run_data import RunData
from attnengine_explorer.state import ViewState
from attnengine_explorer.theme.colours import SEQUENTIAL, look
from attnengine_explorer.views import changed
from attnengine_explorer.views.figures import hover, plain_figure, recolour

_COLUMNS = ("query_x", "query_y", "key_x", "key_y", "entropy", "text", "position", "document")
_TITLES = {"position": "position in the window", "entropy": "entropy of the query's pattern, nats (keys grey)"}


class CloudView:
    """Queries are circles, keys triangles. One row is a token with both, so that its text is sent once for the two of
    them, and only coordinates with each further head.
    """

    def __init__(self, run: RunData) -> None:
        self.run = run
        self.notes = {"cloud": "", "cloud-facts": "", "cloud-color": ""}
        self._dark = False
        self._by = "side"
        self._drawn = np.array([], dtype=np.int64)
        self._tokens = cache(lambda: token_columns(run))  # read when the first head is opened
        self.source = ColumnDataSource(data={name: [] for name in _COLUMNS}, name="cloud-source")
        self.mapper = LinearColorMapper(palette=list(SEQUENTIAL), low=0, high=1)
        plot = plain_figure("cloud", x_range=Range1d(-1, 1), y_range=Range1d(-1, 1))
        plot.axis.visible = False
        self.key_marks = self._marks(plot, "key", "triangle")
        self.query_marks = self._marks(plot, "query", "circle")
        rows = [("position", "@position{0,0}"), ("document", "@document")]
        entropy = ("entropy", "@entropy{0.000} nats")
        mono = '<span style="font-family: ui-monospace, monospace">@text</span>'
        plot.add_tools(
            hover([self.query_marks], f"query {mono}", [*rows, entropy], attachment="left", limit=1),
            hover([self.key_marks], f"key {mono}", rows, attachment="right", limit=1),
            *(tools := [PanTool(), BoxZoomTool(match_aspect=True), WheelZoomTool(), ResetTool()]),
        )
        plot.toolbar.update(active_drag=tools[0], logo=None, autohide=True)
        plot.toolbar_location = "above"
        assert isinstance(plot.toolbar, Toolbar)
        self.bar = ColorBar(color_mapper=self.mapper, width=8, label_standoff=4, padding=2, visible=False)
        plot.add_layout(self.bar, "right")
        self.root = plot

    def _marks(self, plot: Any, side: str, marker: str) -> GlyphRenderer:
        style = {"marker": marker, "size": 3.6, "line_color": None, "fill_alpha": 0.4}
        return plot.scatter(f"{side}_x", f"{side}_y", source=self.source, **style)

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Draw the open head's cloud, or colour it anew."""
        if changed(old, new, "site", "head"):
            self._draw(new)
        if changed(old, new, "site", "head", "color_by"):
            self._colour(new.color_by)

    def _draw(self, new: ViewState) -> None:
        self.notes.update({"cloud": "", "cloud-facts": ""})
        found = "" if new.selected is None else cloud(self.run, *new.selected)
        if isinstance(found, str):
            self.notes["cloud"] = found
            self._drawn = np.array([], dtype=np.int64)
            self.source.data = {name: [] for name in _COLUMNS}
            return
        self._send(found)
        self._fit(np.concatenate([found.queries, found.keys]))
        n, n_sampled = len(found.tokens), found.n_sampled
        drawn = f"{n:,} of {n_sampled:,}" if n < n_sampled else f"{n:,}"
        self.notes["cloud-facts"] = f"{found.facts} · {drawn} sampled tokens on either side"

    def _send(self, found: Cloud) -> None:
        moving: dict[str, Any] = {
            **{f"query_{axis}": found.queries[:, i] for i, axis in enumerate("xy")},
            **{f"key_{axis}": found.keys[:, i] for i, axis in enumerate("xy")},
            "entropy": found.entropy,
        }
        if np.array_equal(found.tokens, self._drawn):
            for name, values in moving.items():
                self.source.data[name] = values
        else:
            fixed = {name: self._of_tokens(name, found.tokens) for name in ("text", "position", "document")}
            self.source.data = {**moving, **fixed}
        self._drawn = found.tokens

    def _of_tokens(self, name: str, tokens: np.ndarray) -> Any:
        column = self._tokens()[name]
        if len(column) > tokens.max():
            return column[tokens]
        return np.full(len(tokens), np.nan, dtype=np.float32) if name == "position" else ["–"] * len(tokens)

    def _fit(self, points: np.ndarray) -> None:
        """Both axes span the same length, so that distances in the square figure are true."""
        low, high = points.min(axis=0), points.max(axis=0)
        half = float((high - low).max()) / 2 * 1.04 or 1.0
        for axis, middle in zip((self.root.x_range, self.root.y_range), (low + high) / 2, strict=True):
            start, end = float(middle) - half, float(middle) + half
            axis.update(start=start, end=end, reset_start=start, reset_end=end)

    def _colour(self, by: str) -> None:
        colours = look(self._dark)
        query, key = self.query_marks.glyph, self.key_marks.glyph
        elsewhere = by not in ("side", *_TITLES)
        if by == "side" or elsewhere:
            query.fill_color, key.fill_color = colours.query, colours.key
        else:
            values = np.asarray(self.source.data[by], dtype=float)
            finite = values[np.isfinite(values)]
            low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
            self.mapper.update(low=low, high=high if high > low else low + 1)
            query.fill_color = {"field": by, "transform": self.mapper}
            key.fill_color = query.fill_color if by == "position" else colours.cross  # keys have no entropy
        self._by = by
        self.bar.visible = by in _TITLES
        self.notes["cloud-color"] = f"view Cloud colours by {COLOUR_BY[by]}" if elsewhere else _TITLES.get(by, "")

    def restyle(self, dark: bool) -> None:
        """Query and key colours of the theme."""
        self._dark = dark
        recolour(self.mapper, SEQUENTIAL, look(dark))
        self._colour(self._by)
