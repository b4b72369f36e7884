"""One point per head in a plane: the comparison of two statistics, and the map of similar heads.

Both draw the source of all heads, so that a head under the pointer is lit in every figure at once, and a lasso in one
chooses heads for all.
"""

from __future__ import annotations

from bokeh.models import (
    BoxSelectTool,
    GlyphRenderer,
    LassoSelectTool,
    LinearColorMapper,
    PanTool,
    Range1d,
    ResetTool,
    Scatter,
    TapTool,
    Toolbar,
    WheelZoomTool,
)
from bokeh.plotting import figure

from attnengine_explorer.heads_source import HeadsSource
from attnengine_explorer.theme.colours import look
from attnengine_explorer.views.figures import hover, plain_figure


class HeadPoints:
    """Points at columns ``x`` and ``y`` of the heads' source, coloured as in the atlas; marked heads have a ring."""

    def __init__(
        self, name: str, heads: HeadsSource, mapper: LinearColorMapper, x: str, y: str, rows: list[tuple[str, str]]
    ) -> None:
        self.plot: figure = plain_figure(name, x_range=Range1d(0, 1), y_range=Range1d(0, 1))
        where = {"x": x, "y": y}
        fill = {"field": "value", "transform": mapper}
        alpha = {"fill_alpha": "alpha", "line_alpha": "alpha"}
        self.points: GlyphRenderer = self.plot.add_glyph(
            heads.source,
            Scatter(**where, size=9, fill_color=fill, **alpha, line_width=0.6),
            selection_glyph=None,
            nonselection_glyph=None,
        )
        self.plot.add_glyph(heads.marked, Scatter(**where, size=13, fill_color=None, line_color="ring", line_width=2.5))
        # Not filled by the mapper: Bokeh would lay out and paint every figure with a colour bar anew.
        self.hovered: GlyphRenderer = self.plot.add_glyph(
            heads.hovered, Scatter(**where, size=13, fill_color=None, line_width=2), level="overlay"
        )
        lasso = LassoSelectTool(continuous=False, renderers=[self.points])
        box = BoxSelectTool(continuous=False, renderers=[self.points])
        wheel = WheelZoomTool()
        self.plot.add_tools(
            hover([self.points], "@name", rows, limit=3),
            TapTool(renderers=[self.points]),
            *(lasso, box, PanTool(), wheel, ResetTool()),
        )
        assert isinstance(self.plot.toolbar, Toolbar)
        self.plot.toolbar.update(active_drag=lasso, active_scroll=None, logo=None, autohide=True)
        self.plot.update(toolbar_location="above", toolbar_inner=True)

    def restyle(self, dark: bool) -> None:
        """A thin outline keeps pale points apart from the page."""
        colours = look(dark)
        self.points.glyph.line_color = colours.faint
        self.hovered.glyph.line_color = colours.selected
