"""Page view 2, Clouds: the joint query–key clouds of all heads."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from bokeh.models import Column

from attnengine_explorer.desk import Desk
from attnengine_explorer.points.tables import clouds_table
from attnengine_explorer.state import ViewState
from attnengine_explorer.views import PageView
from attnengine_explorer.views.clouds_atlas import CloudsAtlas


class CloudsPage(PageView):
    """One figure; a click opens a head's own cloud."""

    PLACES = ("clouds",)

    def __init__(self, desk: Desk, places: Mapping[str, Column]) -> None:
        super().__init__(desk, places)
        self.atlas = CloudsAtlas(desk)
        self.views, self.roots = [self.atlas], {"clouds": self.atlas.root}

    def table(self, _state: ViewState) -> pd.DataFrame:
        """The figures of all heads' clouds, for a file."""
        return clouds_table(self.desk.run.clouds)
