"""Which points are emphasised: those that were lassoed, those whose token was searched for, or those that are both."""

from __future__ import annotations

import numpy as np

from attnengine_explorer.points import lasso
from attnengine_explorer.points.heads import HeadClouds
from attnengine_explorer.points.polygon import inside
from attnengine_explorer.points.turning import seen
from attnengine_explorer.state import ViewState


def lassoed(clouds: HeadClouds, text: str) -> np.ndarray | None:
    """(2n,) bool of the points of a lasso as in a link, in whichever head it was drawn; None without one.

    EmbeddingError or RunFormatError if that head has no such picture.
    """
    drawn = lasso.read(text)
    return None if drawn is None else clouds.kept_masks.get(("lasso", text), lambda: _apply(clouds, drawn))


def _apply(clouds: HeadClouds, drawn: lasso.Lasso) -> np.ndarray:
    at = drawn.place
    screen = seen(clouds.cloud(at.site, at.head, at.projection).points, at.dims, at.yaw, at.pitch)
    frame = lasso.frame_of(screen)
    chosen = np.zeros(len(screen), bool)
    for adds, corners in drawn.loops:
        chosen[inside(screen, frame.to_plane(corners))] = adds
    return chosen


def found(clouds: HeadClouds, search: str, mode: str) -> np.ndarray | None:
    """(n,) bool of the tokens that a search finds, None without one; ValueError says what is wrong with it."""
    if not search:
        return None
    return clouds.kept_masks.get(("search", search, mode), lambda: clouds.tokens.vocabulary.find(search, mode))


def emphasised(clouds: HeadClouds, state: ViewState) -> np.ndarray | None:
    """(2n,) bool, or None where all points are alike. Raises as :func:`lassoed` and :func:`found` do."""
    masks = [lassoed(clouds, state.lasso)]
    rows = found(clouds, state.search, state.search_mode)
    masks.append(None if rows is None else np.tile(rows, 2))
    there = [mask for mask in masks if mask is not None]
    return np.logical_and.reduce(there) if there else None
