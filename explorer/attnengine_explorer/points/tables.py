"""The tables behind the clouds, for a file: the selected points of a head, or the figures of all heads."""

from __future__ import annotations

import numpy as np
import pandas as pd

from attnengine.errors import EmbeddingError
from attnengine_explorer.points.colouring import values
from attnengine_explorer.points.heads import HeadClouds
from attnengine_explorer.points.selection import emphasised
from attnengine_explorer.state import ViewState

_TOKEN_COLUMNS = ("document", "window", "position", "token_id", "text", "row", "col")
_FIGURES = ("site", "head", "problem", "gauge", "faithfulness_d", "faithfulness_d_se", "faithfulness_2d",
            "faithfulness_2d_se", "grey", "trustworthiness", "continuity", "knn_preservation", "cross_share_d",
            "cross_share_2d")  # fmt: skip


def points_table(clouds: HeadClouds, state: ViewState) -> pd.DataFrame:
    """The points of the open head that are emphasised, all of them where none are: one row a point.

    ``token`` is the row of table ``tokens``; x, y (and z) its place in the picture; ``cluster`` -1 for none; the last
    column the number behind its colour. Raises ValueError without an open head, and as the selection does.
    """
    if state.selected is None:
        raise ValueError("no head is open; choose one first")
    cloud = clouds.cloud(*state.selected, state.projection)
    mask = emphasised(clouds, state)
    chosen = np.arange(len(cloud.points)) if mask is None else np.flatnonzero(mask)
    rows, at = chosen % cloud.n, cloud.points[chosen]
    there = [name for name in _TOKEN_COLUMNS if name in clouds.tokens.table.columns]
    columns: dict[str, np.ndarray] = {"side": np.where(chosen < cloud.n, "query", "key"), "token": rows}
    columns |= {name: clouds.tokens.table[name].to_numpy()[rows] for name in there}
    columns |= {axis: at[:, i] for i, axis in enumerate("xyz"[: at.shape[1]])}
    columns["cluster"] = cloud.labels[chosen]
    if state.color_by not in ("side", *there):
        columns[state.color_by] = values(clouds, *state.selected, state.color_by)[chosen]
    return pd.DataFrame(columns)


def clouds_table(clouds: HeadClouds) -> pd.DataFrame:
    """Figures of the stored clouds of all heads; EmbeddingError where the run has none."""
    if not clouds.figures:
        raise EmbeddingError(clouds.problem(*next(iter(clouds.run.index))) or "the run has no clouds")
    table = pd.DataFrame(list(clouds.figures.values()))
    return table[[name for name in _FIGURES if name in table.columns]]
