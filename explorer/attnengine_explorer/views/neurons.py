"""Bars of one q⊙k statistic over the neurons of the open head."""

from __future__ import annotations

from typing import Any

from bokeh.models import ColumnDataSource, Range1d, Segment, Span, VBar

from attnengine_explorer.head_data import neurons
from attnengine_explorer.run_data import RunData
from attnengine_explorer.state import ViewState
from attnengine_explorer.theme.colours import look
from attnengine_explorer.views import changed
from attnengine_explorer.views.figures import hover, plain_figure, ticks

_COLUMNS = ("x", "value", "lower", "upper", "neuron", "text")


class NeuronsView:
    """One bar a neuron with its standard error, by number or by size, orange above zero and purple below."""

    def __init__(self, run: RunData) -> None:
        self.run = run
        self.notes = {"neurons": "", "neuron-formula": ""}
        self.above = ColumnDataSource(data={name: [] for name in _COLUMNS}, name="neurons-above")
        self.below = ColumnDataSource(data={name: [] for name in _COLUMNS}, name="neurons-below")
        plot = plain_figure("neurons", x_range=Range1d(-1, 1), y_range=Range1d(0, 1))
        self.zero = Span(location=0, dimension="width", line_width=1)
        plot.add_layout(self.zero)
        bar = {"x": "x", "top": "value", "bottom": 0, "width": 0.8}
        self.bars = [plot.add_glyph(source, VBar(**bar, line_color=None)) for source in (self.above, self.below)]
        whisker = {"x0": "x", "x1": "x", "y0": "lower", "y1": "upper"}
        self.errors = [plot.add_glyph(source, Segment(**whisker)) for source in (self.above, self.below)]
        plot.add_tools(hover(self.bars, "neuron @neuron", [("value", "@text")], mode="vline", limit=1))
        self.root = plot

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Draw the open head's neurons."""
        if not changed(old, new, "site", "head", "neuron_statistic", "neuron_order"):
            return
        data = self._data(new)
        for source, sign in ((self.above, 1), (self.below, -1)):
            mine = [i for i, value in enumerate(data["value"]) if (value >= 0) == (sign > 0)]
            source.data = {name: [data[name][i] for i in mine] for name in _COLUMNS}
        if len(data["x"]):
            self._fit(data, by_value=new.neuron_order == "value")

    def _fit(self, data: dict[str, Any], *, by_value: bool) -> None:
        first, last = int(min(data["x"])), int(max(data["x"]))
        low, high = min(0.0, *data["lower"]), max(0.0, *data["upper"])
        room = 0.06 * (high - low or 1.0)
        self.root.x_range.update(start=first - 0.8, end=last + 0.8)
        self.root.y_range.update(start=low - room * (low < 0), end=high + room)
        step = next((step for step in (1, 4, 8, 16, 32) if last - first < 10 * step), 64)
        shown = range(0, last + 1, step)
        ticks(self.root.xaxis[0], {} if by_value else {float(i): str(i) for i in shown})
        self.root.xaxis[0].axis_label = "neurons, largest first" if by_value else "neuron"

    def _data(self, new: ViewState) -> dict[str, Any]:
        self.notes.update({"neurons": "", "neuron-formula": ""})
        empty: dict[str, Any] = {name: [] for name in _COLUMNS}
        if new.selected is None:
            return empty
        rows = self.run.head_rows("neurons", *new.selected)
        statistic = self.run.neuron_statistics.get(new.neuron_statistic)
        if rows is None or rows.empty or statistic is None or "neuron" not in rows.columns:
            self.notes["neurons"] = self.run.nothing_to_draw("neurons", "neurons")
            return empty
        self.notes["neuron-formula"] = statistic.formula
        data = neurons(rows, statistic, new.neuron_order)
        if not len(data["x"]):
            row = rows.iloc[0].to_dict() | {"site": new.site, "head": new.head}
            self.notes["neurons"] = f"Not defined here: {self.run.why_missing(statistic.name, row)}."
        return data

    def restyle(self, dark: bool) -> None:
        """The two ends of the diverging scale for the two signs."""
        colours = look(dark)
        for renderer, colour in zip(self.bars, (colours.positive, colours.negative), strict=True):
            renderer.glyph.fill_color = colour
        for renderer in self.errors:
            renderer.glyph.line_color = colours.ink
        self.zero.line_color = colours.line
