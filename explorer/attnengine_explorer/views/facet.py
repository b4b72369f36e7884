"""The figures of one facet of a page view: made when it is first shown, drawn only while it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bokeh.models import Column

from attnengine_explorer.state import ViewState
from attnengine_explorer.views import FigureView


class Facet:
    """``shown`` says whether a state shows it, ``make`` makes the figure of each of its places.

    ``roots`` are empty until then: a page opens faster by every figure that nobody looks at.
    """

    def __init__(
        self,
        places: Sequence[str],
        shown: Callable[[ViewState], bool],
        make: Callable[[], Mapping[str, FigureView]],
    ) -> None:
        self.roots = {place: Column(sizing_mode="stretch_both") for place in places}
        self._shown = shown
        self._make = make
        self._figures: Mapping[str, FigureView] = {}
        self._drawn: ViewState | None = None
        self._dark = False

    @property
    def notes(self) -> dict[str, str]:
        """The notes of its figures."""
        return {name: note for view in self._figures.values() for name, note in view.notes.items()}

    def update(self, _old: ViewState | None, new: ViewState) -> None:
        """Draw its figures from whatever they drew last, if the state shows them."""
        if not self._shown(new):
            return
        if not self._figures:
            self._figures = self._make()
            self.restyle(self._dark)
        for view in self._figures.values():
            view.update(self._drawn, new)
        if self._drawn is None:
            for place, view in self._figures.items():
                self.roots[place].children = [view.root]
        self._drawn = new

    def restyle(self, dark: bool) -> None:
        """Give the figures that are there the colours of the theme."""
        self._dark = dark
        for view in self._figures.values():
            view.restyle(dark)
