"""Page view 1, Overview: the open head in pictures and numbers."""

from __future__ import annotations

from typing import Any

from attnengine_explorer.columns import grouped
from attnengine_explorer.desk import Desk
from attnengine_explorer.head_texts import example_statistics
from attnengine_explorer.run_data import RunData
from attnengine_explorer.views import FigureView, PageView
from attnengine_explorer.views.cloud import CloudView
from attnengine_explorer.views.compare import CompareView
from attnengine_explorer.views.neuron_rows import NeuronRowsView
from attnengine_explorer.views.neurons import NeuronsView
from attnengine_explorer.views.numbers import NumbersView
from attnengine_explorer.views.pattern import PatternView
from attnengine_explorer.views.profile import ProfileView
from attnengine_explorer.views.profiles import ProfilesView
from attnengine_explorer.views.similar import SimilarView


class OverviewPage(PageView):
    """One facet shows mean pattern, offset profile, cloud, neurons, types, examples and every number of the open head,
    the other compares all heads.
    """

    PLACES = ("pattern", "profile", "cloud", "neurons", "compare", "similar", "profiles", "neuron-rows")

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        run, mapper = desk.run, desk.heads.mapper
        figures: dict[str, FigureView] = {
            "pattern": PatternView(run),
            "profile": ProfileView(run),
            "cloud": CloudView(run),
            "neurons": NeuronsView(run),
            "compare": CompareView(desk, mapper),
            "similar": SimilarView(desk, mapper),
            "profiles": ProfilesView(desk),
            "neuron-rows": NeuronRowsView(desk),
        }
        self.views = [*figures.values(), NumbersView(desk)]
        self.roots = {place: view.root for place, view in figures.items()}

    @staticmethod
    def frame(run: RunData) -> dict[str, Any]:
        """The statistics that neurons can be drawn by, and those with examples."""
        return {
            "neuron_statistics": grouped(run.neuron_statistics),
            "example_statistics": example_statistics(run),
        }
