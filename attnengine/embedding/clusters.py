"""What the lumps of a cloud are made of: density clusters on the screen, and the tokens that mark each.

Clusters by HDBSCAN (Campello et al. 2013); tokens by log-odds with an informative Dirichlet prior, in standard errors
(Monroe et al. 2008, "Fightin' Words", eq. 22), so that neither rare nor frequent tokens win by their frequency.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnengine.embedding.quality import evenly

LEAST_SHARE = 0.01  # of the points of a picture, for a cluster
LEAST_SIZE = 15
#: HDBSCAN's time grows with the square of the points: of more than so many, evenly drawn ones are clustered.
MOST_POINTS = 50_000
TOP_TOKENS = 8
TELLING = 1.96  # standard errors above which a token is named
PRIOR = 500.0  # pseudo-tokens of the head's base rate


@dataclass(frozen=True)
class Cluster:
    """A cluster: its label, points, share of queries among them, and (token id, log-odds in standard errors)."""

    label: int
    size: int
    query_share: float
    tokens: tuple[tuple[int, float], ...]


def cluster_labels(screen: np.ndarray) -> np.ndarray:
    """(n,) int16 labels of distinct screen points (n, dims) by falling size; -1 belongs to none.

    Above :data:`MOST_POINTS` the others belong where the nearest clustered point does.
    """
    from scipy.spatial import KDTree

    drawn = evenly(len(screen), MOST_POINTS)
    raw = _raw_labels(screen[drawn])
    if len(drawn) < len(screen):
        raw = raw[KDTree(screen[drawn]).query(screen)[1]]
    sizes = np.bincount(raw[raw >= 0])
    rank = np.empty(len(sizes) + 1, np.int16)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    rank[-1] = -1
    return rank[raw]


def _raw_labels(screen: np.ndarray) -> np.ndarray:
    from sklearn.cluster import HDBSCAN

    size = max(LEAST_SIZE, round(LEAST_SHARE * len(screen)))
    if len(screen) < 2 * size:
        return np.full(len(screen), -1)
    return HDBSCAN(min_cluster_size=size, min_samples=LEAST_SIZE, n_jobs=1, copy=True).fit_predict(screen)


def describe(labels: np.ndarray, is_key: np.ndarray, token_ids: np.ndarray) -> list[Cluster]:
    """Every cluster of a picture; labels, is_key, token_ids: (m,) of all points, duplicates included."""
    vocabulary, token = np.unique(token_ids, return_inverse=True)
    everywhere = np.bincount(token, minlength=len(vocabulary)).astype(np.float64)
    found = []
    for label in range(int(labels.max(initial=-1)) + 1):
        here = labels == label
        odds = log_odds(np.bincount(token[here], minlength=len(vocabulary)).astype(np.float64), everywhere)
        top = [t for t in np.argsort(-odds, kind="stable")[:TOP_TOKENS] if odds[t] > TELLING]
        named = tuple((int(vocabulary[t]), float(odds[t])) for t in top)
        found.append(Cluster(label, int(here.sum()), float(np.mean(~is_key[here])), named))
    return found


def log_odds(inside: np.ndarray, everywhere: np.ndarray) -> np.ndarray:
    """(v,) log-odds of each token inside against outside, over their standard errors.

    inside, everywhere: (v,) counts. The prior is the base rate ``everywhere`` scaled to PRIOR tokens.
    """
    prior = PRIOR * everywhere / everywhere.sum()
    outside = everywhere - inside
    a, b = inside + prior, outside + prior
    rest_a, rest_b = inside.sum() + PRIOR - a, outside.sum() + PRIOR - b
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = np.log(a / rest_a) - np.log(b / rest_b)
        error = np.sqrt(1 / a + 1 / b)
    return np.where(np.isfinite(odds), odds / error, 0.0)
