"""What the page view "sentence" shows of a sentence: one sheet at a time, each with its own figures.

A new sheet is a class here below :class:`Sheet`, a name in ``state.SHEETS``, a line in
``sentence_page.SHEETS`` and a ``<div data-sheet="NAME">`` with its places in theme/views/sentence.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from bokeh.models import LayoutDOM

from attnengine.model.sentence import Sentence
from attnengine_explorer.desk import Desk
from attnengine_explorer.state import ViewState


class Sheet:
    """Made when first shown, and drawn only while it is shown and there is a sentence.

    A subclass sets ``roots``, the figure of each of its ``PLACES``. ``notes`` are short texts that the frame shows, by
    the name of their place; all sheets write into the same.
    """

    PLACES: ClassVar[tuple[str, ...]] = ()

    def __init__(self, desk: Desk, notes: dict[str, str]) -> None:
        self.desk = desk
        self.notes = notes
        self.roots: Mapping[str, LayoutDOM] = {}

    def update(self, old: ViewState | None, new: ViewState, first: Sentence, second: Sentence | None) -> None:
        """Draw ``new``; ``old`` is what is drawn now, None the first time and whenever the sentences are others.

        ``second`` is a sentence to be compared with ``first``, side by side.
        """

    def restyle(self, dark: bool) -> None:
        """Take on the colours of the light or dark theme."""


def head_of(state: ViewState, sentence: Sentence) -> tuple[int, int]:
    """The head that is shown: the open one, else the model's first."""
    site, head = state.selected or (0, 0)
    if site >= len(sentence.attentions):
        return 0, 0
    return site, min(head, len(sentence.attentions[site].query) - 1)
