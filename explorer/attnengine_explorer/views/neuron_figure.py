"""The neuron view's figure: columns q, k, q ⊙ k, q·k and softmax of one query against every key, and its scales.

Python says where things stand and what colours they have, js/neurons.js multiplies and fills in the rows. So the same
figure works on the page, in a notebook and in a file. x runs from 0 to 1000 over the figure's width, y in rows: row r
of a list is centred at −r, what the corpus says stands above it at y > 0, the scales below.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import numpy as np
from bokeh.core.properties import value
from bokeh.models import ColumnDataSource, LinearColorMapper, Range1d, RangeTool, TapTool
from bokeh.plotting import figure

from attnengine.model.sentence import Tokens
from attnengine_explorer.neuron_data import CORPUS, Sheet
from attnengine_explorer.theme.colours import FONT, diverging, look
from attnengine_explorer.views.figures import hover, plain_figure
from attnengine_explorer.views.fonts import MONO

#: Left and right end of each column.
COLUMNS: dict[str, tuple[float, float]] = {
    "query_token": (2, 98),
    "q": (104, 254),
    "k": (300, 450),
    "product": (468, 708),
    "score": (724, 806),
    "softmax": (818, 900),
    "key_token": (906, 1000),
}
TITLES = {"q": "q", "k": "k", "product": "q ⊙ k", "score": "q·k", "softmax": "softmax"}
MATRICES = ("q", "k", "product")
#: Statistics of ``neurons`` above the columns: what each line is called.
CORPUS_LINES = {
    "row": "share of this row's score variance",
    "text": "… of this text's",
    "score_variance_share": "… of the corpus's",
    "qk_mean": "mean q ⊙ k, corpus",
    "qk_attended_mean": "mean attended q ⊙ k, corpus",
    "qk_sign_agreement": "sign agreement, corpus",
}
HEAD_ROWS = 2.2 + len(CORPUS_LINES)
FOOT_ROWS = 2.6
ROW_PIXELS = 16
_GEOMETRY = {
    "columns": COLUMNS,
    "lines": CORPUS_LINES,
    "head_rows": HEAD_ROWS,
    "foot_rows": FOOT_ROWS,
    "row_pixels": ROW_PIXELS,
}

_ROWS = (
    "y", "token", "full", "position", "dot", "scaled", "score", "softmax", "scaled_left", "scaled_right",
    "score_left", "score_right", "softmax_right", "alpha", "text",
)  # fmt: skip
_QUERIES = ("y", "token", "full", "position", "chosen")
_IMAGES = ("image", "x", "y", "dw", "dh", "neuron", "token", "value")


def sheet_columns(sheets: list[tuple[Sheet, int, int, dict[str, np.ndarray]]]) -> dict[str, list[Any]]:
    """Columns of the source of sheets: each with the rows of its query and key stream and its corpus facts."""
    columns = {f.name: [getattr(sheet, f.name) for sheet, *_ in sheets] for f in fields(Sheet)}
    columns["query_stream"] = [query for _, query, _, _ in sheets]
    columns["key_stream"] = [key for _, _, key, _ in sheets]
    names = [name for column in CORPUS for name in (column, f"{column}_se")]
    return columns | {f"corpus_{name}": [facts.get(name) for *_, facts in sheets] for name in names}


def stream_columns(streams: list[Tokens]) -> dict[str, list[Any]]:
    """Columns of the source of token streams: texts, and which of two texts a token belongs to."""
    return {
        "texts": [list(tokens.texts) for tokens in streams],
        "segment": [tokens.segment.astype(np.int32) for tokens in streams],
    }


class NeuronFigure:
    """The figure, the strip of a long text's softmax, and every source that js/neurons.js fills.

    ``sheets`` and ``streams`` come from Python, the others from the script, which finds them by ``name``.
    """

    def __init__(self, name: str = "qk") -> None:
        self.name = name
        self.sheets = ColumnDataSource(name=f"{name}-sheets", data=sheet_columns([]))
        self.streams = ColumnDataSource(name=f"{name}-streams", data=stream_columns([]))
        self.rows, self.queries = self._source("rows", _ROWS), self._source("queries", _QUERIES)
        self.mappers = {
            matrix: LinearColorMapper(name=f"{name}-{matrix}-scale", palette=list(diverging(False)), low=-1, high=1)
            for matrix in (*MATRICES, "lines")
        }
        self.root = plain_figure(f"{name}-view", x_range=Range1d(0, 1000), y_range=Range1d(-10, HEAD_ROWS))
        self.root.update(sizing_mode="stretch_width", height=400, min_border=0)
        self.root.axis.visible = False
        self._matrices()
        self._marks()
        self._bars()
        self._tokens()
        self._labels()
        self.strip = self._strip()
        # A source that no root refers to would not reach the browser.
        self.root.tags = [self.sheets, self.streams, json.dumps(_GEOMETRY)]
        self.restyle(False)

    def _source(self, name: str, columns: tuple[str, ...]) -> ColumnDataSource:
        return ColumnDataSource(name=f"{self.name}-{name}", data={column: [] for column in columns})

    def _marks(self) -> None:
        plot = self.root
        source = self._source("marks", ("left", "right", "top", "bottom"))
        self.chosen = plot.quad("left", "right", "top", "bottom", source=source, line_width=1.5, fill_alpha=0)
        self.links = plot.segment(
            COLUMNS["q"][1] + 3, "y0", COLUMNS["k"][0] - 3, "y", source=self._source("links", ("y0", "y", "alpha")),
            line_alpha="alpha", line_width=1.5,
        )  # fmt: skip

    def _matrices(self) -> None:
        self.images = {}
        tips = {
            "q": [("query", "@token"), ("neuron", "@neuron"), ("q", "@value")],
            "k": [("key", "@token"), ("neuron", "@neuron"), ("k", "@value")],
            "product": [("key", "@token"), ("neuron", "@neuron"), ("q ⊙ k", "@value")],
            "lines": [("", "@token"), ("neuron", "@neuron"), ("value", "@value")],
        }
        for name, mapper in self.mappers.items():
            drawn = self.root.image(
                "image", "x", "y", "dw", "dh", source=self._source(f"{name}-image", _IMAGES), color_mapper=mapper
            )
            self.root.add_tools(hover([drawn], "", tips[name]))
            self.images[name] = drawn
        scales = self._source("scales", ("image", "x", "y", "dw", "dh"))
        self.root.image(
            "image", "x", "y", "dw", "dh", source=scales,
            color_mapper=(one := LinearColorMapper(palette=list(diverging(False)), low=-1, high=1)),
        )  # fmt: skip
        self.mappers["one"] = one

    def _bars(self) -> None:
        plot, rows = self.root, self.rows
        bar: dict[str, Any] = {"source": rows, "y": "y", "line_color": None}
        self.scaled = plot.hbar(left="scaled_left", right="scaled_right", height=0.82, fill_alpha=0.3, **bar)
        self.score = plot.hbar(left="score_left", right="score_right", height=0.5, **bar)
        self.softmax = plot.hbar(left=COLUMNS["softmax"][0], right="softmax_right", height=0.72, **bar)
        tips = [
            ("key", "@full"), ("position", "@position"), ("q·k", "@dot"), ("× scale", "@scaled"),
            ("score", "@score"), ("softmax", "@softmax"),
        ]  # fmt: skip
        middle = (COLUMNS["score"][0] + COLUMNS["softmax"][1]) / 2
        width = COLUMNS["softmax"][1] - COLUMNS["score"][0]
        area = plot.rect(middle, "y", width, 1, source=rows, fill_alpha=0, line_color=None)
        plot.add_tools(hover([area], "", tips))

    def _tokens(self) -> None:
        plot = self.root
        text: dict[str, Any] = {"text_font": value(MONO), "text_font_size": "11px", "text_baseline": "middle"}
        left, right = COLUMNS["query_token"], COLUMNS["key_token"]
        self.query_text = plot.text(left[1], "y", "token", source=self.queries, text_align="right", **text)
        self.key_text = plot.text(right[0], "y", "token", source=self.rows, text_alpha="alpha", **text)
        areas = [
            plot.rect(sum(ends) / 2, "y", ends[1] - ends[0], 1, source=source, fill_alpha=0, line_color=None, name=name)
            for ends, source, name in (
                ((left[0], COLUMNS["q"][1]), self.queries, f"{self.name}-query-areas"),
                (right, self.rows, f"{self.name}-key-areas"),
            )
        ]
        for area in areas:
            area.nonselection_glyph = None
        plot.add_tools(
            TapTool(renderers=areas),
            hover(areas[:1], "@full", [("position", "@position"), ("", "click: expand")]),
            hover(areas[1:], "@full", [("position", "@position"), ("", "click: this key alone")]),
        )

    def _labels(self) -> None:
        source = ColumnDataSource(
            name=f"{self.name}-labels", data={"x": [], "y": [], "text": [], "align": [], "kind": []}
        )
        titles = ColumnDataSource(
            data={
                "x": [sum(COLUMNS[name]) / 2 for name in TITLES],
                "y": [0.95] * len(TITLES),
                "text": list(TITLES.values()),
            }
        )
        style: dict[str, Any] = {"text_font": value(FONT), "text_baseline": "middle"}
        self.titles = self.root.text(
            "x", "y", "text", source=titles, text_align="center", text_font_size="12px", text_font_style="bold", **style
        )
        self.labels = self.root.text(
            "x", "y", "text", source=source, text_align="align", text_font_size="11px", **style
        )

    def _strip(self) -> figure:
        """Softmax over all positions of a long text, with the window that is drawn."""
        strip = plain_figure(f"{self.name}-strip", x_range=Range1d(0, 1), y_range=Range1d(0, 1))
        strip.update(sizing_mode="stretch_width", height=86, visible=False)
        self.stems = strip.segment("x", 0, "x", "y", source=self._source("stems", ("x", "y")), line_width=1)
        self.window = Range1d(0, 1, name=f"{self.name}-window")
        self.brush = RangeTool(x_range=self.window)
        strip.add_tools(self.brush)
        strip.yaxis.visible = False
        return strip

    def restyle(self, dark: bool) -> None:
        """Colours of the light or dark theme."""
        colours = look(dark)
        for mapper in self.mappers.values():
            mapper.update(palette=list(diverging(dark)), nan_color=colours.missing)
        self.chosen.glyph.line_color = colours.query
        self.links.glyph.line_color = colours.query
        self.scaled.glyph.fill_color = colours.cross
        self.score.glyph.fill_color = colours.ink
        self.softmax.glyph.fill_color = colours.ink
        self.query_text.glyph.text_color = colours.query
        self.key_text.glyph.text_color = colours.key
        self.titles.glyph.text_color = colours.ink
        self.labels.glyph.text_color = colours.faint
        self.stems.glyph.line_color = colours.ink
        self.brush.overlay.update(fill_color=colours.query, fill_alpha=0.15, line_color=colours.query)
