"""Queries and keys made ready for the tiles: poison out, keys about their mean, the score's common part per row."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

ADD = {"reassoc", "contract", "nsz"}


@njit(cache=True, nogil=True, fastmath=ADD)
def _key_stream(key, rows, counted, clean, both, centre):
    n_keys, d = key.shape
    number, norms = 0, 0.0
    for j in range(n_keys):
        if rows[j] == 0 and not counted[j]:
            continue
        square = 0.0
        for e in range(d):
            square += float(key[j, e]) * key[j, e]
        norms += math.sqrt(square) if counted[j] else 0.0
        if rows[j] > 0:
            number += 1
            for e in range(d):
                clean[j, e] = key[j, e]
                centre[e] += key[j, e]
    for e in range(d):
        centre[e] /= max(number, 1)
    for j in range(n_keys):
        if rows[j] > 0:
            for e in range(d):
                k = np.float32(clean[j, e] - centre[e])
                both[j, e] = k
                both[j, d + e] = k * k
    return norms


@njit(cache=True, nogil=True, parallel=True)
def key_streams(key, key_rows, counted, clean, both, centre, norms):
    """Fills, from keys (b, hkv, k, d) fp32, ``key_rows`` (b, k) rows that see each and ``counted`` (b, k) bool:

    ``clean`` (b, hkv, k, d) fp32, left 0 where no row sees the key; ``both`` (b, hkv, k, 2 d) fp32,
    [k - k̄ | (k - k̄)²]; the mean seen key ``centre`` k̄ (b, hkv, d) fp64; ``norms`` (b, hkv), Σ |k| of counted keys.
    """
    b, hkv = key.shape[:2]
    for turn in prange(b * hkv):
        w, one = turn // hkv, turn % hkv
        norms[w, one] = _key_stream(key[w, one], key_rows[w], counted[w], clean[w, one], both[w, one], centre[w, one])


@njit(cache=True, nogil=True, fastmath=ADD)
def _query_stream(query, seen, centre, scale, clean, scaled, shift, totals):
    norms = 0.0
    for i in range(query.shape[0]):
        if seen[i] == 0:
            continue
        square, common = 0.0, 0.0
        for e in range(query.shape[1]):
            x = float(query[i, e])
            clean[i, e] = query[i, e]
            scaled[i, e] = np.float32(scale * x)
            square += x * x
            common += x * centre[e]
            totals[0, e] += x
            totals[1, e] += x * x
        norms += math.sqrt(square)
        shift[i] = scale * common
    return norms


@njit(cache=True, nogil=True, parallel=True)
def query_streams(query, seen, centre, scale, clean, scaled, shift, totals, norms):
    """Fills, from queries (b, h, q, d) fp32, ``seen`` (b, q), 0 for rows that do not count, and ``centre`` = k̄:

    ``clean`` and ``scaled`` = scale · clean, (b, h, q, d) fp32, left 0 in rows that do not count; the scores' common
    part ``shift`` = scale q · k̄ (b, h, q) fp64; ``totals`` (b, h, 2, d) fp64, Σ q and Σ q²; ``norms`` (b, h), Σ |q|.
    """
    b, h = query.shape[:2]
    for turn in prange(b * h):
        w, head = turn // h, turn % h
        norms[w, head] = _query_stream(
            query[w, head], seen[w], centre[w, head * centre.shape[1] // h], scale, clean[w, head], scaled[w, head],
            shift[w, head], totals[w, head],
        )  # fmt: skip
