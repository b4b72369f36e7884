"""The sums of :mod:`._scan` where a bias of -inf hides pairs inside the interval: no prefix knows which."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from attnengine_kernels.cpu._exp import f64
from attnengine_kernels.cpu._scan import (
    ADD,
    HIGH,
    LOW,
    NEAR,
    NEAR_DISTANCE,
    NEAR_SQUARE,
    POSITIVE,
    QK,
    SHARE,
    SQUARE,
)


@njit(cache=True, nogil=True, fastmath=ADD)
def _pair(q, k, near, far, out):
    for e in range(q.shape[0]):
        x = f64(q[e]) * k[e]
        out[QK, e] += x
        out[SQUARE, e] += x * x
        out[POSITIVE, e] += 1.0 if x > 0 else 0.0
        out[NEAR, e] += near * x
        out[NEAR_SQUARE, e] += near * x * x
        out[NEAR_DISTANCE, e] += near * far * x
        out[LOW, e] = min(out[LOW, e], x)
        out[HIGH, e] = max(out[HIGH, e], x)


@njit(cache=True, nogil=True, fastmath=ADD)
def _row_share(q, key, centre, veil, begin, end, n, out):
    """Adds q ⊙ (Σ_j k (k · q) / n - S (S · q) / n²), keys centred; returns Σ_j of the row's cosines."""
    d = q.shape[0]
    weighted, total = np.zeros(d), np.zeros(d)
    cosine, length = 0.0, 0.0
    for e in range(d):
        length += f64(q[e]) * q[e]
    for j in range(begin, end):
        if veil[j]:
            continue
        dot, raw, norm = 0.0, 0.0, 0.0
        for e in range(d):
            dot += q[e] * (key[j, e] - centre[e])
            raw += f64(q[e]) * key[j, e]
            norm += f64(key[j, e]) * key[j, e]
        cosine += 0.0 if norm * length == 0 else raw / math.sqrt(norm * length)
        for e in range(d):
            weighted[e] += dot * (key[j, e] - centre[e])
            total[e] += key[j, e] - centre[e]
    across = 0.0
    for e in range(d):
        across += q[e] * total[e]
    for e in range(d):
        out[SHARE, e] += q[e] * (weighted[e] / n - total[e] * across / (n * n))
    return cosine


@njit(cache=True, nogil=True)
def scan_hidden_pass(
    query, key, centre, lo, hi, seen, hidden, position, key_shift, placed, query_patch, key_patch, cross, sums, cosine
):
    """As :func:`._scan.scan_pass`, whole and O(q k d), with ``hidden`` (q, k) bool and ``seen`` (q,) visible keys."""
    group = query.shape[0] // key.shape[0]
    for head in range(query.shape[0]):
        k, mean, out = key[head // group], centre[head // group], sums[head]
        for i in range(query.shape[1]):
            if seen[i] == 0:
                continue
            q, veil = query[head, i], hidden[i]
            cosine[head] += _row_share(q, k, mean, veil, lo[i], hi[i], seen[i], out)
            for j in range(lo[i], hi[i]):
                if veil[j]:
                    continue
                near, far = 0.0, 0.0
                if not cross and position[i] >= 0 and placed[0] <= j < placed[1]:
                    near, far = 1.0, f64(abs(j - key_shift - position[i]))
                    if key_patch.shape[0] > 0:
                        dr, dc = query_patch[i, 0] - key_patch[j, 0], query_patch[i, 1] - key_patch[j, 1]
                        far = math.sqrt(f64(dr * dr + dc * dc))
                _pair(q, k[j], near, far, out)
