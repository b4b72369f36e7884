"""Page view 3, Cloud: the joint query–key cloud of the open head, large."""

from __future__ import annotations

from attnengine_explorer.desk import Desk
from attnengine_explorer.views import PageView
from attnengine_explorer.views.cloud import CloudView


class CloudPage(PageView):
    """One figure."""

    PLACES = ("single-cloud",)

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        cloud = CloudView(desk.run)
        self.views, self.roots = [cloud], {"single-cloud": cloud.root}
