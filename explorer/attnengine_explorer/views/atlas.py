"""The atlas: every head of the model in one figure, coloured by a statistic or drawn as its mean pattern."""

from __future__ import annotations

import numpy as np
from bokeh.models import ColorBar, ColumnDataSource, LinearColorMapper, Range1d, Rect, TapTool
from bokeh.plotting import figure

from attnengine_explorer.atlas import columns_of, compose, fold_for, limits
from attnengine_explorer.head_data import value_text
from attnengine_explorer.heads_source import HeadsSource
from attnengine_explorer.run_data import RunData
from attnengine_explorer.state import ViewState
from attnengine_explorer.theme.colours import SEQUENTIAL, diverging, look
from attnengine_explorer.views import changed
from attnengine_explorer.views.figures import hover, plain_figure, recolour, ticks

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


class AtlasView:
    """The atlas figure. It adds to the source of heads where each stands (x, y) and its ``value``, ``se`` and ``text``
    of the statistic.
    """

    def __init__(self, run: RunData, heads: HeadsSource) -> None:
        self.run = run
        self.heads = heads
        self.notes: dict[str, str] = {}
        self._dark = False
        self.source = heads.source
        self.source.data.update(self._fixed_columns())
        self.veil = ColumnDataSource(data={"x": [], "y": []}, name="veil")
        self.missing = ColumnDataSource(data={"x": [], "y": []}, name="missing")
        self.mapper = heads.mapper
        self.images = ColumnDataSource(data={name: [] for name in ("image", "x", "y", "dw", "dh")}, name="thumbnails")
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
        if changed(old, new, "statistic", "order", "show"):
            self._show(new)
        if changed(old, new, "statistic", "order", "filters"):
            self.veil.data = {axis: self.source.data[axis][~self.heads.passing] for axis in ("x", "y")}

    def restyle(self, dark: bool) -> None:
        """Light or dark colours for cells, marks and the selection."""
        self._dark = dark
        colours = look(dark)
        recolour(self.mapper, diverging(dark) if self.mapper.low == -self.mapper.high else SEQUENTIAL, colours)
        self.crosses.glyph.line_color = colours.cross
        self.rects.hover_glyph.line_color = colours.faint
        self.veiled.glyph.fill_color = colours.page

    def _fixed_columns(self) -> dict[str, np.ndarray]:
        rows = self.run.rows
        nothing = np.full(len(rows), np.nan)
        columns: dict[str, np.ndarray] = {
            **dict.fromkeys(("x", "y", "value", "se"), nothing),
            "title": np.full(len(rows), "", dtype=object),
            "text": np.full(len(rows), "", dtype=object),
        }
        for name in self.key_statistics:
            statistic = self.run.statistics[name]
            columns[f"key_{name}"] = np.array([float(row[name]) for row in rows])
            columns[f"key_{name}_text"] = np.array([value_text(self.run, statistic, row) for row in rows], dtype=object)
        return columns

    @property
    def key_statistics(self) -> list[str]:
        """Those of :data:`KEY_STATISTICS` that the run has."""
        return [name for name in KEY_STATISTICS if name in self.run.statistics]

    def _figure(self) -> figure:
        grid = self.run.grid
        plot = plain_figure("atlas", x_range=Range1d(-0.5, grid.n_columns - 0.5), y_range=Range1d(grid.bottom, 0.5))
        plot.image("image", x="x", y="y", dw="dw", dh="dh", source=self.images, color_mapper=self.picture_mapper)
        style = {"width": _CELL, "height": _CELL, "x": "x", "y": "y"}
        style["fill_color"] = {"field": "value", "transform": self.mapper}
        self.rects = plot.add_glyph(
            self.source,
            Rect(**style, line_color=None),
            hover_glyph=Rect(**style, line_width=2),
            selection_glyph=None,
            nonselection_glyph=None,
        )
        self.veiled = plot.add_glyph(self.veil, Rect(x="x", y="y", width=1, height=1, line_color=None, fill_alpha=0.86))
        # A hatch would say it in the cells themselves, but a thousand hatched cells take the browser 15 s to redraw.
        self.crosses = plot.scatter("x", "y", source=self.missing, marker="x", size=9, line_width=1.2)
        ring = {"x": "x", "y": "y", "width": _CELL, "height": _CELL, "line_color": "ring", "fill_color": None}
        plot.add_glyph(self.heads.marked, Rect(**ring, line_width=3))
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
        texts = [value_text(self.run, statistic, row) for row in self.run.rows]
        self.source.data["value"] = values
        self.source.data["se"] = self.run.heads[error].to_numpy(dtype=float) if error in self.run.heads else nothing
        self.source.data["title"] = np.full(len(values), statistic.title, dtype=object)
        self.source.data["text"] = np.array(texts, dtype=object)
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
        as_pattern = new.show == "pattern" and self.run.patterns is not None
        values = self.run.heads[new.statistic].to_numpy(dtype=float)
        missing = (
            np.array([self.run.pattern(*head) is None for head in self.run.index]) if as_pattern else np.isnan(values)
        )
        self.missing.data = {axis: self.source.data[axis][missing] for axis in ("x", "y")}
        for glyph in (self.rects.glyph, self.rects.hover_glyph):
            glyph.fill_alpha = 0.0 if as_pattern else 1.0
        self.images.data = self._pictures() if as_pattern else {name: [] for name in self.images.data}
        self.bar.color_mapper = (
            LinearColorMapper(palette=list(SEQUENTIAL), low=0, high=1) if as_pattern else self.mapper
        )
        if as_pattern:
            ticks(self.bar, _PATTERN_TICKS)
        else:
            self.bar.update(ticker="auto", major_label_overrides={})
        self.notes["pattern-scale"] = "each head on its own scale, square root" if as_pattern else ""

    def _pictures(self) -> dict[str, list[object]]:
        patterns, grid = self.run.patterns, self.run.grid
        assert patterns is not None
        places = {head: int(x) for head, (x, _) in self.cells.items()}
        fold = fold_for(len(grid.rows) * grid.n_columns, patterns.shape[2])
        blocks = grid.blocks
        return {
            "image": [compose(block, places, patterns, grid.n_columns, fold) for block in blocks],
            "x": [-0.5] * len(blocks),
            "y": [block[-1].y - 0.5 for block in blocks],
            "dw": [grid.n_columns] * len(blocks),
            "dh": [len(block) for block in blocks],
        }
