"""What is drawn with Bokeh: each view is its sources, its figures and ``update(old, new)``.

A view reads its numbers from the modules that know no Bokeh and changes only what a step of the state changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import pandas as pd
from bokeh.models import Column, LayoutDOM

from attnengine_explorer.desk import Desk
from attnengine_explorer.run_data import RunData
from attnengine_explorer.state import ViewState
from attnengine_explorer.state import changed as changed


class View(Protocol):
    """One panel of the page. ``notes`` are short texts the frame shows beside it, by the id of their place."""

    @property
    def notes(self) -> dict[str, str]:
        """Texts by place."""

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Draw ``new``; ``old`` is what is drawn now, None the first time."""

    def restyle(self, dark: bool) -> None:
        """Take on the colours of the light or dark theme."""


class FigureView(View, Protocol):
    """A panel that is a figure."""

    root: LayoutDOM


class PageView:
    """What fills one ``<section data-view>``: its views, and the figure of each of its ``PLACES``.

    It is made when it is first shown, and its views are updated only while it is shown, with what they drew last as
    ``old``. A subclass sets ``views`` when it is made, and ``roots`` for the ``places`` that its views do not fill
    themselves.
    """

    #: The places of its fragment theme/views/NAME.html; no two page views may share a name.
    PLACES: ClassVar[tuple[str, ...]] = ()

    views: Sequence[View]
    roots: Mapping[str, LayoutDOM]

    def __init__(self, desk: Desk, places: Mapping[str, Column]) -> None:
        self.desk = desk
        self.places = places
        self.views = []
        self.roots = {}

    @staticmethod
    def frame(_run: RunData) -> dict[str, Any]:
        """The variables of its fragment."""
        return {}

    def table(self, state: ViewState) -> pd.DataFrame:
        """What is chosen here, as a table to save: by default the chosen heads with all their statistics, else all."""
        heads = self.desk.run.heads
        chosen = [self.desk.run.index[head] for head in state.heads if head in self.desk.run.index]
        return heads.iloc[chosen] if chosen else heads

    def act(self, act: dict[str, Any]) -> None:
        """Do what its own part of the page's script asks for: an act whose kind begins with the view's name."""
        raise ValueError(f"an act of the unknown kind {act['kind']!r}")
