"""The joint query–key cloud of the open head: sampled queries and centred keys on their two main axes."""

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
from attnengine_explorer.numbers import number
from attnengine_explorer.run_data import RunData
from attnengine_explorer.state import ViewState
from attnengine_explorer.theme.colours import SEQUENTIAL, look
from attnengine_explorer.views import changed
from attnengine_explorer.views.figures import hover, plain_figure, recolour

_COLUMNS = ("x", "y", "position", "entropy", "entropy_text", "text", "document")
_TITLES = {"position": "position in the window", "entropy": "entropy of the query's pattern, nats (keys grey)"}


class CloudView:
    """Two sources: queries are circles, keys triangles. Token text is sent once, coordinates with each head."""

    def __init__(self, run: RunData) -> None:
        self.run = run
        self.notes = {"cloud": "", "cloud-facts": "", "cloud-color": ""}
        self._dark = False
        self._drawn = np.array([], dtype=np.int64)
        self._tokens = cache(lambda: token_columns(run))  # read when the first head is opened
        self.queries = ColumnDataSource(data={name: [] for name in _COLUMNS}, name="cloud-queries")
        self.keys = ColumnDataSource(data={name: [] for name in _COLUMNS}, name="cloud-keys")
        self.mapper = LinearColorMapper(palette=list(SEQUENTIAL), low=0, high=1)
        plot = plain_figure("cloud", x_range=Range1d(-1, 1), y_range=Range1d(-1, 1))
        plot.axis.visible = False
        self.key_marks = self._marks(plot, self.keys, "triangle")
        self.query_marks = self._marks(plot, self.queries, "circle")
        rows = [("position", "@position{0,0}"), ("document", "@document")]
        mono = '<span style="font-family: ui-monospace, monospace">@text</span>'
        plot.add_tools(
            hover(
                [self.query_marks], f"query {mono}", [*rows, ("entropy", "@entropy_text")], attachment="left", limit=1
            ),
            hover([self.key_marks], f"key {mono}", rows, attachment="right", limit=1),
            *(tools := [PanTool(), BoxZoomTool(match_aspect=True), WheelZoomTool(), ResetTool()]),
        )
        plot.toolbar.update(active_drag=tools[0], logo=None, autohide=True)
        plot.toolbar_location = "above"
        assert isinstance(plot.toolbar, Toolbar)
        self.bar = ColorBar(color_mapper=self.mapper, width=8, label_standoff=4, padding=2, visible=False)
        plot.add_layout(self.bar, "right")
        self.root = plot

    def _marks(self, plot: Any, source: ColumnDataSource, marker: str) -> GlyphRenderer:
        return plot.scatter("x", "y", source=source, marker=marker, size=3.6, line_color=None, fill_alpha=0.4)

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
            for source in (self.queries, self.keys):
                source.data = {name: [] for name in _COLUMNS}
            return
        same_tokens = np.array_equal(found.tokens, self._drawn)
        self._drawn = found.tokens
        self._send(self.queries, found.queries, found, same_tokens, with_entropy=True)
        self._send(self.keys, found.keys, found, same_tokens, with_entropy=False)
        self._fit(np.concatenate([found.queries, found.keys]))
        first, second = (f"PCA {i + 1}: {100 * share:.1f} %" for i, share in enumerate(found.explained))
        drawn = (
            f"{len(found.tokens):,} of {found.n_sampled:,}"
            if len(found.tokens) < found.n_sampled
            else f"{found.n_sampled:,}"
        )
        self.notes["cloud-facts"] = f"→ {first} · ↑ {second} of the variance · {drawn} sampled tokens on either side"

    def _send(
        self, source: ColumnDataSource, points: np.ndarray, found: Cloud, same_tokens: bool, *, with_entropy: bool
    ) -> None:
        entropy = found.entropy if with_entropy else np.full(len(points), np.nan, dtype=np.float32)
        moving: dict[str, Any] = {"x": points[:, 0], "y": points[:, 1], "entropy": entropy}
        if with_entropy:
            moving["entropy_text"] = [number(float(value), 3) for value in entropy]
        if same_tokens:
            for name, values in moving.items():
                source.data[name] = values
        else:
            fixed = {name: self._of_tokens(name, found.tokens) for name in ("text", "position", "document")}
            source.data = {"entropy_text": [""] * len(points), **moving, **fixed}

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
        if by == "side":
            self.query_marks.glyph.fill_color = colours.query
            self.key_marks.glyph.fill_color = colours.key
        else:
            values = np.asarray(self.queries.data[by], dtype=float)
            finite = values[np.isfinite(values)]
            low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
            self.mapper.update(low=low, high=high if high > low else low + 1)
            for marks in (self.query_marks, self.key_marks):
                marks.glyph.fill_color = {"field": by, "transform": self.mapper}
        self.bar.visible = by != "side"
        self.notes["cloud-color"] = _TITLES.get(by, "")

    def restyle(self, dark: bool) -> None:
        """Query and key colours of the theme."""
        self._dark = dark
        recolour(self.mapper, SEQUENTIAL, look(dark))
        if not self.bar.visible:
            self._colour("side")
