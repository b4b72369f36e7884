"""The open head in words: its numbers, types, key tokens and examples; the page's script writes the tables."""

from __future__ import annotations

from attnengine_explorer import head_texts
from attnengine_explorer.desk import Desk
from attnengine_explorer.head_data import summary
from attnengine_explorer.state import ViewState
from attnengine_explorer.views import changed


class NumbersView:
    """Tells the rooms ``head``, ``types``, ``key_tokens``, ``examples`` and ``alike`` of the script.

    ``head`` is null and the others are empty without an open head.
    """

    def __init__(self, desk: Desk) -> None:
        self.run = desk.run
        self.notes = {"types": "", "key-tokens": "", "examples": ""}
        self._tell = desk.tell

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Another head has other numbers and other words."""
        if changed(old, new, "site", "head"):
            self._tell("head", None if new.selected is None else summary(self.run, *new.selected))
            self._head(new)
        if changed(old, new, "site", "head", "example_of"):
            self._examples(new)
        if changed(old, new, "site", "head", "map_by"):
            self._tell(
                "alike", [] if new.selected is None else head_texts.alike_rows(self.run, *new.selected, new.map_by)
            )

    def _head(self, new: ViewState) -> None:
        types = [] if new.selected is None else head_texts.type_rows(self.run, *new.selected)
        tokens = [] if new.selected is None else head_texts.key_token_rows(self.run, *new.selected)
        self.notes["types"] = "" if types else self.run.nothing_to_draw("head_types", "head types")
        self.notes["key-tokens"] = tokens if isinstance(tokens, str) else ""
        self._tell("types", types)
        self._tell("key_tokens", [] if isinstance(tokens, str) else tokens)

    def _examples(self, new: ViewState) -> None:
        found = [] if new.selected is None else head_texts.example_rows(self.run, *new.selected, new.example_of)
        self.notes["examples"] = found if isinstance(found, str) else ""
        self._tell("examples", [] if isinstance(found, str) else found)

    def restyle(self, dark: bool) -> None:
        """Nothing: the style sheet colours tables."""
