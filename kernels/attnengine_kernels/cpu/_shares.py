"""Each neuron's share of the score's variance, by products of D x D matrices: O(L D²) beside O(128 L D) at ragged ends.

Cov_j(q_id k_jd, s_ij) = c q_id (Σ_i q_i)_d with Σ_i the covariance of the keys that row i sees, so summed over rows
c Σ_i q_id (Σ_i q_i)_d. All rows see the same keys: one covariance and one Σ_i q_i q_iᵀ. Otherwise rows go in blocks:
the keys that all rows of a block see are whole tiles, whose Σ k kᵀ is a difference of fp64 running sums; the others
enter as a product with 0/1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from attnengine_kernels.cpu._exp import f64
from attnengine_kernels.cpu._scan import ADD
from attnengine_kernels.cpu._workers import room

Array = np.ndarray[Any, Any]

TILE = 128  # rows, and keys, of a block
GRAM_ROWS = 512  # rows added in fp32 before they are added in fp64


def uniform_shares(query: Tensor, about: Tensor, n_keys: int, out: Array) -> None:
    """Sets ``out`` (h, d) fp64 to Σ_i q_id (Σ q_i)_d, where all rows of a window see the same keys: shares, unscaled.

    ``query`` (h, q, d), 0 in rows that do not count; ``about`` (hkv, k, d), keys about their mean, 0 where not seen.
    """
    _meet(_gram("query gram", query), _gram("key gram", about), n_keys, out)


def _gram(name: str, x: Tensor) -> Array:
    """Σ_i x_i x_iᵀ over the middle axis, (parts, heads, d, d) fp32, in parts of at most GRAM_ROWS rows."""
    heads, n, d = x.shape
    starts = range(0, n, GRAM_ROWS)
    found = room(name, (len(starts), heads, d, d))
    for start, product in zip(starts, torch.from_numpy(found), strict=True):
        part = x[:, start : start + GRAM_ROWS]
        torch.bmm(part.transpose(1, 2), part, out=product)
    return np.asarray(found)


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD)
def _meet(queries, keys, n_keys, out):
    """Sets ``out`` (h, d) to Σ_e Q_de K_de / n, Q and K the sums of their parts, which are added in fp64."""
    h, d = out.shape
    group = h // keys.shape[1]
    for head in range(h):
        for row in range(d):
            total = 0.0
            for a in range(queries.shape[0]):
                for b in range(keys.shape[0]):
                    q, k = queries[a, head, row], keys[b, head // group, row]
                    for e in range(d):
                        total += f64(q[e]) * k[e]
            out[head, row] = total / max(n_keys, 1)


def interval_squares(query: Tensor, about: Tensor, lo: Array, hi: Array) -> Tensor:
    """Σ_i q_id (Σ_j k_j (k_j · q_i))_d / n_i, (h, d) fp64, for one window whose rows see [lo_i, hi_i).

    ``query`` (h, q, d); ``about`` (hkv, k, d), keys about any common centre; rows with lo = hi add nothing.
    """
    (h, n_query, d), hkv = query.shape, len(about)
    running, total = _running_gram(about), query.new_zeros(h, d, dtype=torch.float64)
    for r0 in range(0, n_query, TILE):
        r1 = min(r0 + TILE, n_query)
        low, high = lo[r0:r1, None], hi[r0:r1, None]  # (r, 1)
        live = low < high
        if not live.any():
            continue
        first, last = int(low[live].min()), int(high[live].max())
        begin, end = -(-int(low[live].max()) // TILE), int(high[live].min()) // TILE  # whole tiles that all rows see
        if begin >= end:
            begin = end = first // TILE
        rows = query[:, r0:r1].reshape(hkv, -1, d)  # (hkv, g r, d)
        applied = torch.bmm(rows, (running[:, end] - running[:, begin]).to(rows.dtype))
        for left, right in ((first, begin * TILE), (max(end * TILE, first), last)):
            if left < right:
                index = np.arange(left, right)
                seen = torch.from_numpy(((low <= index) & (index < high)).astype(np.float32))  # (r, k)
                keys = about[:, left:right]
                score = torch.bmm(rows, keys.transpose(1, 2))
                score.view(h, r1 - r0, -1).mul_(seen)
                applied.baddbmm_(score, keys)
        scaled = rows.view(h, r1 - r0, d) / torch.from_numpy(np.maximum(high - low, 1).astype(np.float32))
        total += (scaled * applied.view(h, r1 - r0, d)).sum(dim=1, dtype=torch.float64)
    return total


def _running_gram(about: Tensor) -> Tensor:
    """(hkv, tiles + 1, d, d) fp64: Σ k kᵀ over the tiles before each."""
    hkv, n_key, d = about.shape
    tiles = -(-n_key // TILE)
    padded = torch.nn.functional.pad(about, (0, 0, 0, tiles * TILE - n_key)).view(hkv * tiles, TILE, d)
    grams = torch.bmm(padded.transpose(1, 2), padded).view(hkv, tiles, d, d).double()
    return torch.nn.functional.pad(grams.cumsum(dim=1), (0, 0, 0, 0, 1, 0))
