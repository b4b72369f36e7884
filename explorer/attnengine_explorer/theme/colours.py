"""Colours for figures, light and dark. Everything else on the page is coloured by style.css.

Query blue and key orange-red are Okabe–Ito's, readable with every common colour blindness, and mean the same in every
view; the shape of a mark says it a second time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from bokeh.palettes import PuOr11, Viridis256
from bokeh.themes import Theme

QUERY = "#0072B2"
KEY = "#D55E00"
SEQUENTIAL: tuple[str, ...] = tuple(Viridis256)
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Look:
    """The few colours a figure needs: text, faint lines, missing values, selection, bars by sign."""

    ink: str
    faint: str
    line: str
    missing: str
    cross: str
    selected: str
    positive: str
    negative: str
    query: str
    key: str
    page: str


LIGHT = Look(
    ink="#33373d", faint="#6b7280", line="#c9cdd3", missing="#eceef1", cross="#9aa1ab", selected="#111827",
    positive="#c26a12", negative="#6a4c9c", query=QUERY, key=KEY, page="#f6f7f8",
)  # fmt: skip
DARK = Look(
    ink="#d5d9df", faint="#979fab", line="#454b55", missing="#2a2e35", cross="#6d7581", selected="#ffffff",
    positive="#ee9c4a", negative="#a78ddb", query="#3aa0dc", key="#f0853a", page="#15171b",
)  # fmt: skip


def look(dark: bool) -> Look:
    """The colours of the light or dark theme."""
    return DARK if dark else LIGHT


#: For chosen heads, as many as can be told apart: Okabe–Ito without what queries and keys own, and a brown.
HEAD_COLOURS = {False: ("#CC79A7", "#009E73", "#B57F00", "#8C6BB1", "#56B4E9", "#8C5A3C"),
                True: ("#E59BC3", "#2FC798", "#F0C040", "#B39DDB", "#8FD0F5", "#C99A7C")}  # fmt: skip


def head_colours(heads: tuple[tuple[int, int], ...], dark: bool) -> dict[tuple[int, int], str]:
    """The colour of each chosen head in every view; those beyond the list share the neutral grey."""
    colours = HEAD_COLOURS[dark]
    rest = look(dark).faint
    return {head: colours[i] if i < len(colours) else rest for i, head in enumerate(heads)}


#: PuOr's two hues from a dark middle outwards: on a dark page the extremes must be the bright ones.
_DARK_DIVERGING = ["#dccdff", "#a78ddb", "#6a4c9c", "#3a3d44", "#8f5212", "#e8923c", "#ffdcae"]


@cache
def diverging(dark: bool) -> tuple[str, ...]:
    """PuOr, purple below zero and orange above, 255 steps; the middle is close to the page, so zero recedes."""
    anchors = _DARK_DIVERGING if dark else list(PuOr11)
    steps = 254 / (len(anchors) - 1)
    return tuple(_mix(anchors, i / steps) for i in range(255))


def _mix(anchors: list[str], at: float) -> str:
    low = min(int(at), len(anchors) - 2)
    share = at - low
    pairs = [(int(anchors[low][i : i + 2], 16), int(anchors[low + 1][i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in pairs)


@cache
def bokeh_theme(dark: bool) -> Theme:
    """Figure defaults: transparent ground, thin neutral axes, system font."""
    colours = look(dark)
    attrs: dict[str, dict[str, Any]] = {
        "Plot": {"background_fill_alpha": 0, "border_fill_alpha": 0, "outline_line_color": None},
        "Axis": {
            "axis_line_color": colours.line,
            "major_tick_line_color": colours.line,
            "major_tick_in": 0,
            "major_tick_out": 4,
            "minor_tick_line_color": None,
            "major_label_text_color": colours.faint,
            "major_label_text_font": FONT,
            "major_label_text_font_size": "11px",
            "axis_label_text_color": colours.faint,
            "axis_label_text_font": FONT,
            "axis_label_text_font_size": "11px",
            "axis_label_text_font_style": "normal",
        },
        "ColorBar": {
            "background_fill_alpha": 0,
            "bar_line_color": None,
            "major_tick_line_color": None,
            "major_label_text_color": colours.faint,
            "major_label_text_font": FONT,
            "major_label_text_font_size": "11px",
            "title_text_color": colours.faint,
            "title_text_font": FONT,
            "title_text_font_size": "11px",
            "title_text_font_style": "normal",
        },
    }
    return Theme(json={"attrs": attrs})
