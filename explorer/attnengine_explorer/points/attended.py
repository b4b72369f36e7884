"""Attention between sampled tokens, from the top-16 keys that a run stores for every sampled query."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnengine.errors import RunFormatError
from attnengine_explorer.points.heads import HeadClouds


@dataclass(frozen=True)
class TopKeys:
    """Of each query (n, 16): the row of ``tokens`` of its most attended keys, -1 where a key is not in the sample, and
    its weight in the pattern; positions in the window, -1 where fewer keys are visible.
    """

    rows: np.ndarray
    weights: np.ndarray
    positions: np.ndarray


def top_keys(clouds: HeadClouds, site: int, head: int, queries: np.ndarray) -> TopKeys:
    """The top keys of the sampled tokens ``queries`` (rows); RunFormatError if the run stores none, or strange ones.

    In cross-attention a key stands in the encoder's text, which is not the text of the sampled rows: no row is known.
    """
    positions, weights = clouds.run.run.top_keys(site), clouds.run.run.top_weights(site)
    n = len(clouds.tokens)
    if positions.ndim != 3 or positions.shape != weights.shape or len(positions) != n or head >= positions.shape[1]:
        raise RunFormatError(f"{clouds.run.path}: the stored top keys of site {site} do not fit the sample")
    at = np.asarray(positions[queries, head], np.int64)
    weight = np.where(at >= 0, np.asarray(weights[queries, head], np.float64), 0.0)
    rows = np.full(at.shape, -1, np.int64)
    if clouds.run.sites[site].kind != "cross":
        rows = clouds.rows_at(np.repeat(clouds.tokens.window[queries][:, None], at.shape[1], axis=1), at)
    return TopKeys(rows, weight, at)


@dataclass(frozen=True)
class Among:
    """Mean shares of a query's attention, over lassoed queries: on lassoed keys, on sampled keys, on the stored 16."""

    lassoed: float
    sampled: float
    stored: float
    n_queries: int


def among(clouds: HeadClouds, site: int, head: int, queries: np.ndarray, is_key: np.ndarray) -> Among:
    """The attention of lassoed ``queries`` (rows) on lassoed keys, ``is_key`` (n,) bool, as far as it is stored."""
    if not len(queries):
        return Among(np.nan, np.nan, np.nan, 0)
    found = top_keys(clouds, site, head, queries)
    known = found.rows >= 0
    lassoed = known & is_key[found.rows]
    one, two, three = (float((found.weights * mask).sum(axis=1).mean()) for mask in (lassoed, known, True))
    return Among(one, two, three, len(queries))


def attending(clouds: HeadClouds, site: int, head: int, key: int) -> list[tuple[int, float]]:
    """(row, weight) of the sampled queries that have the sampled token ``key`` among their top keys, largest first."""
    near = np.flatnonzero(clouds.tokens.window == clouds.tokens.window[key])
    found = top_keys(clouds, site, head, near)
    hit, rank = np.nonzero(found.rows == key)
    pairs = [(int(near[i]), float(found.weights[i, r])) for i, r in zip(hit, rank, strict=True)]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
