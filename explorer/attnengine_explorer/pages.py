"""The page views of a session: which there are, made when first looked at, drawn only while they are looked at."""

from __future__ import annotations

from collections.abc import Iterator
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
        self._drawn: dict[str, ViewState] = {}

    @property
    def roots(self) -> Iterator[Column]:
        """The places of all page views."""
        return (root for places in self.places.values() for root in places.values())

    @property
    def notes(self) -> dict[str, str]:
        """The notes of all views that were made."""
        return {name: note for page in self._made.values() for view in page.views for name, note in view.notes.items()}

    def update(self, new: ViewState, *, dark: bool) -> None:
        """Draw the page view that is shown, from whatever it drew last."""
        page = self._made.get(new.view)
        if page is None:
            page = self._make(new, dark=dark)
        else:
            for view in page.views:
                view.update(self._drawn[new.view], new)
        self._drawn[new.view] = new

    def _make(self, new: ViewState, *, dark: bool) -> PageView:
        page = self._made[new.view] = PAGES[new.view](self.desk)
        for view in page.views:
            view.restyle(dark)
            view.update(None, new)
        for place, root in page.roots.items():
            self.places[new.view][place].children = [root]
        return page

    def restyle(self, *, dark: bool) -> None:
        """Give every view that was made the colours of the theme."""
        for page in self._made.values():
            for view in page.views:
                view.restyle(dark)

    def table(self, state: ViewState) -> pd.DataFrame:
        """What is chosen in the page view that is shown, for an export."""
        return self._made[state.view].table(state)

    def act(self, name: str, act: dict[str, Any]) -> None:
        """Hand an act of the kind ``NAME.…`` to its page view, if that was made."""
        if name not in PAGES:
            raise ValueError(f"an act of the unknown page view {name!r}")
        if name in self._made:
            self._made[name].act(act)


def holder(place: str) -> Column:
    """An empty root that fills its place on the page."""
    return Column(name=f"place-{place}", sizing_mode="stretch_both")
