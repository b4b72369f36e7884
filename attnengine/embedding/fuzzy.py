"""From nearest neighbours to a weighted graph: UMAP's fuzzy set (McInnes et al. 2018, arXiv 1802.03426, 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

BISECTIONS = 64
CLOSE_ENOUGH = 1e-5
LEAST_SCALE = 1e-3  # sigma is at least this part of the mean distance


@dataclass(frozen=True)
class Graph:
    """A symmetric graph without loops: ``indptr`` (n + 1,) int64, ``indices`` (e,) int32 ascending in each row,
    ``weights`` (e,) fp32 in (0, 1].
    """

    indptr: np.ndarray
    indices: np.ndarray
    weights: np.ndarray

    @property
    def n(self) -> int:
        """Vertices."""
        return len(self.indptr) - 1


@njit(cache=True, nogil=True)
def scales(distances):
    """Scales rho and sigma (n,) fp64 of each point, from the distances (n, k) to its neighbours, itself first.

    rho is the distance to the nearest neighbour that is not at distance 0; sigma solves
    Σ_j exp(−max(d_j − rho, 0)/sigma) = log2 k over the others by bisection.
    """
    n, k = distances.shape
    rho, sigma = np.zeros(n), np.zeros(n)
    everywhere = distances.mean()
    target = np.log2(k)
    for i in range(n):
        row = distances[i]
        for j in range(k):
            if row[j] > 0:
                rho[i] = row[j]
                break
        sigma[i] = max(
            bisect(row, rho[i], target, CLOSE_ENOUGH), LEAST_SCALE * (row.mean() if rho[i] > 0 else everywhere)
        )
    return rho, sigma


@njit(cache=True, nogil=True)
def bisect(row, rho, target, close):
    """Sigma such that exp(−max(d − rho, 0)/sigma) over all but the nearest sum to ``target``, ``close`` or better."""
    low, high, sigma = 0.0, np.inf, 1.0
    for _ in range(BISECTIONS):
        total = 0.0
        for j in range(1, len(row)):
            gap = row[j] - rho
            total += np.exp(-gap / sigma) if gap > 0 else 1.0
        if abs(total - target) < close:
            break
        if total > target:
            high = sigma
            sigma = (low + high) / 2
        else:
            low = sigma
            sigma = sigma * 2 if high == np.inf else (low + high) / 2
    return sigma


@njit(cache=True, nogil=True)
def memberships(distances, rho, sigma):
    """(n, k) fp64 strengths exp(−max(d − rho, 0)/sigma) of each point's edges to its neighbours."""
    n, k = distances.shape
    strengths = np.ones((n, k))
    for i in range(n):
        for j in range(k):
            gap = distances[i, j] - rho[i]
            if gap > 0 and sigma[i] > 0:
                strengths[i, j] = np.exp(-gap / sigma[i])
    return strengths


def fuzzy_graph(neighbours: np.ndarray, distances: np.ndarray, epochs: int) -> Graph:
    """The fuzzy union w = s_ij + s_ji − s_ij s_ji of the directed strengths.

    neighbours, distances: (n, k), each point itself first. Edges with w < w_max/epochs would never be due and are
    dropped.
    """
    n, _ = neighbours.shape
    strengths = memberships(distances, *scales(distances.astype(np.float64)))
    head, tail = np.repeat(np.arange(n), neighbours.shape[1]), neighbours.ravel().astype(np.int64)
    edge = head != tail
    head, tail, weight = head[edge], tail[edge], strengths.ravel()[edge]
    # Each directed edge is listed under its pair (small, large); the two directions then lie side by side.
    pair = np.minimum(head, tail) * n + np.maximum(head, tail)
    order = np.argsort(pair, kind="stable")
    pair, weight = pair[order], weight[order]
    first = np.flatnonzero(np.concatenate([[True], pair[1:] != pair[:-1]]))
    pair, union = pair[first], weight[first]
    second = np.minimum(first + 1, len(weight) - 1)
    both = np.diff(np.append(first, len(weight))) == 2
    union = np.where(both, union + weight[second] - union * weight[second], union)
    kept = union >= union.max(initial=0.0) / epochs
    return _symmetric(pair[kept] // n, pair[kept] % n, union[kept].astype(np.float32), n)


def _symmetric(low: np.ndarray, high: np.ndarray, weight: np.ndarray, n: int) -> Graph:
    """A graph from its undirected edges, each once."""
    head, tail = np.concatenate([low, high]), np.concatenate([high, low])
    order = np.argsort(head * n + tail, kind="stable")
    indptr = np.concatenate([[0], np.bincount(head, minlength=n).cumsum()])
    return Graph(indptr, tail[order].astype(np.int32), np.concatenate([weight, weight])[order])
