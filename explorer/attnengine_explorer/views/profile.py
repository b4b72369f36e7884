"""The offset profile of the open head: how its attention falls off with distance, earlier keys left, later right."""

from __future__ import annotations

from typing import Any

from bokeh.models import ColumnDataSource, Range1d, Span

from attnengine_explorer.head_data import offset_ticks, profile
from attnengine_explorer.run_data import RunData
from attnengine_explorer.state import ViewState
from attnengine_explorer.theme.colours import look
from attnengine_explorer.views import changed
from attnengine_explorer.views.figures import hover, plain_figure, ticks

_COLUMNS = ("x", "y", "lower", "upper", "where", "mass")


class ProfileView:
    """Attention per token of distance with a band of one standard error; the distance axis is logarithmic."""

    def __init__(self, run: RunData) -> None:
        self.run = run
        self.notes = {"profile": "", "profile-band": ""}
        self.source = ColumnDataSource(data={name: [] for name in _COLUMNS}, name="profile-source")
        plot = plain_figure("profile", x_range=Range1d(-1, 1), y_range=Range1d(0, 1))
        self.here = Span(location=0, dimension="height", line_dash="dotted", line_width=1)
        plot.add_layout(self.here)
        self.band = plot.varea("x", "lower", "upper", source=self.source, fill_alpha=0.25)
        self.line = plot.line("x", "y", source=self.source, line_width=1.5)
        self.dots = plot.scatter("x", "y", source=self.source, size=3)
        rows = [("weight in all", "@mass"), ("per token", "@y{0.00000}")]
        plot.add_tools(hover([self.dots], "@where", rows, mode="vline", limit=1))
        plot.xaxis[0].axis_label = "← earlier · tokens · later →"
        plot.yaxis[0].axis_label = "weight per token"
        plot.yaxis[0].formatter.power_limit_low = -5  # 0.004 is read faster than 4.000e−3
        self.root = plot

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Draw the open head's profile."""
        if not changed(old, new, "site", "head"):
            return
        data = self._data(new)
        self.source.data = data
        self.notes["profile-band"] = "band: ± s.e." if data["x"] else ""
        if data["x"]:
            low, high = min(data["x"]), max(data["x"])
            self.root.x_range.update(start=low - 0.3, end=max(high, 0) + 0.3)
            self.root.y_range.end = max(data["upper"]) * 1.06 or 1.0
            ticks(self.root.xaxis[0], offset_ticks(low, high))

    def _data(self, new: ViewState) -> dict[str, list[Any]]:
        self.notes["profile"] = ""
        empty: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        if new.selected is None:
            return empty
        rows = self.run.head_rows("profiles", *new.selected)
        if self.run.sites[new.selected[0]].kind == "cross":
            self.notes["profile"] = "Cross-attention has no offsets: queries and keys belong to different texts."
        elif rows is None or rows.empty or not {"offset_lo", "offset_hi", "mass"} <= set(rows.columns):
            self.notes["profile"] = self.run.nothing_to_draw("profiles", "offset profile")
        else:
            return profile(rows)
        return empty

    def restyle(self, dark: bool) -> None:
        """One neutral accent; blue and orange-red stay reserved for queries and keys."""
        colours = look(dark)
        self.band.glyph.fill_color = colours.negative
        self.line.glyph.line_color = colours.negative
        self.dots.glyph.update(fill_color=colours.negative, line_color=None)
        self.here.line_color = colours.faint
