"""Page view 3, Cloud: the joint query–key cloud of the open head, up to a million points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from bokeh.models import Column

from attnengine.errors import AttnEngineError
from attnengine_explorer.desk import Desk
from attnengine_explorer.points import lasso, telling
from attnengine_explorer.points.colouring import offered
from attnengine_explorer.points.names import COLOUR_BY, LABELS, SIZES
from attnengine_explorer.points.polygon import nearest
from attnengine_explorer.points.tables import points_table
from attnengine_explorer.run_data import RunData
from attnengine_explorer.state import Change, ViewState, reduce
from attnengine_explorer.views import PageView
from attnengine_explorer.views.cloud_inspector import CloudInspector
from attnengine_explorer.views.overlay import OverlayView
from attnengine_explorer.views.single_cloud import SingleCloudView

#: Pixels around the mouse in which a point is under it.
REACH = 14
MAX_CORNERS = 2_000


class CloudPage(PageView):
    """The figure, the inspector, and what a hand does on them: hover, pick, lasso, turn."""

    PLACES = ("single-cloud",)

    def __init__(self, desk: Desk, places: Mapping[str, Column]) -> None:
        super().__init__(desk, places)
        self.figure = SingleCloudView(desk)
        self.inspector = CloudInspector(desk, self.figure)
        overlay = OverlayView(desk, self.figure.root)
        self.views, self.roots = [self.figure, self.inspector, overlay], {"single-cloud": self.figure.root}

    @staticmethod
    def frame(run: RunData) -> dict[str, Any]:
        """The choices of its controls."""
        return {
            "cloud_colours": [(name, COLOUR_BY[name]) for name in colours_of(run)],
            "cloud_labels": list(LABELS.items()),
            "cloud_sizes": list(SIZES.items()),
            "cloud_method": "layout" if run.clouds.settings is None else run.clouds.settings[0].method,
        }

    def act(self, act: dict[str, Any]) -> None:
        """``cloud.hover`` and ``cloud.pick`` at x, y; ``cloud.lasso`` with corners; ``cloud.turn``, ``cloud.fit``."""
        match act["kind"]:
            case "cloud.hover":
                self._hover(act)
            case "cloud.pick":
                self._pick(act)
            case "cloud.lasso":
                self._lasso(act)
            case "cloud.turn":
                self._turn(act)
            case "cloud.fit":
                self._fit()
            case _:
                super().act(act)

    def table(self, state: ViewState) -> pd.DataFrame:
        """The selected points, or all, for a file."""
        return points_table(self.desk.run.clouds, state)

    def under(self, act: dict[str, Any]) -> int | None:
        """The point within :data:`REACH` pixels of the mouse."""
        scene, window = self.figure.scene, self.figure.window
        if scene is None or window is None:
            return None
        x, y = (finite(act[name]) for name in ("x", "y"))
        scale = window.width / (window.x1 - window.x0), window.height / (window.y1 - window.y0)
        point, distance = nearest(scene.screen, x, y, scale)
        return point if distance <= REACH else None

    def _hover(self, act: dict[str, Any]) -> None:
        point, state = self.under(act), self.desk.state
        with self.desk.batch():
            told: dict[str, Any] = {"asked": int(act.get("asked", 0))}
            if point is not None and self.figure.scene is not None:
                told |= telling.hovered(self.desk.run.clouds, *self.figure.head, point, state.color_by)
                told["x"], told["y"] = (float(end) for end in self.figure.scene.screen[point])
                told["point"] = point
            self.desk.tell("cloud.under", told)

    def _pick(self, act: dict[str, Any]) -> None:
        """A click picks the point under the mouse and its document; on nothing it lets go."""
        point, tokens = self.under(act), self.desk.run.clouds.tokens
        if point is None:
            self.desk.dispatch(Change({"token": None}))
            return
        row, side = point % len(tokens), telling.side(point, len(tokens))
        document = self.desk.run.clouds.document_row(int(tokens.document[row]))
        self.desk.dispatch(Change({"token": row, "point_side": side, "document": document}))

    def _lasso(self, act: dict[str, Any]) -> None:
        """A loop of the hand, in the plane's coordinates."""
        state, scene = self.desk.state, self.figure.scene
        if scene is None or state.selected is None:
            return
        corners = np.array([[finite(x), finite(y)] for x, y in zip(act["x"], act["y"], strict=True)])
        if not 3 <= len(corners) <= MAX_CORNERS:
            raise ValueError(f"expected a lasso of 3 to {MAX_CORNERS} corners, got {len(corners)}")
        units = lasso.frame_of(scene.screen).to_units(lasso.simplified(corners))
        drawn = lasso.extended(lasso.read(state.lasso), place(state), units, str(act["how"]))
        self.desk.dispatch(Change({"lasso": lasso.write(drawn)}))

    def _turn(self, act: dict[str, Any]) -> None:
        """A step of a turning hand: drawn, but no step of the history; letting go is one."""
        turned = Change({"yaw": act["yaw"], "pitch": act["pitch"]})
        new = reduce(self.desk.state, turned)
        if self.figure.scene is not None and new.dims == "3":
            with self.desk.batch():
                self.figure.update(self.desk.state, new)

    def _fit(self) -> None:
        if self.figure.scene is not None:
            with self.desk.batch():
                self.figure.fit()
                self.figure.draw()


def place(state: ViewState) -> lasso.Place:
    """The picture that is on the screen."""
    assert state.selected is not None
    turn = (state.yaw, state.pitch) if state.dims == "3" else (0, 0)
    return lasso.Place(*state.selected, state.projection, int(state.dims), *turn)


def colours_of(run: RunData) -> list[str]:
    """The colourings a run offers; all of them where it keeps no tokens to ask."""
    try:
        return offered(run.clouds)
    except AttnEngineError:
        return list(COLOUR_BY)


def finite(value: Any) -> float:
    """A finite number of the browser's, else ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise ValueError(f"expected a finite number, got {value!r}")
    return float(value)
