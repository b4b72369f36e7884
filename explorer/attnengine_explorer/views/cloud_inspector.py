"""What stands beside a cloud: how far to trust it, the picked point in its text, and the lassoed points summed up."""

from __future__ import annotations

from typing import Any

from attnengine.errors import AttnEngineError
from attnengine_explorer.desk import Desk
from attnengine_explorer.points import telling
from attnengine_explorer.points.selection import emphasised
from attnengine_explorer.points.summary import summarise
from attnengine_explorer.state import ViewState
from attnengine_explorer.views import View, changed
from attnengine_explorer.views.single_cloud import SingleCloudView, legend


class CloudInspector(View):
    """Tells the page's script; draws nothing itself."""

    def __init__(self, desk: Desk, figure: SingleCloudView) -> None:
        self.desk = desk
        self.figure = figure
        self.notes: dict[str, str] = {}
        self._due = False

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Tell again what this step changed; a summary comes a moment after the count."""
        head = changed(old, new, "site", "head", "projection", "dims")
        if head:
            self._tell_head(new)
        if head or changed(old, new, "color_by"):
            self.desk.tell("cloud.legend", legend(self.figure.scene, dark=self.figure.dark))
        if head or changed(old, new, "token", "point_side"):
            point = self.figure.point_of(new)
            told = None if point is None else telling.picked(self.desk.run.clouds, *self.figure.head, point)
            self.desk.tell("cloud.point", told)
        if head or changed(old, new, "lasso", "search", "search_mode"):
            self._tell_selection(new)

    def restyle(self, dark: bool) -> None:
        """The legend's colours; all else has the page's own."""
        self.desk.tell("cloud.legend", legend(self.figure.scene, dark=dark))

    def _tell_head(self, new: ViewState) -> None:
        name = "" if new.selected is None else self.desk.run.name(*new.selected)
        told = {"name": name, "rows": [], "warnings": [], "grey": False}
        if new.selected is not None:
            told |= self._figures(*new.selected, new)
        self.desk.tell("cloud.head", told)

    def _figures(self, site: int, head: int, new: ViewState) -> dict[str, Any]:
        try:
            return telling.figures(self.desk.run.clouds, site, head, new.projection, int(new.dims))
        except AttnEngineError as problem:
            return {"warnings": [str(problem)]}

    def _tell_selection(self, new: ViewState) -> None:
        if not (new.lasso or new.search) or self.figure.scene is None or self.figure.scene.emphasised is None:
            self.desk.tell("cloud.summary", None)
        elif not self._due:
            self._due = True
            self.desk.document.add_next_tick_callback(self.tell_summary)

    def tell_summary(self) -> None:
        """Sum up the points that are emphasised now."""
        self._due = False
        state = self.desk.state
        if state.selected is None or self.figure.scene is None:
            return
        with self.desk.batch(new_models=False):
            try:
                chosen = emphasised(self.desk.run.clouds, state)
                told: dict[str, Any] = {}
                if chosen is not None and chosen.any():
                    told = telling.lassoed(summarise(self.desk.run.clouds, *state.selected, chosen))
            except (AttnEngineError, ValueError) as problem:
                told = {"problem": str(problem)}
            self.desk.tell("cloud.summary", told)
