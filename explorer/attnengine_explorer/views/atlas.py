"""The atlas: every head of the model in one figure, coloured by a statistic or drawn as its mean pattern or cloud."""

from __future__ import annotations

from functools import partial

import numpy as np
from bokeh.models import ColorBar, ColumnDataSource, LinearColorMapper, Range1d, Rect, TapTool
from bokeh.plotting import figure

from attnengine_explorer.atlas import columns_of, compose, fold_for, limits
from attnengine_explorer.desk import Desk
from attnengine_explorer.head_data import value_texts
from attnengine_explorer.points.all_heads import AllHeads
from attnengine_explorer.points.palette import palette
from attnengine_explorer.state import ViewState
from attnengine_explorer.theme.colours import SEQUENTIAL, diverging, look
from attnengine_explorer.views import changed
from attnengine_explorer.views.figures import hover, plain_figure, recolour, ticks
from attnengine_explorer.views.gathering import Gathering, pictures, placed

#: Shown for every head beside the chosen statistic, where a run has them.
KEY_STATISTICS = {
    "entropy": "Entropy",
    "distance_mean": "Distance",
    "first_mass": "First",
    "previous_mass": "Previous",
    "induction_mass": "Induction",
}  # name → heading of its narrow column in the table
#: A thumbnail's colour is the square root of its share of the head's largest bin.
_PATTERN_TICKS = {0.0: "0", 0.5: "¼", 0.5**0.5: "½", 1.0: "max"}
_CELL = 0.94
_NO_PICTURES: dict[str, list[object]] = {name: [] for name in ("image", "x", "y", "dw", "dh")}


