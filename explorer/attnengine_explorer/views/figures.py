"""The one way figures are made here, and what several of them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bokeh.models import FixedTicker, HoverTool, LinearColorMapper, Model, NoOverlap, PlainText
from bokeh.plotting import figure

from attnengine_explorer.theme.colours import Look

#: Bokeh's tooltips live in a shadow tree: custom properties reach them, our style sheet does not.
_TIP = (
    "font: 12px/1.45 system-ui, sans-serif; font-variant-numeric: tabular-nums; max-width: 400px;"
    "margin: -6px; padding: 8px 11px; background: var(--panel); color: var(--ink); border: 1px solid var(--line)"
)
_LABEL = "color: var(--faint); padding-right: 10px; white-space: nowrap; vertical-align: top"


def plain_figure(name: str, **options: Any) -> figure:
    """A figure that fills its place, without toolbar, grid or drag tools."""
    plot = figure(
        name=name,
        sizing_mode="stretch_both",
        toolbar_location=None,
        tools="",
        min_border=6,
        lod_threshold=None,
        **options,
    )
    bare(plot)
    plot.xaxis.major_label_policy = NoOverlap()  # made for axes that run to the right: on others it keeps one label
    return plot


def bare(plot: figure) -> None:
    """Take from a figure what Bokeh gives every one: grids, a title and a tool for dragging.

    Unseen, grids and a title are still sent, made and painted: a third of what a hover over a token took.
    """
    plot.center, plot.title, plot.toolbar.active_drag = [], None, None


def hover(renderers: list[Model], title: str, rows: list[tuple[str, str]], **options: Any) -> HoverTool:
    """A tooltip with a title and labelled values.

    ``title`` and values are ``@column`` placeholders, which Bokeh escapes; labels are ours.
    """
    body = "".join(f'<tr><td style="{_LABEL}">{label}</td><td>{value}</td></tr>' for label, value in rows)
    html = f'<div style="{_TIP}"><b>{title}</b><table style="border-spacing: 0">{body}</table></div>'
    options = {"attachment": "horizontal", "show_arrow": False} | options
    return HoverTool(renderers=renderers, tooltips=html, **options)


def ticks(axis: Model, labels: Mapping[float, str | PlainText]) -> None:
    """Put these labels, and no others, on an axis or a colour bar."""
    if isinstance(axis.ticker, FixedTicker):  # kept: a new model makes Bokeh walk through the whole document
        axis.ticker.ticks = list(labels)
    else:
        axis.ticker = FixedTicker(ticks=list(labels))
    axis.major_label_overrides = dict(labels)


def recolour(mapper: LinearColorMapper, palette: tuple[str, ...], look: Look) -> None:
    """Give a colour scale its palette, and what has no value the neutral grey of the theme."""
    mapper.palette = list(palette)
    mapper.nan_color = look.missing
