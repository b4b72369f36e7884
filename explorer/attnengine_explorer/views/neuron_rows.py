"""One neuron statistic of all chosen heads: a row of bars per head, on one scale."""

from __future__ import annotations

from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, Range1d, Segment, VBar

from attnengine_explorer.desk import Desk
from attnengine_explorer.fields import Head
from attnengine_explorer.head_data import neurons
from attnengine_explorer.heads_source import shown_together
from attnengine_explorer.state import ViewState
from attnengine_explorer.theme.colours import head_colours, look
from attnengine_explorer.views import changed
from attnengine_explorer.views.figures import hover, plain_figure, ticks
from attnengine_explorer.views.profiles import NOTHING_CHOSEN

_COLUMNS = ("x", "top", "bottom", "lower", "upper", "name", "neuron", "text", "color")
_ROW = 0.86


class NeuronRowsView:
    """Neuron 3 of one head has nothing to do with neuron 3 of another: rows share the scale, not the columns."""

    def __init__(self, desk: Desk) -> None:
        self.run = desk.run
        self.notes = {"neuron-rows": "", "neuron-rows-scale": ""}
        self._dark = False
        self._state = desk.state
        self.source = ColumnDataSource(data={name: [] for name in _COLUMNS}, name="neuron-rows-source")
        plot = plain_figure("neuron-rows", x_range=Range1d(-1, 1), y_range=Range1d(0, 1))
        bars = plot.add_glyph(
            self.source, VBar(x="x", top="top", bottom="bottom", width=0.8, fill_color="color", line_color=None)
        )
        self.errors = plot.add_glyph(self.source, Segment(x0="x", x1="x", y0="lower", y1="upper"))
        plot.add_tools(hover([bars], "@name, neuron @neuron", [("value", "@text")], limit=1))
        plot.yaxis[0].major_tick_line_color = None
        self.root = plot

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Draw the chosen heads, or the open one."""
        self._state = new
        if changed(old, new, "heads", "site", "head", "neuron_statistic", "neuron_order"):
            self._draw()

    def _draw(self) -> None:
        heads = shown_together(self._state)
        found = {head: one for head in heads if (one := self._bars(head)) is not None}
        data: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        low = min((float(np.min(one["lower"])) for one in found.values()), default=0.0)
        high = max((float(np.max(one["upper"])) for one in found.values()), default=0.0)
        scale = _ROW / ((max(high, 0) - min(low, 0)) or 1.0)
        colours = head_colours(heads, self._dark)
        zeros = {head: len(found) - 1 - i - min(low, 0) * scale for i, head in enumerate(found)}
        for head, one in found.items():
            n = len(one["x"])
            for name, column in (("top", "value"), ("lower", "lower"), ("upper", "upper")):
                data[name] += list(zeros[head] + scale * np.asarray(one[column]))
            for name, value in (("bottom", zeros[head]), ("name", self.run.name(*head)), ("color", colours[head])):
                data[name] += [value] * n
            for name in ("x", "neuron", "text"):
                data[name] += list(one[name])
        self.source.data = data
        self._say(heads, found, high)
        if found:
            self.root.x_range.update(start=min(data["x"]) - 0.8, end=max(data["x"]) + 0.8)
            self.root.y_range.update(start=-0.04, end=float(len(found)))
            ticks(self.root.yaxis[0], {zeros[head]: self.run.name(*head) for head in found})
            by_value = self._state.neuron_order == "value"
            ticks(
                self.root.xaxis[0], {} if by_value else {float(x): str(x) for x in range(0, int(max(data["x"])) + 1, 8)}
            )
            self.root.xaxis[0].axis_label = "neurons, largest first" if by_value else "neuron"

    def _say(self, heads: tuple[Head, ...], found: dict[Head, Any], high: float) -> None:
        empty = self.run.nothing_to_draw("neurons", "neurons") if heads else NOTHING_CHOSEN
        self.notes["neuron-rows"] = "" if found else empty
        self.notes["neuron-rows-scale"] = (
            f"one scale for all rows; the tallest bar with its error: {high:.3g}" if found else ""
        )

    def _bars(self, head: Head) -> dict[str, Any] | None:
        rows = self.run.head_rows("neurons", *head)
        statistic = self.run.neuron_statistics.get(self._state.neuron_statistic)
        if rows is None or rows.empty or statistic is None or "neuron" not in rows.columns:
            return None
        bars = neurons(rows, statistic, self._state.neuron_order)
        return bars if len(bars["x"]) else None

    def restyle(self, dark: bool) -> None:
        """The heads' colours of the theme."""
        self._dark = dark
        self.errors.glyph.line_color = look(dark).ink
        self._draw()
