"""The map of similar heads."""

from __future__ import annotations

import numpy as np
from bokeh.models import LinearColorMapper

from attnengine_explorer.desk import Desk
from attnengine_explorer.similarity import FORMULAS
from attnengine_explorer.state import ViewState
from attnengine_explorer.views import changed
from attnengine_explorer.views.points import HeadPoints


class SimilarView:
    """A plane of heads in which near is alike; it adds ``mx`` and ``my`` to the source of heads."""

    def __init__(self, desk: Desk, mapper: LinearColorMapper) -> None:
        self.run = desk.run
        self.heads = desk.heads
        self.notes = {"similar": "", "similar-formula": "", "similar-share": ""}
        self.heads.add("mx", "my")
        self.figure = HeadPoints("similar", desk.heads, mapper, "mx", "my", [("@title", "@text")])
        self.root = self.figure.plot
        self.root.axis.visible = False  # only distances between points mean something

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Another map."""
        if changed(old, new, "map_by"):
            self._draw(new.map_by)

    def _draw(self, by: str) -> None:
        found = self.run.head_map(by)
        self.notes.update({"similar": "", "similar-formula": FORMULAS[by], "similar-share": ""})
        points = np.full((len(self.heads.heads), 2), np.nan) if isinstance(found, str) else found.points
        if isinstance(found, str):
            self.notes["similar"] = found
        else:
            missing = int(np.isnan(points[:, 0]).sum())
            self.notes["similar-share"] = f"the plane holds {100 * found.share.sum():.0f} % of the variance" + (
                f"; {missing} heads have nothing to compare" if missing else ""
            )
            self._fit(points[np.isfinite(points[:, 0])])
        self.heads.source.data["mx"], self.heads.source.data["my"] = points.T

    def _fit(self, points: np.ndarray) -> None:
        """Both axes span the same length in the almost square figure."""
        low, high = points.min(axis=0), points.max(axis=0)
        half = float((high - low).max()) / 2 * 1.08 or 1.0
        for range_, middle in zip((self.root.x_range, self.root.y_range), (low + high) / 2, strict=True):
            start, end = float(middle) - half, float(middle) + half
            range_.update(start=start, end=end, reset_start=start, reset_end=end)

    def restyle(self, dark: bool) -> None:
        """Points of the theme."""
        self.figure.restyle(dark)
