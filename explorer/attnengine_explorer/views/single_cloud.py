"""One head's cloud: a picture of up to millions of points made for the window that is looked at, and marks on it."""

from __future__ import annotations

import numpy as np
from bokeh.core.properties import value
from bokeh.events import RangesUpdate
from bokeh.models import ColumnDataSource, LinearColorMapper, PanTool, Range1d, WheelZoomTool
from bokeh.plotting import figure

from attnengine.errors import AttnEngineError
from attnengine_explorer.desk import Desk
from attnengine_explorer.points import context
from attnengine_explorer.points.colouring import Colouring, colouring, values
from attnengine_explorer.points.heads import HeadCloud
from attnengine_explorer.points.labels import labels
from attnengine_explorer.points.palette import palette
from attnengine_explorer.points.raster import Window
from attnengine_explorer.points.scene import FEW, Scene, sizes, window_of
from attnengine_explorer.points.selection import emphasised
from attnengine_explorer.points.turning import seen
from attnengine_explorer.state import ViewState
from attnengine_explorer.theme.colours import look
from attnengine_explorer.views import changed
from attnengine_explorer.views.figures import plain_figure
from attnengine_explorer.views.fonts import MONO

#: Milliseconds in which a moving window is drawn at most once.
PACE = 30
#: Before the browser has said how large the figure is.
FIRST_SIZE = 720


