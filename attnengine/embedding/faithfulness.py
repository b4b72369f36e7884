"""Faithfulness: does distance in a picture show score? −1 says that nearer always means a higher score, 0 nothing.

For each sampled query with at least eight visible sampled keys in its own window, Spearman's rank correlation between
the true scores and the distances to these keys; then the mean over queries, its standard error clustered by document.

The score here is q·k. A soft cap is monotone and changes no rank, but a score bias (T5's relative positions, ALiBi) is
in no vector: where a model adds one, only the part of its scores that the vectors make is judged, and table ``clouds``
says so (``leaves_out_bias``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numba import njit

from attnengine.embedding.quality import evenly
from attnengine.statistics.uncertainty import ratio

LEAST_KEYS = 8
MOST_QUERIES = 20_000  # evenly drawn beyond it
GREY_ABOVE = -0.2  # a picture less faithful than this is greyed


@dataclass(frozen=True)
class Sight:
    """Which sampled keys each sampled query sees: ``order`` (n,) rows sorted by window and position, ``starts`` where
    each window begins in it, ``position`` (n,) and ``document`` (n,) by row; ``before``, ``after``: how many tokens a
    query sees in either direction.
    """

    order: np.ndarray
    starts: np.ndarray
    position: np.ndarray
    document: np.ndarray
    before: int
    after: int


EVERYWHERE = 2**31 - 1


def sight(tokens: pd.DataFrame, *, kind: str, window: int | None, top_keys: np.ndarray) -> Sight:
    """What the queries of a site see, read from the run.

    tokens: the table of that name. window: the site's sliding window. top_keys: (n, H, 16) positions of the most
    attended keys, -1 where fewer are visible: a site none of whose queries attends to a later token is causal.
    """
    position = tokens["position"].to_numpy(np.int64)
    causal = kind == "self" and not (np.asarray(top_keys) > position[:, None, None]).any()
    before, after = (EVERYWHERE, EVERYWHERE) if window is None or kind == "cross" else (window, window)
    if causal:
        before, after = (EVERYWHERE if window is None else window - 1), 0
    window_of = tokens["window"].to_numpy(np.int64)
    order = np.lexsort((position, window_of))
    starts = np.flatnonzero(np.diff(window_of[order], prepend=-1, append=-1))
    return Sight(order, starts, position, tokens["document"].to_numpy(np.int64), before, after)


def rank_correlations(
    queries: np.ndarray, keys: np.ndarray, query_points: np.ndarray, key_points: np.ndarray, seen: Sight
) -> np.ndarray:
    """(n,) Spearman's correlation of q·k with the distance of the points for each query; NaN where too few keys or no
    variation. queries, keys: (n, d) raw; the points (n, m) of the same rows in any picture.
    """
    asks = np.zeros(len(queries), np.bool_)
    asks[evenly(len(queries), MOST_QUERIES)] = True
    as_fp64 = [np.ascontiguousarray(rows, np.float64) for rows in (queries, keys, query_points, key_points)]
    return _correlations(*as_fp64, asks, seen.order, seen.starts, seen.position, seen.before, seen.after)


@njit(cache=True, nogil=True)
def _correlations(q, k, a, b, asks, order, starts, position, before, after):
    n = len(q)
    found = np.full(n, np.nan)
    scores, distances = np.empty(n), np.empty(n)
    for w in range(len(starts) - 1):
        for s in range(starts[w], starts[w + 1]):
            i = order[s]
            if not asks[i]:
                continue
            m = 0
            for t in range(starts[w], starts[w + 1]):
                j = order[t]
                back = position[i] - position[j]
                if back <= before and -back <= after:
                    scores[m], distances[m] = _score(q[i], k[j]), _square(a[i], b[j])
                    m += 1
            if m >= LEAST_KEYS:
                found[i] = _pearson(_ranks(scores[:m]), _ranks(distances[:m]))
    return found


@njit(cache=True, nogil=True)
def _score(x, y):
    total = 0.0
    for d in range(len(x)):
        total += x[d] * y[d]
    return total


@njit(cache=True, nogil=True)
def _square(x, y):
    total = 0.0
    for d in range(len(x)):
        total += (x[d] - y[d]) * (x[d] - y[d])
    return total


@njit(cache=True, nogil=True)
def _ranks(x):
    """Ranks from 0, equal values sharing the mean of theirs."""
    order = np.argsort(x)
    ranks = np.empty(len(x))
    first = 0
    for t in range(1, len(x) + 1):
        if t == len(x) or x[order[t]] != x[order[first]]:
            for u in range(first, t):
                ranks[order[u]] = (first + t - 1) / 2
            first = t
    return ranks


@njit(cache=True, nogil=True)
def _pearson(x, y):
    x, y = x - x.mean(), y - y.mean()
    spread = np.sqrt((x * x).sum() * (y * y).sum())
    return (x * y).sum() / spread if spread > 0 else np.nan


def clustered_mean(correlations: np.ndarray, document: np.ndarray) -> tuple[float, float, int]:
    """Mean, its standard error clustered by document (NaN for one document), and how many queries had a value."""
    used = np.isfinite(correlations)
    if not used.any():
        return float("nan"), float("nan"), 0
    _, group = np.unique(document[used], return_inverse=True)
    counts = np.bincount(group).astype(np.float64)
    value, error = ratio(np.bincount(group, weights=correlations[used]), counts)
    return float(value), float(error), int(used.sum())


def is_grey(mean: float, error: float) -> bool:
    """Whether a picture shows too little to be read: above −0.2, or its 95 % interval reaches 0; NaN is grey."""
    reaches = mean + 1.96 * (error if np.isfinite(error) else 0.0)
    return not (mean <= GREY_ABOVE and reaches < 0)
