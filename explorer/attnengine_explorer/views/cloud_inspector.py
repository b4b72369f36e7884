"""What stands beside a cloud: how far to trust it, the picked point in its text, and the lassoed points summed up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnengine.errors import AttnEngineError
from attnengine_explorer.desk import Desk
from attnengine_explorer.jobs import JOBS, Ticket
from attnengine_explorer.points import telling
from attnengine_explorer.points.legend import legend
from attnengine_explorer.points.summary import summarise
from attnengine_explorer.state import ViewState
from attnengine_explorer.views import changed
from attnengine_explorer.views.single_cloud import SingleCloudView


class CloudInspector:
    """Tells the page's script; draws nothing itself."""

    def __init__(self, desk: Desk, figure: SingleCloudView) -> None:
        self.desk = desk
        self.figure = figure
        self.notes: dict[str, str] = {}
        self._jobs: dict[str, Ticket] = {}

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Tell again what this step changed; a summary comes a moment after the count."""
        head = changed(old, new, "site", "head", "projection", "dims")
        if head:
            self._tell_head(new)
        if head or changed(old, new, "color_by"):
            self.desk.tell("cloud.legend", legend(self.figure.colours, dark=self.figure.dark))
        if head or changed(old, new, "token", "point_side"):
            point = self.figure.point_of(new)
            told = None if point is None else telling.picked(self.desk.run.clouds, *self.figure.head, point)
            self.desk.tell("cloud.point", told)
        if head or changed(old, new, "lasso", "search", "search_mode"):
            self._tell_selection(new)

    def restyle(self, dark: bool) -> None:
        """The legend's colours; all else has the page's own."""
        self.desk.tell("cloud.legend", legend(self.figure.colours, dark=dark))

    def _tell_head(self, new: ViewState) -> None:
        """The name and the figures of the head; those of components are measured by a thread, the first time."""
        self._give_up("figures")
        name = "" if new.selected is None else self.desk.run.name(*new.selected)
        told: dict[str, Any] = {"name": name, "rows": [], "warnings": [], "grey": False}
        if new.selected is not None:
            key = (*new.selected, new.projection, int(new.dims))
            if new.projection == "layout" or self.desk.run.clouds.is_measured(*key):
                told |= telling.figures(self.desk.run.clouds, *key)
            elif self.figure.scene is not None:
                told["rows"] = [("faithfulness on screen", "measuring …", "")]
                self._start("figures", lambda: telling.figures(self.desk.run.clouds, *key), self._tell_figures)
        self.desk.tell("cloud.head", told)

    def _tell_figures(self, found: dict[str, Any]) -> None:
        state = self.desk.state
        name = "" if state.selected is None else self.desk.run.name(*state.selected)
        self.desk.say("cloud.head", {"name": name} | found)

    def _tell_selection(self, new: ViewState) -> None:
        """Sum up what is emphasised, in a thread: the count stands beside the picture before."""
        self._give_up("summary")
        scene = self.figure.scene
        if scene is None or scene.emphasised is None or new.selected is None:
            self.desk.tell("cloud.summary", None)
            return
        head, chosen = new.selected, scene.emphasised
        if not chosen.any():
            self.desk.tell("cloud.summary", {})
            return
        self._start(
            "summary", lambda: telling.lassoed(summarise(self.desk.run.clouds, *head, chosen)), self._tell_summary
        )

    def _tell_summary(self, found: dict[str, Any]) -> None:
        self.desk.say("cloud.summary", found)

    def _start(self, name: str, work: Callable[[], dict[str, Any]], done: Callable[[dict[str, Any]], None]) -> None:
        def failed(problem: Exception) -> None:
            if not isinstance(problem, AttnEngineError | ValueError):
                raise problem
            done({"problem": str(problem), "rows": [], "warnings": [str(problem)], "grey": False})

        self._jobs[name] = JOBS.start(self.desk.document, lambda _: work(), done, failed)

    def _give_up(self, name: str) -> None:
        if name in self._jobs:
            self._jobs.pop(name).cancel()