class SingleCloudView:
    """The figure. ``scene`` is what is drawn and ``window`` the part of it on the screen; None without a cloud."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.clouds = desk.run.clouds
        self.notes = {"cloud-missing": "", "cloud-facts": "", "cloud-search": ""}
        self.cloud: HeadCloud | None = None
        self.scene: Scene | None = None
        self.window: Window | None = None
        self.dark = False
        self._due = self._moving = self._whole = False
        self._drawn: tuple[Scene, Window] | None = None
        self._size = {"inner_width": FIRST_SIZE, "inner_height": FIRST_SIZE}
        self.mapper = LinearColorMapper(palette=list(palette("side", False)), low=0, high=255)
        self.image = source("cloud-image", "image", "x", "y", "dw", "dh")
        self.points = source("cloud-points", "x", "y", "code", "marker", "size", "point")
        self.lines = source("cloud-lines", "x0", "y0", "x1", "y1", "width", "alpha", "weight", "row")
        self.near = source("cloud-near", "x", "y", "marker")
        self.picked = source("cloud-picked", "x", "y", "marker")
        self.labels = source("cloud-labels", "x", "y", "text")
        self.root = self._figure()

    def _figure(self) -> figure:
        plot = plain_figure("single-cloud", x_range=Range1d(-1, 1), y_range=Range1d(-1, 1), lod_timeout=40)
        plot.axis.visible = False
        plot.min_border = 0
        plot.image("image", x="x", y="y", dw="dw", dh="dh", source=self.image, color_mapper=self.mapper)
        self.segments = plot.segment("x0", "y0", "x1", "y1", line_width="width", line_alpha="alpha", source=self.lines)
        code = {"field": "code", "transform": self.mapper}
        plot.scatter("x", "y", size="size", marker="marker", fill_color=code, line_color=None, source=self.points)
        ring = {"marker": "marker", "fill_color": None, "line_width": 1.3}
        self.near_rings = plot.scatter("x", "y", size=11, source=self.near, **ring)
        self.picked_ring = plot.scatter("x", "y", size=15, source=self.picked, **ring | {"line_width": 2.2})
        style = {"text_font_size": "12px", "text_align": "center", "text_baseline": "middle", "text_font": value(MONO)}
        self.texts = plot.text(
            "x", "y", "text", source=self.labels, background_fill_alpha=0.72, padding=2, border_radius=3, **style
        )
        pan, wheel = PanTool(name="cloud-pan"), WheelZoomTool(zoom_on_axis=False)
        plot.add_tools(pan, wheel)
        plot.toolbar.update(active_drag=pan, active_scroll=wheel, logo=None)
        for axis in (plot.x_range, plot.y_range):
            axis.on_change("start", self._moved)
        plot.on_event(RangesUpdate, lambda _: self._soon())
        plot.on_change("inner_width", self._resized)
        plot.on_change("inner_height", self._resized)
        return plot

    @property
    def head(self) -> tuple[int, int]:
        """The open head; only while there is a cloud."""
        assert self.desk.state.selected is not None
        return self.desk.state.selected

    @property
    def colours(self) -> Colouring | None:
        """The colours of the points that are drawn."""
        return None if self.scene is None else self.scene.colours

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Draw what this step changed, from the cloud down to the picked point."""
        other_picture = changed(old, new, "site", "head", "projection", "dims")
        if other_picture:
            self._open(new)
        if self.cloud is None:
            self._empty()
            return
        looks = ("color_by", "size_by", "search", "search_mode", "lasso", "yaw", "pitch")
        if other_picture or changed(old, new, *looks):
            self._set_scene(new, other_picture=other_picture)
        if other_picture or changed(old, new, *looks, "labels"):
            self.draw()
        if other_picture or changed(old, new, "token", "point_side", "yaw", "pitch", "threshold"):
            self._pick(new)

    def restyle(self, dark: bool) -> None:
        """Palette, rings, lines and labels of the theme."""
        self.dark = dark
        colours = look(dark)
        self.mapper.palette = list(palette(self.scene.colours.kind if self.scene else "side", dark))
        self.segments.glyph.line_color = colours.ink
        self.near_rings.glyph.line_color = self.picked_ring.glyph.line_color = colours.selected
        self.texts.glyph.update(text_color=colours.ink, background_fill_color="#1c1f24" if dark else "#ffffff")

    def _open(self, new: ViewState) -> None:
        """Read the head's cloud, or say why there is none."""
        self.cloud, self.scene = None, None
        self.notes.update({"cloud-missing": "", "cloud-facts": ""})
        if new.selected is None:
            self.notes["cloud-missing"] = "Choose a head at the left to see its queries and keys."
            return
        try:
            cloud = self.clouds.cloud(*new.selected, new.projection)
            if cloud.points.shape[1] < int(new.dims):
                raise ValueError("this layout has two dimensions; take PCA for three, or embed with --dims 3")
        except (AttnEngineError, ValueError) as problem:
            self.notes["cloud-missing"] = f"No cloud: {problem}"
            return
        self.cloud = cloud
        told = f"{_named(cloud.method)} · {cloud.n:,} sampled tokens, each as a query and as a key"
        means_nothing = " · directions mean nothing, only nearness" if new.projection == "layout" else ""
        self.notes["cloud-facts"] = told + means_nothing

    def _empty(self) -> None:
        for one in (self.image, self.points, self.lines, self.near, self.picked, self.labels):
            one.data = {name: [] for name in one.data}

    def _set_scene(self, new: ViewState, *, other_picture: bool) -> None:
        assert self.cloud is not None
        screen = seen(self.cloud.points, int(new.dims), new.yaw, new.pitch)
        colours = colouring(self.clouds, new.color_by, values(self.clouds, *self.head, new.color_by))
        flat = np.zeros(len(screen), np.uint8)
        size = sizes(self.clouds.norms(*self.head)) if new.size_by == "norm" else flat
        kind = None if self.scene is None else self.scene.colours.kind
        self.scene = Scene(screen, colours, size, self._emphasis(new))
        if colours.kind != kind:
            self.mapper.palette = list(palette(colours.kind, self.dark))
        if other_picture or self.window is None:
            self.fit()

    def _emphasis(self, new: ViewState) -> np.ndarray | None:
        self.notes["cloud-search"] = ""
        try:
            mask = emphasised(self.clouds, new)
        except (AttnEngineError, ValueError) as problem:
            self.notes["cloud-search"] = str(problem)
            return None
        if mask is not None:
            self.notes["cloud-search"] = f"{int(mask.sum()):,} of {len(mask):,} points"
        return mask

    def fit(self) -> None:
        """Show the whole cloud."""
        assert self.scene is not None
        self._show(window_of(self.scene.screen, *self._size.values()))
        self._whole = True

    def _show(self, window: Window) -> None:
        self.window = window
        self._moving = True
        self.root.x_range.update(start=window.x0, end=window.x1)
        self.root.y_range.update(start=window.y0, end=window.y1)
        self._moving = False

    def _resized(self, attr: str, _old: int, new: int) -> None:
        """The browser laid the figure out: keep the middle and the scale, with pixels as square as before."""
        self._size[attr] = min(max(int(new), 16), 8_000)
        width, height = self._size.values()
        old = self.window
        if old is None or self.scene is None:
            return
        if self._whole:
            self.fit()
            self._soon()
            return
        scale = max((old.x1 - old.x0) / width, (old.y1 - old.y0) / height)
        x, y = (old.x0 + old.x1) / 2, (old.y0 + old.y1) / 2
        half = scale * width / 2, scale * height / 2
        self._show(Window(x - half[0], x + half[0], y - half[1], y + half[1], width, height))
        self._soon()

    def _moved(self, _attr: str, _old: float, _new: float) -> None:
        if not self._moving:
            self._whole = False
            self._soon()

    def _soon(self) -> None:
        """Draw the window as it then is, at most once in :data:`PACE` milliseconds."""
        if not self._due and self.scene is not None:
            self._due = True
            self.desk.document.add_timeout_callback(self._redraw, PACE)

    def _redraw(self) -> None:
        self._due = False
        if self.scene is None or self.window is None:
            return
        ends = [float(end) for axis in (self.root.x_range, self.root.y_range) for end in (axis.start, axis.end)]
        if not (np.isfinite(ends).all() and ends[0] < ends[1] and ends[2] < ends[3]):
            return  # the browser may send anything
        x0, x1, y0, y1 = ends
        self.window = Window(x0, x1, y0, y1, self.window.width, self.window.height)
        if self._drawn is not None and self._drawn[0] is self.scene and self._drawn[1] == self.window:
            return  # the browser repeats the window that it was sent with the picture
        with self.desk.batch():
            self.draw()

    def draw(self) -> None:
        """The picture or the marks of the window, and its labels."""
        assert self.scene is not None
        assert self.window is not None
        assert self.cloud is not None
        self._drawn = self.scene, self.window
        inside = self.window.holds(self.scene.screen)
        visible = int(np.count_nonzero(inside))
        few = visible <= FEW
        self._draw_marks(self.scene.mixed(np.flatnonzero(inside)) if few else np.array([], np.int64))
        self._draw_picture(None if few else self.scene.picture(self.window, visible))
        state, screen = self.desk.state, self.scene.screen
        found = labels(self.clouds, self.cloud, screen, self.window, state.labels, self.scene.emphasised)
        columns = {name: [getattr(label, name) for label in found] for name in ("x", "y", "text")}
        if columns != self.labels.data:
            self.labels.data = columns

    def _draw_picture(self, codes: np.ndarray | None) -> None:
        window = self.window
        assert window is not None
        if codes is None:
            if len(self.image.data["image"]):
                self.image.data = {name: [] for name in self.image.data}
            return
        place = {"x": window.x0, "y": window.y0, "dw": window.x1 - window.x0, "dh": window.y1 - window.y0}
        self.image.data = {"image": [codes], **{name: [value] for name, value in place.items()}}

    def _draw_marks(self, points: np.ndarray) -> None:
        if not len(points) and not len(self.points.data["x"]):
            return
        assert self.scene is not None
        at, n = self.scene.screen[points], len(self.scene.screen) // 2
        base = 4.5 if len(points) > 1500 else 6.5
        size = base + 2.0 * self.scene.size[points].astype(np.float32) if self.scene.size.any() else base
        self.points.data = {
            "x": at[:, 0], "y": at[:, 1], "code": self.scene.codes(points), "point": points.astype(np.int32),
            "marker": markers(points, n), "size": np.full(len(points), size, np.float32),
        }  # fmt: skip

    def _pick(self, new: ViewState) -> None:
        """Ring the picked point and its nearest in space, and draw the lines of its attention."""
        point = self.point_of(new)
        nothing = np.array([], np.int64)
        if point is None:
            self._ring(self.picked, nothing)
            self._ring(self.near, nothing)
            self.lines.data = {name: [] for name in self.lines.data}
            return
        self._ring(self.picked, np.array([point]))
        near = [other for other, _ in context.neighbours(self.clouds, *self.head, point)]
        self._ring(self.near, np.array(near, np.int64))
        self._draw_lines(point, new.threshold)

    def point_of(self, state: ViewState) -> int | None:
        """The number of the picked point, None if none is picked or there is no cloud."""
        if state.token is None or self.scene is None:
            return None
        return state.token + (len(self.clouds.tokens) if state.point_side == "key" else 0)

    def _ring(self, where: ColumnDataSource, points: np.ndarray) -> None:
        assert self.scene is not None
        at = self.scene.screen[points]
        where.data = {"x": at[:, 0], "y": at[:, 1], "marker": markers(points, len(self.scene.screen) // 2)}

    def _draw_lines(self, point: int, threshold: float) -> None:
        """To each stored other end that was sampled; width and opacity are its weight against the largest."""
        assert self.scene is not None
        n, screen = len(self.clouds.tokens), self.scene.screen
        found = [link for link in context.links(self.clouds, *self.head, point) if link.row >= 0]
        found = [link for link in found if link.weight >= threshold]
        rows = np.array([link.row for link in found], np.int64)
        weight = np.array([link.weight for link in found])
        ends = screen[rows + (n if point < n else 0)]
        part = weight / weight.max(initial=1e-9)
        start = np.repeat(screen[point][None], len(rows), axis=0)
        self.lines.data = {
            "x0": start[:, 0], "y0": start[:, 1], "x1": ends[:, 0], "y1": ends[:, 1], "width": 0.6 + 4.4 * part,
            "alpha": 0.15 + 0.7 * part, "weight": weight, "row": rows,
        }  # fmt: skip


def source(name: str, *columns: str) -> ColumnDataSource:
    """An empty source that the page's script and tests find by its name."""
    return ColumnDataSource(data={column: [] for column in columns}, name=name)


def _named(method: str) -> str:
    """UMAP and PCA are written in capitals."""
    return method.upper() if method in ("umap", "pca") else method


def markers(points: np.ndarray, n: int) -> list[str]:
    """Queries are circles, keys triangles: shape says the side a second time."""
    return ["circle" if point < n else "triangle" for point in points.tolist()]
