"""The head view of one attention call: tokens in two columns, a line a weight, a square a head (BertViz's head view).

The figure is made from arrays alone and js/head_view.js does all that follows the mouse, so that a page, a notebook and
a file show the same. Left stand the queries, right the keys; a line is as opaque as its weight.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.core.properties import value
from bokeh.models import Bezier, ColumnDataSource, Model, Range1d, Rect, Text
from bokeh.plotting import figure

from attnengine.model.sentence import Sentence, Tokens
from attnengine_explorer.sentence.lines import Lines, lines
from attnengine_explorer.sentence.tokens import labels
from attnengine_explorer.theme.colours import look
from attnengine_explorer.views.figures import bare
from attnengine_explorer.views.fonts import MONO

LEFT, RIGHT, BOX = 0.3, 0.7, 0.29  # as in js/head_view.js
ROW, HEAD_ROW = 19, 26  # pixels
HEADS_A_ROW = 16
_DRAWN = ("x0", "y0", "x1", "y1", "cx0", "cy0", "cx1", "cy1", "alpha", "width", "color")


@dataclass(frozen=True)
class Shown:
    """What one head view shows: windows of an attention call's queries and keys, and their lines."""

    queries: Tokens
    keys: Tokens
    query_span: slice
    key_span: slice
    lines: Lines
    names: list[str]  # of the heads


def shown(sentence: Sentence, site: int, query_span: slice, key_span: slice) -> Shown:
    """The part of a site's attention between two windows of its tokens."""
    call = sentence.attentions[site]
    keys = sentence.key_tokens(site)
    found = lines(call, keys.special, query_span, key_span)
    names = [f"H{head}" for head in range(len(call.query))]
    return Shown(sentence.query_tokens(site), keys, query_span, key_span, found, names)


def head_colours(n: int) -> list[str]:
    """A colour a head: hues around the circle, of two lightnesses so that neighbours differ."""
    colours = []
    for i in range(n):
        rgb = colorsys.hls_to_rgb((0.57 + i / max(n, 6)) % 1, 0.42 if i % 2 else 0.54, 0.68)
        colours.append("#" + "".join(f"{round(255 * c):02x}" for c in rgb))
    return colours


