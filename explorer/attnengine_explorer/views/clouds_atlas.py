"""Page view 2: the clouds of all heads in one figure, laid out as the atlas of heads is."""

from __future__ import annotations

from functools import partial

import numpy as np
from bokeh.events import Tap
from bokeh.models import ColumnDataSource, LinearColorMapper, Range1d, Rect
from bokeh.plotting import figure

from attnengine.errors import AttnEngineError
from attnengine_explorer.atlas import columns_of
from attnengine_explorer.desk import Desk
from attnengine_explorer.numbers import NONE, estimate, number
from attnengine_explorer.points.all_heads import AllHeads
from attnengine_explorer.points.colouring import Colouring
from attnengine_explorer.points.legend import legend
from attnengine_explorer.points.palette import palette
from attnengine_explorer.points.selection import emphasised
from attnengine_explorer.state import Change, ViewState
from attnengine_explorer.theme.colours import look
from attnengine_explorer.views import changed
from attnengine_explorer.views.figures import hover, plain_figure, ticks
from attnengine_explorer.views.gathering import Gathering, pictures

_FIGURES = {
    "faithfulness_2d": "Faithfulness on screen", "faithfulness_d": "in space", "trustworthiness": "Trustworthiness",
    "cross_share_2d": "Other side near",
}  # fmt: skip