class AtlasView:
    """The atlas figure. It adds to the source of heads where each stands (x, y) and its ``value``, ``se`` and ``text``
    of the statistic.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.run = desk.run
        self.heads = heads = desk.heads
        self.notes: dict[str, str] = {}
        self._dark = False
        self.source = heads.source
        heads.add("x", "y", "value", "se")
        self.source.data.update(self._fixed_columns())
        self.veil = ColumnDataSource(data={"x": [], "y": []}, name="veil")
        self.missing = ColumnDataSource(data={"x": [], "y": []}, name="missing")
        self.mapper = heads.mapper
        self.images = ColumnDataSource(data=_NO_PICTURES, name="thumbnails")
        self.clouds = ColumnDataSource(data=_NO_PICTURES, name="cloud-thumbnails")
        self.cloud_mapper = LinearColorMapper(palette=list(palette("side", False)), low=0, high=255)
        self._gathering = Gathering(desk)
        self.picture_mapper = LinearColorMapper(palette=list(SEQUENTIAL), low=1, high=255, low_color="rgba(0, 0, 0, 0)")
        self.root = self._figure()
        self.bar = ColorBar(color_mapper=self.mapper, width=10, label_standoff=6, padding=4, margin=0)
        self.root.add_layout(self.bar, "right")

    @property
    def cells(self) -> dict[tuple[int, int], tuple[float, float]]:
        """(site, head) → (x, y) as drawn now."""
        data = self.source.data
        return dict(zip(self.run.index, zip(data["x"], data["y"], strict=True), strict=True))

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Redraw what this step changed."""
        if changed(old, new, "statistic"):
            self._recolour(new)
        if changed(old, new, "statistic", "order"):
            self._move(new)
        if changed(old, new, "statistic", "order", "show") or (new.show == "cloud" and changed(old, new, "projection")):
            self._show(new)
        if changed(old, new, "statistic", "order", "filters"):
            self.veil.data = {axis: self.source.data[axis][~self.heads.passing] for axis in ("x", "y")}

    def restyle(self, dark: bool) -> None:
        """Light or dark colours for cells, marks and the selection."""
        self._dark = dark
        colours = look(dark)
        recolour(self.mapper, diverging(dark) if self.mapper.low == -self.mapper.high else SEQUENTIAL, colours)
        self.crosses.glyph.line_color = colours.cross
        self.hovered.glyph.line_color = colours.ink
        self.veiled.glyph.fill_color = colours.page
        self.cloud_mapper.palette = list(palette("side", dark))

    def _fixed_columns(self) -> dict[str, np.ndarray]:
        rows = self.run.rows
        columns: dict[str, np.ndarray] = {
            "title": np.full(len(rows), "", dtype=object),
            "text": np.full(len(rows), "", dtype=object),
        }
        for name in self.key_statistics:
            statistic = self.run.statistics[name]
            columns[f"key_{name}"] = np.array([float(row[name]) for row in rows])
            columns[f"key_{name}_text"] = value_texts(self.run, statistic)
        return columns

    @property
    def key_statistics(self) -> list[str]:
        """Those of :data:`KEY_STATISTICS` that the run has."""
        return [name for name in KEY_STATISTICS if name in self.run.statistics]

    def _figure(self) -> figure:
        grid = self.run.grid
        plot = plain_figure("atlas", x_range=Range1d(-0.5, grid.n_columns - 0.5), y_range=Range1d(grid.bottom, 0.5))
        plot.image("image", x="x", y="y", dw="dw", dh="dh", source=self.images, color_mapper=self.picture_mapper)
        plot.image("image", x="x", y="y", dw="dw", dh="dh", source=self.clouds, color_mapper=self.cloud_mapper)
        style = {"width": _CELL, "height": _CELL, "x": "x", "y": "y"}
        style["fill_color"] = {"field": "value", "transform": self.mapper}
        self.rects = plot.add_glyph(
            self.source,
            Rect(**style, line_color=None),
            selection_glyph=None,
            nonselection_glyph=None,
        )
        self.veiled = plot.add_glyph(self.veil, Rect(x="x", y="y", width=1, height=1, line_color=None, fill_alpha=0.86))
        # A hatch would say it in the cells themselves, but a thousand hatched cells take the browser 15 s to redraw.
        self.crosses = plot.scatter("x", "y", source=self.missing, marker="x", size=9, line_width=1.2)
        ring = {"x": "x", "y": "y", "width": _CELL, "height": _CELL, "fill_color": None}
        plot.add_glyph(self.heads.marked, Rect(**ring, line_color="ring", line_width=3))
        self.hovered = plot.add_glyph(self.heads.hovered, Rect(**ring, line_width=1.5), level="overlay")
        labels = [(self.run.statistics[name].title, f"@key_{name}_text") for name in self.key_statistics]
        plot.add_tools(
            hover([self.rects], "@name", [("<b>@title</b>", "<b>@text</b>"), *labels]), TapTool(renderers=[self.rects])
        )
        rows_apart = 1 + len(grid.rows) // 33
        ticks(plot.yaxis[0], {row.y: row.label for row in grid.rows if row.site.layer % rows_apart == 0})
        columns_apart = next((step for step in (1, 2, 4, 8) if grid.n_columns <= 20 * step), 16)
        ticks(plot.xaxis[0], {float(i): str(i) for i in range(0, grid.n_columns, columns_apart)})
        plot.axis.axis_line_color = None
        plot.axis.major_tick_line_color = None
        return plot

    def _recolour(self, new: ViewState) -> None:
        statistic = self.run.statistics[new.statistic]
        values = self.run.heads[new.statistic].to_numpy(dtype=float)
        error = f"{new.statistic}_se"
        nothing = np.full(len(values), np.nan)
        self.source.data["value"] = values
        self.source.data["se"] = self.run.heads[error].to_numpy(dtype=float) if error in self.run.heads else nothing
        self.source.data["title"] = np.full(len(values), statistic.title, dtype=object)
        self.source.data["text"] = value_texts(self.run, statistic)
        low, high = limits(values, statistic)
        self.mapper.update(low=low, high=high)
        recolour(self.mapper, diverging(self._dark) if statistic.signed else SEQUENTIAL, look(self._dark))
        missing = int(np.isnan(values).sum())
        self.notes["formula"], self.notes["paper"] = statistic.formula, statistic.paper
        self.notes["missing"] = f"{missing} of {len(values)} heads have no value here (×)" if missing else ""

    def _move(self, new: ViewState) -> None:
        values = self.run.heads[new.statistic].to_numpy(dtype=float)
        heights = {row.site.site: row.y for row in self.run.grid.rows}
        columns = columns_of(self.run.grid, list(self.run.index), values, new.order)
        self.source.data["x"] = columns.astype(float)
        self.source.data["y"] = np.array([heights[site] for site, _ in self.run.index])
        self.root.xaxis[0].axis_label = "head" if new.order == "head" else "rank within the row, highest first"

    def _show(self, new: ViewState) -> None:
        """The cells as ``new.show`` says."""
        self._gathering.stop()
        self.notes["cells"] = ""
        shown = "statistic" if new.show == "pattern" and self.run.patterns is None else new.show
        self.rects.glyph.fill_alpha = 1.0 if shown == "statistic" else 0.0
        self.images.data = self._patterns() if shown == "pattern" else _NO_PICTURES
        self.clouds.data = _NO_PICTURES
        self.bar.visible = shown != "cloud"
        if shown == "pattern":
            self._cross([self.run.pattern(*head) is None for head in self.run.index])
            self.bar.color_mapper = LinearColorMapper(palette=list(SEQUENTIAL), low=0, high=1)
            ticks(self.bar, _PATTERN_TICKS)
            self.notes["cells"] = "each head on its own scale, square root"
            return
        self.bar.color_mapper = self.mapper
        self.bar.update(ticker="auto", major_label_overrides={})
        if shown == "statistic":
            self._cross(np.isnan(self.run.heads[new.statistic].to_numpy(dtype=float)))
        else:
            self._cross([False] * len(self.run.rows))
            self._read_clouds(new)

    def _cross(self, missing: np.ndarray | list[bool]) -> None:
        """Cross out the heads that have nothing to show; ``missing`` (heads,)."""
        self.missing.data = {axis: self.source.data[axis][np.asarray(missing, bool)] for axis in ("x", "y")}

    def _patterns(self) -> dict[str, list[object]]:
        patterns, grid = self.run.patterns, self.run.grid
        assert patterns is not None
        fold = fold_for(len(grid.rows) * grid.n_columns, patterns.shape[2])
        return placed(grid, [compose(block, self._columns, patterns, grid.n_columns, fold) for block in grid.blocks])

    @property
    def _columns(self) -> dict[tuple[int, int], int]:
        """(site, head) → its column as drawn now."""
        return {head: int(x) for head, (x, _) in self.cells.items()}

    def _read_clouds(self, new: ViewState) -> None:
        if problem := self._gathering.problem():
            self.notes["cells"] = f"No clouds: {problem}"
            return
        self._gathering.begin(new.projection, "side", partial(self.notes.__setitem__, "cells"), self._draw_clouds)

    def _draw_clouds(self, heads: AllHeads) -> None:
        """Every head's queries and keys in its cell."""
        colours = heads.colours("side")
        cells = {head: heads.cell(head, colours[head], None) for head in heads.pixels}
        self.clouds.data = pictures(self.run.grid, self._columns, cells, heads.size)
        self._cross([head in heads.problems for head in self.run.index])
        grey = f"; {heads.n_grey:,} too unfaithful to be read (grey)" if heads.n_grey else ""
        told = f"queries blue, keys orange{grey}"
        self.notes["cells"] = told if heads.pixels else f"No clouds: {next(iter(heads.problems.values()), 'no head')}"
