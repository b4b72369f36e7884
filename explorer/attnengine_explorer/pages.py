"""The page views of a session: which there are, and the places on the page that they fill."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pandas as pd
from bokeh.core.validation import silence
from bokeh.core.validation.warnings import EMPTY_LAYOUT
from bokeh.models import Column

from attnengine_explorer.desk import Desk
from attnengine_explorer.state import ViewState
from attnengine_explorer.views import PageView
from attnengine_explorer.views.cloud_page import CloudPage
from attnengine_explorer.views.clouds_page import CloudsPage
from attnengine_explorer.views.late import Late, Made
from attnengine_explorer.views.overview_page import OverviewPage
from attnengine_explorer.views.sentence_page import SentencePage

#: Name in the state → class. The fragment theme/views/NAME.html holds its places.
PAGES: dict[str, type[PageView]] = {
    "overview": OverviewPage,
    "clouds": CloudsPage,
    "cloud": CloudPage,
    "sentence": SentencePage,
}

silence(EMPTY_LAYOUT, True)  # a place is empty until its view is first shown


class Pages:
    """Every place of every page view is an empty root from the start; its figure moves in on the first showing."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.places = {name: {place: holder(place) for place in page.PLACES} for name, page in PAGES.items()}
        self._made: dict[str, PageView] = {}
        self._late = [
            Late(places, partial(_shows, name), partial(self._make, name)) for name, places in self.places.items()
        ]

    @property
    def roots(self) -> Iterator[Column]:
        """The places of all page views."""
        return (root for places in self.places.values() for root in places.values())

    @property
    def notes(self) -> dict[str, str]:
        """The notes of all views that were made."""
        return {name: note for late in self._late for name, note in late.notes.items()}

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Draw the page view that is shown."""
        for late in self._late:
            late.update(old, new)

    def _make(self, name: str) -> Made:
        page = self._made[name] = PAGES[name](self.desk, self.places[name])
        return page.views, page.roots

    def restyle(self, dark: bool) -> None:
        """Give every view that was made, or will be, the colours of the theme."""
        for late in self._late:
            late.restyle(dark)

    def table(self, state: ViewState) -> pd.DataFrame:
        """What is chosen in the page view that is shown, for an export."""
        return self._made[state.view].table(state)

    def act(self, name: str, act: dict[str, Any]) -> None:
        """Hand an act of the kind ``NAME.…`` to its page view, if that was made."""
        if name not in PAGES:
            raise ValueError(f"an act of the unknown page view {name!r}")
        if name in self._made:
            self._made[name].act(act)


def _shows(name: str, state: ViewState) -> bool:
    return state.view == name


def holder(place: str) -> Column:
    """An empty root that fills its place on the page."""
    return Column(name=f"place-{place}", sizing_mode="stretch_both")