class CloudsAtlas:
    """The figure. ``source`` has one row per head, in the order of the run's heads; ``colours`` are what is drawn."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.clouds = desk.run.clouds
        self.notes = {"clouds-facts": "", "clouds-missing": "", "clouds-search": "", "clouds-scale": ""}
        self.dark = False
        self.colours: Colouring | None = None
        self._shown: AllHeads | None = None
        self._gathering = Gathering(desk)
        self.source = ColumnDataSource(data=self._columns(), name="clouds-heads")
        self.hovered = ColumnDataSource(data={"x": [], "y": []}, name="clouds-heads-hovered")  # js/hovered.js fills it
        self.missing = ColumnDataSource(data={"x": [], "y": []}, name="clouds-none")
        self.images = ColumnDataSource(data={name: [] for name in ("image", "x", "y", "dw", "dh")}, name="clouds-image")
        self.mapper = LinearColorMapper(palette=list(palette("side", False)), low=0, high=255)
        self.root = self._figure()

    def _columns(self) -> dict[str, np.ndarray]:
        run, nothing = self.desk.run, np.zeros(len(self.desk.run.rows))
        names = [run.name(*head) for head in run.index]
        columns = {"name": np.array(names, dtype=object), "x": nothing, "y": nothing, "problem": nothing}
        columns["gauge"] = np.array([self._gauge(head) for head in run.index], dtype=object)
        for name in _FIGURES:
            columns[name] = np.array([self._figure_text(head, name) for head in run.index], dtype=object)
        return columns

    def _gauge(self, head: tuple[int, int]) -> str:
        row = self.clouds.figures.get(head, {})
        grey = " · too unfaithful to be read (grey)" if row.get("grey") is True and row.get("problem") is None else ""
        return str(row.get("gauge") or NONE) + grey

    def _figure_text(self, head: tuple[int, int], name: str) -> str:
        row = self.clouds.figures.get(head, {})
        value, error = row.get(name), row.get(f"{name}_se")
        if value is None:
            return NONE
        return number(float(value)) if error is None else estimate(float(value), float(error))

    def _figure(self) -> figure:
        grid = self.desk.run.grid
        plot = plain_figure("clouds", x_range=Range1d(-0.5, grid.n_columns - 0.5), y_range=Range1d(grid.bottom, 0.5))
        plot.image("image", x="x", y="y", dw="dw", dh="dh", source=self.images, color_mapper=self.mapper)
        style = {"x": "x", "y": "y", "width": 0.97, "height": 0.97, "fill_alpha": 0.0}
        self.rects = plot.add_glyph(
            self.source, Rect(**style, line_width=1),
            selection_glyph=Rect(**style, line_width=3), nonselection_glyph=Rect(**style, line_width=1),
        )  # fmt: skip
        self.ring = plot.add_glyph(self.hovered, Rect(**style, line_width=2), level="overlay")
        self.crosses = plot.scatter("x", "y", source=self.missing, marker="x", size=9, line_width=1.2)
        rows = [(title, f"@{name}") for name, title in _FIGURES.items()]
        plot.add_tools(hover([self.rects], "@name", [*rows, ("Gauge", "@gauge"), ("", "@problem")]))
        plot.on_event(Tap, self._on_tap)
        ticks(
            plot.yaxis[0], {row.y: row.label for row in grid.rows if row.site.layer % (1 + len(grid.rows) // 33) == 0}
        )
        apart = next((step for step in (1, 2, 4, 8) if grid.n_columns <= 20 * step), 16)
        ticks(plot.xaxis[0], {float(i): str(i) for i in range(0, grid.n_columns, apart)})
        plot.axis.axis_line_color = None
        plot.axis.major_tick_line_color = None
        return plot

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Draw anew what this step changed; what is not read yet is read first, a little at a time."""
        if changed(old, new, "order", "statistic"):
            self._move(new)
        if changed(old, new, "site", "head"):
            self.source.selected.indices = [] if new.selected is None else [self.desk.run.index[new.selected]]
        if changed(old, new, "projection", "color_by"):
            self._begin(new)
        elif self._shown is not None and changed(old, new, "search", "search_mode", "lasso", "order", "statistic"):
            self._draw(new)

    def restyle(self, dark: bool) -> None:
        """Palette, frames and marks of the theme."""
        self.dark = dark
        colours = look(dark)
        self.mapper.palette = list(palette(self.colours.kind if self.colours else "side", dark))
        self.rects.glyph.line_color = self.rects.nonselection_glyph.line_color = colours.missing
        self.ring.glyph.line_color = colours.faint
        self.rects.selection_glyph.line_color = colours.selected
        self.crosses.glyph.line_color = colours.cross
        self.desk.tell("clouds.legend", legend(self.colours, dark=dark))

    def _move(self, new: ViewState) -> None:
        run = self.desk.run
        heights = {row.site.site: row.y for row in run.grid.rows}
        columns = columns_of(run.grid, list(run.index), run.heads[new.statistic].to_numpy(dtype=float), new.order)
        self.source.data["x"] = columns.astype(float)
        self.source.data["y"] = np.array([heights[site] for site, _ in run.index])
        self.root.xaxis[0].axis_label = "head" if new.order == "head" else "rank within the row, highest first"

    def _begin(self, new: ViewState) -> None:
        """Read the heads that are not there yet, a little at a time."""
        if problem := self._gathering.problem():
            self._gathering.stop()
            self.notes["clouds-missing"] = f"No clouds: {problem}"
            return
        told = partial(self.notes.__setitem__, "clouds-facts")
        self._gathering.begin(new.projection, new.color_by, told, lambda heads: self._finish(heads, self.desk.state))

    def _finish(self, heads: AllHeads, new: ViewState) -> None:
        self._shown = heads
        count, without = len(heads.pixels), len(heads.problems)
        grey = heads.n_grey
        told = [f"{count:,} heads", f"{grey:,} too unfaithful to be read (grey)" if grey else ""]
        told.append(f"{without:,} without a cloud (×: hover says why)" if without else "")
        self.notes["clouds-facts"] = " · ".join(filter(None, told))
        self.notes["clouds-missing"] = "" if count else next(iter(heads.problems.values()), "no head")
        self.notes["clouds-scale"] = "each head on its own scale" if new.color_by == "norm" else ""
        problems = [heads.problems.get(head, "") for head in self.desk.run.index]
        self.source.data["problem"] = np.array(problems, dtype=object)
        self._draw(new)

    def _draw(self, new: ViewState) -> None:
        """All cells anew: one picture a block of rows."""
        heads = self._shown
        assert heads is not None
        colours = heads.colours(new.color_by)
        first = next(iter(colours.values()), None)
        if first is not None and (self.colours is None or first.kind != self.colours.kind):
            self.mapper.palette = list(palette(first.kind, self.dark))
        self.colours = first
        self.desk.tell("clouds.legend", legend(first, dark=self.dark))
        mask = self._emphasis(new)
        cells = {head: heads.cell(head, colours[head], mask) for head in heads.pixels if head in colours}
        index = self.desk.run.index
        columns = {head: int(x) for head, x in zip(index, self.source.data["x"], strict=True)}
        self.images.data = pictures(self.desk.run.grid, columns, cells, self._gathering.size)
        none = np.array([head in heads.problems for head in index])
        self.missing.data = {axis: np.asarray(self.source.data[axis])[none] for axis in ("x", "y")}

    def _emphasis(self, new: ViewState) -> np.ndarray | None:
        self.notes["clouds-search"] = ""
        try:
            mask = emphasised(self.clouds, new)
        except (AttnEngineError, ValueError) as problem:
            self.notes["clouds-search"] = str(problem)
            return None
        if mask is not None:
            self.notes["clouds-search"] = f"{int(mask.sum()):,} of {len(mask):,} points in every head"
        return mask

    def _on_tap(self, event: Tap) -> None:
        """A click opens the head's cloud, the open head's too: a selection would not change then."""
        if not all(isinstance(at, int | float) for at in (event.x, event.y)):
            return  # the browser may send anything
        apart = [np.abs(np.asarray(self.source.data[axis]) - at) for axis, at in (("x", event.x), ("y", event.y))]
        here = np.flatnonzero((apart[0] <= 0.5) & (apart[1] <= 0.5))
        if len(here):
            site, head = list(self.desk.run.index)[here[0]]
            self.desk.dispatch(Change({"site": site, "head": head, "view": "cloud"}))
