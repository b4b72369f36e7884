"""New vectors in an old picture: each is placed by itself among frozen points, so a batch changes nothing.

As UMAP's transform (McInnes et al. 2018): start at the weighted mean of the nearest points' places, then descend with
the old points held still. Unlike umap-learn's, weights are not divided by the largest of the batch and random numbers
depend on the vector alone.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numba import njit

from attnengine.embedding.curve import fit_curve
from attnengine.embedding.fuzzy import bisect
from attnengine.embedding.layout import NEGATIVES, mix
from attnengine.embedding.layout_compiled import mixed
from attnengine.embedding.neighbours import before, distinct
from attnengine.embedding.settings import EmbedSettings

STEPS = 100
RATE = 0.25


def place_new(
    new: np.ndarray, vectors: np.ndarray, points: np.ndarray, settings: EmbedSettings, seed: int
) -> np.ndarray:
    """Places (m, dims) fp32 of ``new`` (m, d) fp32 among ``vectors`` (n, d), whose places are ``points`` (n, dims).

    A vector that equals an old one is put on its place.
    """
    first, _ = distinct(vectors)
    old, places = vectors[first], points[first].astype(np.float64)
    found, squares = np.empty((len(new), settings.neighbours), np.int32), np.empty((len(new), settings.neighbours))
    _nearest_old(np.ascontiguousarray(new), old, found, squares)
    keys = np.array([_key(row, seed) for row in new], np.uint32)
    a, b = fit_curve(settings.min_dist)
    return _descend(found, squares / 2, places, keys, a, b).astype(np.float32)


def _key(row: np.ndarray, seed: int) -> np.uint32:
    """Random numbers of a vector: they depend on its bits and the seed, not on its place in a batch."""
    bits = int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=4).digest(), "little")
    return np.uint32(mix(np.array([bits], np.uint32) ^ np.uint32(seed))[0])


@njit(cache=True, nogil=True)
def _nearest_old(new, old, found, squares):
    """The nearest old vectors of each new one by squared distance in fp64, then index."""
    k, d = found.shape[1], old.shape[1]
    for i in range(len(new)):
        filled = 0
        for j in range(len(old)):
            total = 0.0
            for e in range(d):
                apart = np.float64(new[i, e]) - np.float64(old[j, e])
                total += apart * apart
            if filled == k and not before(total, j, squares[i, k - 1], found[i, k - 1]):
                continue
            place = filled if filled < k else k - 1
            while place > 0 and before(total, j, squares[i, place - 1], found[i, place - 1]):
                found[i, place], squares[i, place] = found[i, place - 1], squares[i, place - 1]
                place -= 1
            found[i, place], squares[i, place] = j, total
            filled = min(filled + 1, k)


@njit(cache=True, nogil=True)
def _weights(distances):
    """exp(−d/sigma), sigma such that they sum to log2 k over all but the nearest."""
    sigma = bisect(distances, 0.0, np.log2(len(distances)), 0.0)
    return np.exp(-distances / max(sigma, 1e-3 * distances.mean()))


@njit(cache=True, nogil=True)
def _descend(found, distances, places, keys, a, b):
    """(m, dims) fp64 places; each vector's own descent, STEPS steps of falling size."""
    m, k = found.shape
    dims = places.shape[1]
    out = np.empty((m, dims))
    for i in range(m):
        if distances[i, 0] == 0.0:
            out[i] = places[found[i, 0]]
            continue
        weights = _weights(distances[i])
        y = np.zeros(dims)
        for j in range(k):
            y += places[found[i, j]] * (weights[j] / weights.sum())
        draw = keys[i]
        for step in range(STEPS):
            size = RATE * (1 - step / STEPS)
            for j in range(k):
                if int((step + 1) * weights[j]) == int(step * weights[j]):
                    continue
                _move(y, places[found[i, j]], True, a, b, size)
                for _ in range(NEGATIVES):
                    draw = mixed(np.uint32(draw + np.uint32(0x9E3779B9)))
                    _move(y, places[(np.uint64(draw) * np.uint64(len(places))) >> np.uint64(32)], False, a, b, size)
        out[i] = y
    return out


@njit(cache=True, nogil=True)
def _move(y, other, pulls, a, b, size):
    """One step of y towards or away from ``other``, in place."""
    d2 = 0.0
    for c in range(len(y)):
        d2 += (y[c] - other[c]) * (y[c] - other[c])
    if d2 == 0.0:
        return
    p = d2**b
    gradient = -2 * a * b * p / (d2 * (1 + a * p)) if pulls else 2 * b / ((0.001 + d2) * (1 + a * p))
    for c in range(len(y)):
        y[c] += size * min(max(gradient * (y[c] - other[c]), -4.0), 4.0)
