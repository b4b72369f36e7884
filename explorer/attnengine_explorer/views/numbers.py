"""Every number of the open head, as text by group; the page's script writes the tables."""

from __future__ import annotations

from attnengine_explorer.desk import Desk
from attnengine_explorer.head_data import summary
from attnengine_explorer.state import ViewState
from attnengine_explorer.views import changed


class NumbersView:
    """Tells the room ``head`` of the script the open head's name, facts and numbers, or null."""

    def __init__(self, desk: Desk) -> None:
        self.notes: dict[str, str] = {}
        self._desk = desk

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Another head has other numbers."""
        if changed(old, new, "site", "head"):
            self._desk.tell("head", None if new.selected is None else summary(self._desk.run, *new.selected))

    def restyle(self, dark: bool) -> None:
        """Nothing: the style sheet colours tables."""
