"""Page view 1, Overview: the open head in pictures and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.models import Column

from attnengine_explorer.columns import grouped
from attnengine_explorer.desk import Desk
from attnengine_explorer.head_texts import example_statistics
from attnengine_explorer.run_data import RunData
from attnengine_explorer.state import ViewState
from attnengine_explorer.views import FigureView, PageView
from attnengine_explorer.views.cloud import CloudView
from attnengine_explorer.views.compare import CompareView
from attnengine_explorer.views.late import Late, Made
from attnengine_explorer.views.neuron_rows import NeuronRowsView
from attnengine_explorer.views.neurons import NeuronsView
from attnengine_explorer.views.numbers import NumbersView
from attnengine_explorer.views.pattern import PatternView
from attnengine_explorer.views.profile import ProfileView
from attnengine_explorer.views.profiles import ProfilesView
from attnengine_explorer.views.similar import SimilarView


def one_head(state: ViewState) -> bool:
    """Whether Overview shows the open head, not the comparison of all."""
    return state.selected is not None and state.facet == "head"


class OverviewPage(PageView):
    """One facet shows mean pattern, offset profile, cloud, neurons, types, examples and every number of the open head,
    the other compares all heads.
    """

    HEAD, HEADS = ("pattern", "profile", "cloud", "neurons"), ("compare", "similar", "profiles", "neuron-rows")
    PLACES = (*HEAD, *HEADS)

    def __init__(self, desk: Desk, places: Mapping[str, Column]) -> None:
        super().__init__(desk, places)
        head = Late(self.places, one_head, self._of_one_head)
        heads = Late(self.places, lambda state: not one_head(state), self._of_all_heads)
        self.views = [head, heads, NumbersView(desk)]

    def _of_one_head(self) -> Made:
        run = self.desk.run
        views: Sequence[FigureView] = (PatternView(run), ProfileView(run), CloudView(run), NeuronsView(run))
        return views, {place: view.root for place, view in zip(self.HEAD, views, strict=True)}

    def _of_all_heads(self) -> Made:
        desk, mapper = self.desk, self.desk.heads.mapper
        views: Sequence[FigureView] = (
            CompareView(desk, mapper), SimilarView(desk, mapper), ProfilesView(desk), NeuronRowsView(desk),
        )  # fmt: skip
        return views, {place: view.root for place, view in zip(self.HEADS, views, strict=True)}

    @staticmethod
    def frame(run: RunData) -> dict[str, Any]:
        """The statistics that neurons can be drawn by, and those with examples."""
        return {
            "neuron_statistics": grouped(run.neuron_statistics),
            "example_statistics": example_statistics(run),
        }
