"""How much of the neighbourhoods and of the large shape survives on the screen (Venna & Kaski 2001; Espadoto 2019).

Measured at ANCHORS evenly drawn points against all points, which bounds the cost at any size; of up to ANCHORS points
every one is an anchor, and the figures are the textbook's.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from attnengine.embedding.neighbours import exact

ANCHORS = 1000
NEAREST = 15  # without the point itself
TRIPLETS = 20_000


def quality(points: np.ndarray, screen: np.ndarray, is_key: np.ndarray) -> dict[str, float]:
    """Figures of a picture.

    points: (n, d) fp32 as laid out, distinct. screen: (n, dims) fp32. is_key: (n,) bool.
    ``trustworthiness``: 1 unless strangers became neighbours; ``continuity``: 1 unless neighbours were torn apart;
    ``knn_preservation``: share of the 15 nearest kept; ``triplet_accuracy``: of random triplets with the order of two
    distances kept (0.5 is chance); ``cross_share_d``, ``cross_share_2d``: of the 15 nearest on the other side.
    NaN where n ≤ 30, too few for the first two.
    """
    anchors = evenly(len(points))
    names = ("trustworthiness", "continuity", "knn_preservation", "triplet_accuracy", "cross_share_d", "cross_share_2d")
    if len(points) <= 2 * NEAREST:
        return dict.fromkeys(names, float("nan"))
    near, near_on_screen = others(points, anchors), others(screen, anchors)
    kept = np.mean([len(np.intersect1d(a, b)) for a, b in zip(near, near_on_screen, strict=True)]) / NEAREST
    return {
        "trustworthiness": _rank_loss(points, anchors, near_on_screen),
        "continuity": _rank_loss(screen, anchors, near),
        "knn_preservation": float(kept),
        "triplet_accuracy": triplet_accuracy(points, screen),
        "cross_share_d": cross_share(near, anchors, is_key),
        "cross_share_2d": cross_share(near_on_screen, anchors, is_key),
    }


def evenly(n: int, most: int = ANCHORS) -> np.ndarray:
    """Up to ``most`` evenly spaced of n rows."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


def others(points: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """The nearest other points of each anchor (m, 15), fewer if there are fewer."""
    return exact(points.astype(np.float32), anchors, min(NEAREST + 1, len(points)))[0][:, 1:]


def cross_share(near: np.ndarray, anchors: np.ndarray, is_key: np.ndarray) -> float:
    """Share of neighbours that are keys of queries or queries of keys."""
    return float(np.mean(is_key[near] != is_key[anchors][:, None]))


def _rank_loss(points: np.ndarray, anchors: np.ndarray, near: np.ndarray) -> float:
    """1 − 2/(n k (2n − 3k − 1)) Σ max(0, rank − k): how far the listed neighbours are down the ranks of ``points``."""
    n, k = len(points), near.shape[1]
    excess = _excess_ranks(np.ascontiguousarray(points.T, np.float64), anchors, near)
    return float(1 - 2 * excess / (len(anchors) * k * (2 * n - 3 * k - 1)))


@njit(cache=True, nogil=True)
def _excess_ranks(columns, anchors, near):
    """Σ max(0, rank of each neighbour − k) in ``columns`` (d, n); equal distances rank by index."""
    d, n = columns.shape
    k, total = near.shape[1], 0
    square = np.empty(n)
    for r in range(len(anchors)):
        i = anchors[r]
        square[:] = 0.0
        for c in range(d):
            for j in range(n):
                square[j] += (columns[c, j] - columns[c, i]) * (columns[c, j] - columns[c, i])
        square[i] = -1.0
        for t in range(k):
            j, closer = near[r, t], 0
            for other in range(n):
                closer += square[other] < square[j]
            for other in range(j):
                closer += square[other] == square[j]
            total += max(closer - k, 0)  # the point itself is closer: ``closer`` is the rank from 1
    return total


def triplet_accuracy(points: np.ndarray, screen: np.ndarray) -> float:
    """Share of random (i, j, l) for which "j is nearer to i than l" says the same in space and on the screen."""
    i, j, other = np.random.default_rng(0).integers(0, len(points), (3, TRIPLETS))

    def nearer(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        return ((x[i] - x[j]) ** 2).sum(1) < ((x[i] - x[other]) ** 2).sum(1)

    return float(np.mean(nearer(points) == nearer(screen)))
