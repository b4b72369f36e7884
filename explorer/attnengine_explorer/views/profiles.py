"""The offset profiles of all chosen heads in one figure, each in the head's own colour."""

from __future__ import annotations

from typing import Any

from bokeh.models import ColumnDataSource, Patches, Range1d, Span

from attnengine_explorer.desk import Desk
from attnengine_explorer.fields import Head
from attnengine_explorer.head_data import offset_ticks, profile
from attnengine_explorer.heads_source import shown_together
from attnengine_explorer.state import ViewState
from attnengine_explorer.theme.colours import head_colours, look
from attnengine_explorer.views import changed
from attnengine_explorer.views.figures import hover, plain_figure, ticks

_DOTS = ("x", "y", "name", "where", "mass", "color")
_LINES = ("xs", "ys", "band_xs", "band_ys", "color")
NOTHING_CHOSEN = "Choose heads: lasso points above, or shift-click cells at the left."


class ProfilesView:
    """Lines with a band of one standard error; keys before the query on the left, distance logarithmic."""

    def __init__(self, desk: Desk) -> None:
        self.run = desk.run
        self.notes = {"profiles": "", "profiles-band": "", "chosen": ""}
        self._dark = False
        self._state = desk.state
        self.dots = ColumnDataSource(data={name: [] for name in _DOTS}, name="profiles-dots")
        self.lines = ColumnDataSource(data={name: [] for name in _LINES}, name="profiles-lines")
        plot = plain_figure("profiles", x_range=Range1d(-1, 1), y_range=Range1d(0, 1))
        self.here = Span(location=0, dimension="height", line_dash="dotted", line_width=1)
        plot.add_layout(self.here)
        band = Patches(xs="band_xs", ys="band_ys", fill_color="color", fill_alpha=0.18, line_color=None)
        plot.add_glyph(self.lines, band)
        plot.multi_line("xs", "ys", source=self.lines, line_color="color", line_width=1.5)
        dots = plot.scatter("x", "y", source=self.dots, size=3, fill_color="color", line_color=None)
        rows = [("@where", ""), ("weight in all", "@mass"), ("per token", "@y{0.00000}")]
        plot.add_tools(hover([dots], "@name", rows, limit=1))
        plot.xaxis[0].axis_label = "← earlier · tokens · later →"
        plot.yaxis[0].axis_label = "weight per token"
        plot.yaxis[0].formatter.power_limit_low = -5  # 0.004 is read faster than 4.000e−3
        self.root = plot

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Draw the chosen heads, or the open one."""
        self._state = new
        if changed(old, new, "heads", "site", "head"):
            self._draw()

    def _draw(self) -> None:
        heads = shown_together(self._state)
        drawn = {head: found for head in heads if (found := self._profile(head)) is not None}
        colours = head_colours(heads, self._dark)
        dots: dict[str, list[Any]] = {name: [] for name in _DOTS}
        lines: dict[str, list[Any]] = {name: [] for name in _LINES}
        for head, found in drawn.items():
            n = len(found["x"])
            for name in ("x", "y", "where", "mass"):
                dots[name] += found[name]
            dots["name"] += [self.run.name(*head)] * n
            dots["color"] += [colours[head]] * n
            lines["xs"].append(found["x"])
            lines["ys"].append(found["y"])
            lines["band_xs"].append([*found["x"], *reversed(found["x"])])
            lines["band_ys"].append([*found["upper"], *reversed(found["lower"])])
            lines["color"].append(colours[head])
        self.dots.data, self.lines.data = dots, lines
        self._say(heads, drawn)
        if dots["x"]:
            low, high = min(dots["x"]), max(0.0, *dots["x"])
            self.root.x_range.update(start=low - 0.3, end=high + 0.3)
            self.root.y_range.end = max(max(ys) for ys in lines["band_ys"]) * 1.06 or 1.0
            ticks(self.root.xaxis[0], offset_ticks(low, high))

    def _say(self, heads: tuple[Head, ...], drawn: dict[Head, Any]) -> None:
        chosen = len(self._state.heads)
        self.notes["chosen"] = f"drawn: the first {len(heads)} of {chosen} chosen heads" if chosen > len(heads) else ""
        empty = self.run.nothing_to_draw("profiles", "offset profile") if heads else NOTHING_CHOSEN
        self.notes["profiles"] = "" if drawn else empty
        self.notes["profiles-band"] = "band: ± s.e." if drawn else ""

    def _profile(self, head: Head) -> dict[str, Any] | None:
        rows = self.run.head_rows("profiles", *head)
        if rows is None or rows.empty or not {"offset_lo", "offset_hi", "mass"} <= set(rows.columns):
            return None
        return profile(rows)

    def restyle(self, dark: bool) -> None:
        """The heads' colours of the theme."""
        self._dark = dark
        self.here.line_color = look(dark).faint
        self._draw()
