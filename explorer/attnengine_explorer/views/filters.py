"""The filters of heads in words, for the chips beside their controls."""

from __future__ import annotations

from attnengine_explorer.desk import Desk
from attnengine_explorer.filtering import filter_text
from attnengine_explorer.state import ViewState, changed


class FiltersView:
    """Tells the room ``filters`` of the script one line for each filter, in the order of the state."""

    def __init__(self, desk: Desk) -> None:
        self.notes: dict[str, str] = {}
        self._desk = desk

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Other filters have other words."""
        if changed(old, new, "filters"):
            self._desk.tell("filters", [filter_text(self._desk.run, one) for one in new.filters])

    def restyle(self, dark: bool) -> None:
        """Nothing: the style sheet colours chips."""
