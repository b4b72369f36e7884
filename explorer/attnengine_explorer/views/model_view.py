"""The model view: a thumbnail of every head's pattern in one figure, a row a layer (BertViz's model view).

Made from arrays alone. A click selects a head in ``cells``, which a page or a notebook answers by enlarging it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bokeh.models import ColorBar, ColumnDataSource, LinearColorMapper, Range1d, Rect, TapTool
from bokeh.plotting import figure

from attnengine_explorer.sentence.thumbnails import BORDER, Head, Thumbnails, compose
from attnengine_explorer.theme.colours import SEQUENTIAL, look
from attnengine_explorer.views.figures import hover, plain_figure, ticks

#: A pixel's colour is the square root of its weight.
_TICKS = {1.0: "0", 1 + 254 * 0.1: "0.01", 1 + 254 * 0.1**0.5: "0.1", 1 + 254 * 0.5: "¼", 255.0: "1"}


class ModelFigure:
    """``figure`` with its sources: ``picture``, the composed image, and ``cells``, one a head."""

    def __init__(self, name: str) -> None:
        self.picture = ColumnDataSource(
            data={column: [] for column in ("image", "x", "y", "dw", "dh")}, name=f"{name}-picture"
        )
        columns = ("x", "y", "site", "head", "name", "strongest")
        self.cells = ColumnDataSource(data={column: [] for column in columns}, name=f"{name}-cells")
        self.outline = ColumnDataSource(data={"x": [], "y": []}, name=f"{name}-outline")
        self.mapper = LinearColorMapper(palette=list(SEQUENTIAL), low=1, high=255, low_color="rgba(0, 0, 0, 0)")
        self.figure = self._figure(name)
        self.restyle(dark=False)

    def _figure(self, name: str) -> figure:
        plot = plain_figure(f"{name}-figure", x_range=Range1d(0, 1), y_range=Range1d(0, 1), x_axis_location="above")
        plot.image("image", x="x", y="y", dw="dw", dh="dh", source=self.picture, color_mapper=self.mapper)
        cell = {"x": "x", "y": "y", "width": 0.98, "height": 0.98, "fill_alpha": 0}
        self.rects = plot.add_glyph(
            self.cells,
            Rect(**cell, line_color=None),
            hover_glyph=Rect(**cell, line_width=2),
            selection_glyph=Rect(**cell, line_color=None),
            nonselection_glyph=None,
        )
        self.open = plot.add_glyph(self.outline, Rect(**cell, line_width=3))
        plot.add_tools(
            hover([self.rects], "@name", [("strongest", "@strongest")], attachment="horizontal"),
            TapTool(renderers=[self.rects]),
        )
        self.bar = ColorBar(color_mapper=self.mapper, width=10, label_standoff=6, padding=4, margin=0, title="weight")
        ticks(self.bar, _TICKS)
        plot.add_layout(self.bar, "right")
        plot.axis.axis_line_color = None
        plot.axis.major_tick_line_color = None
        return plot

    def show(self, found: Thumbnails, rows: Sequence[tuple[int, str]], names: Mapping[Head, str]) -> None:
        """Draw other thumbnails; ``rows`` are (site, label) from the top."""
        size, thumbnails = found.size, found.pictures
        height = {site: row for row, (site, _) in enumerate(rows)}
        columns = sorted({head for _, head in thumbnails})
        place = {column: i for i, column in enumerate(columns)}
        places = {(site, head): (height[site], place[head]) for site, head in thumbnails}
        picture = compose(thumbnails, places, size)
        cell = size + 2 * BORDER
        n_rows, n_columns = picture.shape[0] // cell, picture.shape[1] // cell
        self.picture.data = {
            "image": [picture], "x": [-0.5], "y": [-(n_rows - 0.5)], "dw": [n_columns], "dh": [n_rows],
        }  # fmt: skip
        self.cells.data = {
            "x": [column for _, column in places.values()],
            "y": [-row for row, _ in places.values()],
            "site": [site for site, _ in places],
            "head": [head for _, head in places],
            "name": [names[head] for head in places],
            "strongest": [found.strongest[head] for head in places],
        }
        self.figure.x_range.update(start=-0.5, end=n_columns - 0.5)
        self.figure.y_range.update(start=-(n_rows - 0.5), end=0.5)
        apart = 1 + n_rows // 33
        ticks(self.figure.yaxis[0], {float(-row): label for row, (_, label) in enumerate(rows) if row % apart == 0})
        wide = next((step for step in (1, 2, 4, 8) if n_columns <= 20 * step), 16)
        ticks(self.figure.xaxis[0], {float(i): str(head) for i, head in enumerate(columns) if i % wide == 0})

    def mark(self, head: Head | None) -> None:
        """Outline a head."""
        pairs = list(zip(self.cells.data["site"], self.cells.data["head"], strict=True))
        at = [pairs.index(head)] if head in pairs else []
        self.outline.data = {axis: [self.cells.data[axis][i] for i in at] for axis in ("x", "y")}

    def clicked(self) -> Head | None:
        """The head that was clicked."""
        indices = self.cells.selected.indices
        if len(indices) != 1:
            return None
        return int(self.cells.data["site"][indices[0]]), int(self.cells.data["head"][indices[0]])

    def restyle(self, dark: bool) -> None:
        """Take on the colours of the light or dark theme."""
        colours = look(dark)
        self.rects.hover_glyph.line_color = colours.faint
        self.open.glyph.line_color = colours.key