class HeadFigure:
    """The two figures of a head view, ``heads`` (squares) above ``figure`` (tokens and lines), and their sources.

    ``name`` begins the names of all models, so that a page can hold two of them.
    """

    def __init__(self, name: str) -> None:
        self.name = name

        def source(what: str, *columns: str) -> ColumnDataSource:
            return ColumnDataSource(data={column: [] for column in columns}, name=f"{name}-{what}")

        self.lines = source("lines", "query", "key", "head", "weight")
        self.rest = source("rest", "value")
        self.left = source("left", "y", "text", "special", "segment")
        self.right = source("right", "y", "text", "special", "segment")
        self.squares = source("squares", "x", "y", "name", "label", "color", "on")
        self.drawn = source("drawn", *_DRAWN)
        self.strips = source("strips", "x", "y", "width", "alpha", "color")
        self.numbers = source("numbers", "x", "y", "text", "side")
        self.mark = source("mark", "x", "y", "color")
        self.headings = source("headings", "x", "text", "side", "color")
        options = {
            "between": ["all"], "hide": [0], "threshold": [0.0], "many": [1], "pin": [-1], "pin_side": ["query"],
            "first_query": [0], "first_key": [0], "query_color": [""], "key_color": [""],
        }  # fmt: skip
        self.options = ColumnDataSource(data=options, name=f"{name}-options")
        self.heads = self._squares()
        self.figure = self._lines()
        self.restyle(dark=False)

    @property
    def models(self) -> dict[str, Model]:
        """What js/head_view.js works with."""
        names = (
            "figure", "heads", "lines", "rest", "left", "right", "squares", "drawn", "strips", "numbers", "mark",
            "options",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def _plain(self, name: str, **options: Any) -> figure:
        plot = figure(
            name=f"{self.name}-{name}", tools="", toolbar_location=None, sizing_mode="stretch_width", min_border=0,
            lod_threshold=None, x_range=Range1d(0, 1), y_range=Range1d(0.5, -0.5), **options,
        )  # fmt: skip
        bare(plot)
        plot.axis.visible = False
        plot.subscribed_events = {"reset"}  # never happens, but makes BokehJS hand the figure's events to listeners
        return plot

    def _squares(self) -> figure:
        plot = self._plain("heads", height=HEAD_ROW)
        style = {"marker": "square", "size": 15, "line_color": "color", "fill_color": "color", "line_width": 1.5}
        self.square_marks = plot.scatter("x", "y", source=self.squares, fill_alpha="on", **style)
        numbers = Text(x="x", y="y", text="label", text_align="left", text_baseline="middle", x_offset=10)
        self.square_names = plot.add_glyph(self.squares, numbers)
        self.square_names.glyph.text_font_size = "11px"
        # The numbers that only the script reads reach the browser because a root refers to them.
        plot.tags = [self.lines, self.rest, self.options]
        return plot

    def _lines(self) -> figure:
        plot = self._plain("figure", height=ROW)
        box = Rect(x="x", y="y", width=BOX, height=0.96, fill_color="color", fill_alpha=0.22, line_color=None)
        plot.add_glyph(self.mark, box)
        strip = Rect(x="x", y="y", width="width", height=0.96, fill_color="color", fill_alpha="alpha", line_color=None)
        plot.add_glyph(self.strips, strip)
        places = {name: name for name in ("x0", "y0", "x1", "y1", "cx0", "cy0", "cx1", "cy1")}
        plot.add_glyph(self.drawn, Bezier(**places, line_color="color", line_alpha="alpha", line_width="width"))
        # What the mouse does not change has a canvas of its own, which is not painted anew with what it does.
        still = {"level": "overlay"}
        self.texts = [
            plot.add_glyph(self.left, Text(x=LEFT - 0.015, y="y", text="text", text_align="right"), **still),
            plot.add_glyph(self.right, Text(x=RIGHT + 0.015, y="y", text="text", text_align="left"), **still),
            plot.add_glyph(self.numbers, Text(x="x", y="y", text="text", text_align="side")),
        ]
        for renderer in self.texts:
            renderer.glyph.update(text_font=value(MONO), text_font_size="12px", text_baseline="middle")
        heading = Text(x="x", y=-1, text="text", text_align="side", text_color="color", text_baseline="middle")
        plot.add_glyph(self.headings, heading, **still)
        heading.text_font_size = "11px"
        return plot

    def show(self, found: Shown) -> None:
        """Draw other tokens and lines; which heads are on is kept where their number is the same."""
        for source, tokens, span in (
            (self.left, found.queries, found.query_span),
            (self.right, found.keys, found.key_span),
        ):
            texts = labels(tokens)[span]
            source.data = {
                "y": np.arange(len(texts), dtype=np.float32),
                "text": texts,
                "special": tokens.special[span].astype(np.uint8),
                "segment": tokens.segment[span].astype(np.uint8),
            }
        rows = max(len(self.left.data["y"]), len(self.right.data["y"]))
        self.figure.update(height=ROW * (rows + 2))
        self.figure.y_range.update(start=rows - 0.3, end=-1.7)
        self._show_heads(found.names)
        self.rest.data = {"value": found.lines.rest.ravel()}
        self.option(first_query=found.query_span.start or 0, first_key=found.key_span.start or 0)
        self.lines.data = {name: getattr(found.lines, name) for name in ("query", "key", "head", "weight")}

    def _show_heads(self, names: list[str]) -> None:
        if names == list(self.squares.data["name"]):
            return
        n = len(names)
        place = np.arange(n)
        self.squares.data = {
            "x": (place % HEADS_A_ROW).astype(np.float32),
            "y": (place // HEADS_A_ROW).astype(np.float32),
            "name": names,
            "label": [str(head) for head in range(n)],  # short, for two sentences side by side
            "color": head_colours(n),
            "on": np.ones(n, dtype=np.uint8),
        }
        rows = -(-n // HEADS_A_ROW)
        self.heads.update(height=HEAD_ROW * rows)
        self.heads.x_range.update(start=-0.5, end=HEADS_A_ROW - 0.3)
        self.heads.y_range.update(start=rows - 0.5, end=-0.5)

    def light(self, heads: set[int]) -> None:
        """Turn these heads on and the others off."""
        on = np.array([head in heads for head in range(len(self.squares.data["name"]))], dtype=np.uint8)
        if not np.array_equal(on, self.squares.data["on"]):
            self.squares.data = self.squares.data | {"on": on}

    @property
    def lit(self) -> set[int]:
        """The heads that are on."""
        return set(np.flatnonzero(self.squares.data["on"]).tolist())

    def option(self, **values: Any) -> None:
        """Set options of the picture: between, hide, threshold, many, pin, pin_side."""
        new = {name: [value] for name, value in values.items()}
        if any(list(self.options.data[name]) != value for name, value in new.items()):
            self.options.data = dict(self.options.data) | new

    def restyle(self, dark: bool) -> None:
        """Take on the colours of the light or dark theme."""
        colours = look(dark)
        for renderer in (*self.texts, self.square_names):
            renderer.glyph.text_color = colours.ink
        self.headings.data = {
            "x": [LEFT - 0.015, RIGHT + 0.015], "text": ["queries", "keys"], "side": ["right", "left"],
            "color": [colours.query, colours.key],
        }  # fmt: skip
        self.option(query_color=colours.query, key_color=colours.key)
