"""Page view 1, Overview: the open head in pictures and numbers."""

from __future__ import annotations

from typing import Any

from attnengine_explorer.columns import grouped
from attnengine_explorer.desk import Desk
from attnengine_explorer.run_data import RunData
from attnengine_explorer.views import PageView
from attnengine_explorer.views.cloud import CloudView
from attnengine_explorer.views.neurons import NeuronsView
from attnengine_explorer.views.numbers import NumbersView
from attnengine_explorer.views.pattern import PatternView
from attnengine_explorer.views.profile import ProfileView


class OverviewPage(PageView):
    """Mean pattern, offset profile, cloud, neurons and every number of the open head."""

    PLACES = ("pattern", "profile", "cloud", "neurons")

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        run = desk.run
        pattern, profile, cloud, neurons = PatternView(run), ProfileView(run), CloudView(run), NeuronsView(run)
        self.views = [pattern, profile, cloud, neurons, NumbersView(desk)]
        self.roots = {"pattern": pattern.root, "profile": profile.root, "cloud": cloud.root, "neurons": neurons.root}

    @staticmethod
    def frame(run: RunData) -> dict[str, Any]:
        """The statistics that neurons can be drawn by."""
        return {"neuron_statistics": grouped(run.neuron_statistics)}
