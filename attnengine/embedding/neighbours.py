"""The k nearest neighbours of every point: exact for a head's sample, by search graph above :data:`EXACT_LIMIT`.

Exact means certified: tiles of a matrix product in fp32 propose CANDIDATES neighbours a point, fp64 differences decide
among them, and a point whose decision the rounding of the product could have touched is searched again in fp64. So
neither the tiles nor the BLAS library nor its threads can change a bit of what comes out. Ties go to the lower index;
a point is its own first neighbour.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from attnengine.embedding.settings import EXACT_LIMIT as EXACT_LIMIT

CANDIDATES = 32
TILE = 2**19  # entries of a tile: 2 MB of fp32, so that it is scanned from the cache
CHUNK = 64  # entries of a row that are compared at once
UNIT = 2.0**-24  # rounding of fp32


def nearest(
    points: np.ndarray, k: int, *, rows: np.ndarray | None = None, seed: int = 0, always_exact: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours (m, k) int32, themselves first, and squared distances (m, k) fp64 of points[rows] among ``points``.

    points: (n, d) fp32, finite. rows: which points ask, all by default. seed: of the search graph; exact searches
    do not use it. always_exact: no search graph, however many points. Raises ValueError unless 1 ≤ k ≤ n.
    """
    n = len(points)
    if not 1 <= k <= n:
        raise ValueError(f"expected between 1 and {n} neighbours for {n} points, got {k}")
    if rows is None and n > EXACT_LIMIT and not always_exact:
        return by_descent(points, k, seed)
    return exact(points, np.arange(n) if rows is None else rows, k)


def exact(points: np.ndarray, rows: np.ndarray, k: int, *, tile: int = TILE) -> tuple[np.ndarray, np.ndarray]:
    """:func:`nearest` by comparing every pair; ``tile`` (entries) changes no bit."""
    n, d = points.shape
    centred = (points - points.mean(axis=0, dtype=np.float64)).astype(np.float32)
    squares = np.einsum("nd,nd->n", centred, centred, dtype=np.float32)
    # Rounding of the product (d), of the squares and their sum (8), of centring (4), each times ‖x‖² + ‖y‖².
    slack = 1.1 * (d + 12) * UNIT * (squares.astype(np.float64)[rows] + float(squares.max(initial=0)))
    found, distances = np.empty((len(rows), k), np.int32), np.empty((len(rows), k))
    height = max(tile // n, 1)
    for start in range(0, len(rows), height):
        part = slice(start, start + height)
        products = centred[rows[part]] @ centred.T  # (height, n)
        _decide(products, squares, points, rows[part], slack[part], found[part], distances[part])
    return found, distances


@njit(cache=True, nogil=True)
def _decide(products, squares, points, rows, slack, found, distances):
    """Neighbours of a tile's rows: the nearest by ``products`` are measured in fp64, all points where that may err."""
    k, n = found.shape[1], len(points)
    room = min(max(CANDIDATES, 2 * k), n)
    candidates, keys = np.empty(room, np.int32), np.empty(room, np.float32)
    for r in range(len(rows)):
        i = rows[r]
        own = float(squares[i])
        worst = _propose(products[r], squares, candidates, keys)
        _measure(points, i, candidates, room, found[r], distances[r])
        if room < n and distances[r, k - 1] >= own + float(worst) - slack[r]:
            _measure(points, i, np.arange(n).astype(np.int32), n, found[r], distances[r])


@njit(cache=True, nogil=True)
def _propose(products, squares, candidates, keys):
    """The indices with the smallest squares[j] − 2 products[j] into ``candidates``; the largest of these values."""
    room, n = len(candidates), len(products)
    for j in range(room):
        candidates[j], keys[j] = j, squares[j] - np.float32(2) * products[j]
    worst = np.argmax(keys)
    limit = keys[worst]
    for start in range(room, n, CHUNK):
        stop = min(start + CHUNK, n)
        below = 0
        for j in range(start, stop):
            below += squares[j] - np.float32(2) * products[j] < limit
        if below:
            for j in range(start, stop):
                key = squares[j] - np.float32(2) * products[j]
                if key < limit:
                    candidates[worst], keys[worst] = j, key
                    worst = np.argmax(keys)
                    limit = keys[worst]
    return limit


@njit(cache=True, nogil=True)
def _measure(points, i, candidates, m, found, distances):
    """The nearest of ``candidates`` to point i by squared distance in fp64, then index; i itself first."""
    k, d = len(found), points.shape[1]
    found[0], distances[0] = i, 0.0
    filled = 1
    for c in range(m):
        j = candidates[c]
        if j == i:
            continue
        total = 0.0
        for e in range(d):
            apart = np.float64(points[i, e]) - np.float64(points[j, e])
            total += apart * apart
        if filled == k and not before(total, j, distances[k - 1], found[k - 1]):
            continue
        place = filled if filled < k else k - 1
        while place > 1 and before(total, j, distances[place - 1], found[place - 1]):
            found[place], distances[place] = found[place - 1], distances[place - 1]
            place -= 1
        if place < k:  # k = 1 has room for the point itself only
            found[place], distances[place] = j, total
        filled = min(filled + 1, k)


@njit(cache=True, nogil=True)
def before(distance, index, other_distance, other_index):
    """Whether a neighbour ranks before another: by distance, then by index."""
    return distance < other_distance or (distance == other_distance and index < other_index)


def by_descent(points: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours by nearest-neighbour descent on one thread, measured again in fp64; recall about 0.99."""
    from pynndescent import NNDescent

    index = NNDescent(points, n_neighbors=max(k + 1, 16), metric="euclidean", random_state=seed, n_jobs=1)
    candidates = index.neighbor_graph[0].astype(np.int32)
    found, distances = np.empty((len(points), k), np.int32), np.empty((len(points), k))
    _measure_all(points, candidates, found, distances)
    return found, distances


@njit(cache=True, nogil=True)
def _measure_all(points, candidates, found, distances):
    for i in range(len(points)):
        _measure(points, i, candidates[i], candidates.shape[1], found[i], distances[i])


def distinct(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First rows of each distinct vector, ascending (m,), and for every row which of them it equals (n,).

    Rows are equal if all their bits are, −0 counting as 0: the same token at the same place in the first layer.
    """
    plain = np.ascontiguousarray(points + points.dtype.type(0))
    as_bytes = plain.view(np.dtype((np.void, plain.dtype.itemsize * plain.shape[1]))).ravel()
    _, first, inverse = np.unique(as_bytes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse]
