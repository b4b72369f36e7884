"""Views made when they are first shown, and drawn only while they are: what nobody looks at costs a page nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bokeh.models import Column, LayoutDOM

from attnengine_explorer.state import ViewState
from attnengine_explorer.views import View

#: What is made: the views, and the figure of each place that they fill.
Made = tuple[Sequence[View], Mapping[str, LayoutDOM]]


class Late:
    """``shown`` says whether a state shows the views, ``make`` makes them; ``places`` are empty until then."""

    def __init__(
        self, places: Mapping[str, Column], shown: Callable[[ViewState], bool], make: Callable[[], Made]
    ) -> None:
        self._places = places
        self._shown = shown
        self._make = make
        self._views: Sequence[View] = ()
        self._drawn: ViewState | None = None
        self._dark = False

    @property
    def notes(self) -> dict[str, str]:
        """The notes of the views that are there."""
        return {name: note for view in self._views for name, note in view.notes.items()}

    def update(self, _old: ViewState | None, new: ViewState) -> None:
        """Draw the views from whatever they drew last, if the state shows them; their figures then move in."""
        if not self._shown(new):
            return
        if self._drawn is not None:
            for view in self._views:
                view.update(self._drawn, new)
        else:
            self._views, figures = self._make()
            for view in self._views:
                view.restyle(self._dark)
                view.update(None, new)
            for place, figure in figures.items():
                self._places[place].children = [figure]
        self._drawn = new

    def restyle(self, dark: bool) -> None:
        """Give the views that are there the colours of the theme."""
        self._dark = dark
        for view in self._views:
            view.restyle(dark)
