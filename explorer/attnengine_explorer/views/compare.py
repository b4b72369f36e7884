"""Heads compared by any two statistics, each with its 95 % interval."""

from __future__ import annotations

import numpy as np
from bokeh.models import LinearColorMapper, Segment

from attnengine.statistics.catalogue import Statistic
from attnengine_explorer.desk import Desk
from attnengine_explorer.filtering import interval
from attnengine_explorer.head_data import value_texts
from attnengine_explorer.state import ViewState
from attnengine_explorer.theme.colours import look
from attnengine_explorer.views import changed
from attnengine_explorer.views.points import HeadPoints

_ROOM = 0.05


class CompareView:
    """A scatter of heads; the intervals of the head under the pointer and of marked heads are drawn as bars.

    It adds to the source of heads ``cx, cx_lo, cx_hi, cx_text`` and the same of ``cy``.
    """

    def __init__(self, desk: Desk, mapper: LinearColorMapper) -> None:
        self.run = desk.run
        self.heads = desk.heads
        self.notes = {"compare": ""}
        self.heads.add(*(axis + end for axis in ("cx", "cy") for end in ("", "_lo", "_hi")))
        for axis in ("cx", "cy"):
            self._set(axis, next(iter(self.run.statistics.values())))
        rows = [("@cx_title", "@cx_text"), ("@cy_title", "@cy_text")]
        self.figure = HeadPoints("compare", desk.heads, mapper, "cx", "cy", rows)
        self.root = self.figure.plot
        bars = [
            {"x0": "cx_lo", "x1": "cx_hi", "y0": "cy", "y1": "cy"},
            {"x0": "cx", "x1": "cx", "y0": "cy_lo", "y1": "cy_hi"},
        ]
        self.bars = []
        for ends in bars:
            self.root.add_glyph(desk.heads.marked, Segment(**ends, line_color="color", line_width=1.2))
            bar = self.root.add_glyph(desk.heads.hovered, Segment(**ends, line_width=1.5), level="overlay")
            self.bars.append(bar)

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Other statistics on the axes."""
        for axis, name in (("cx", "x_statistic"), ("cy", "y_statistic")):
            if changed(old, new, name):
                self._draw(axis, self.run.statistics[getattr(new, name)])
        if changed(old, new, "x_statistic", "y_statistic"):
            both = np.isfinite(self.heads.source.data["cx"]) & np.isfinite(self.heads.source.data["cy"])
            missing = int((~both).sum())
            self.notes["compare"] = (
                f"{missing} of {len(both)} heads have no value on one of the axes" if missing else ""
            )

    def _draw(self, axis: str, statistic: Statistic) -> None:
        self._set(axis, statistic)
        value = self.heads.source.data[axis]
        finite = value[np.isfinite(value)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
        room = _ROOM * (high - low) or abs(low) * _ROOM or 1.0
        range_, drawn = (
            (self.root.x_range, self.root.xaxis[0]) if axis == "cx" else (self.root.y_range, self.root.yaxis[0])
        )
        start, end = low - room, high + room
        range_.update(start=start, end=end, reset_start=start, reset_end=end)
        drawn.axis_label = statistic.title + (f" ({statistic.unit})" if statistic.unit not in ("", "share") else "")

    def _set(self, axis: str, statistic: Statistic) -> None:
        run, data = self.run, self.heads.source.data
        data[axis] = run.heads[statistic.name].to_numpy(dtype=float)
        data[f"{axis}_lo"], data[f"{axis}_hi"] = interval(run, statistic.name)
        data[f"{axis}_text"] = value_texts(run, statistic)
        data[f"{axis}_title"] = np.full(len(run.rows), statistic.title, dtype=object)

    def restyle(self, dark: bool) -> None:
        """Points and bars of the theme."""
        self.figure.restyle(dark)
        for bar in self.bars:
            bar.glyph.line_color = look(dark).ink
