"""Queries and keys of one window made ready for the tiles: poison out, keys about their mean, lengths, totals.

They come as flat fp32 memory with the strides of (window, head, row): transformers hands out transposed views.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from attnengine_kernels.cpu._exp import f64

ADD = {"reassoc", "contract", "nsz"}
TURN = 16  # keys transposed at a time: a cache line of each dimension


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _copy(row, clean, total):
    """Copies a row and adds it to ``total``; returns its length."""
    square = np.float32(0.0)
    for e in range(row.shape[0]):
        clean[e] = row[e]
        square += row[e] * row[e]
    for e in range(row.shape[0]):
        total[e] += clean[e]
    return math.sqrt(f64(square))


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _length(row):
    square = np.float32(0.0)
    for e in range(row.shape[0]):
        square += row[e] * row[e]
    return math.sqrt(f64(square))


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _about(row, centre, about, squares):
    for e in range(row.shape[0]):
        about[e] = row[e] - centre[e]
    for e in range(squares.shape[0]):  # none for core
        squares[e] = about[e] * about[e]


@njit(cache=True, nogil=True, _nrt=False)
def _turn(both, turned):
    d, n_keys = turned.shape
    for block in range(0, n_keys, TURN):
        for e in range(d):
            for j in range(block, min(block + TURN, n_keys)):
                turned[e, j] = both[j, e]


@njit(cache=True, nogil=True, _nrt=False)
def key_stream(key, strides, w, first, rows, counted, clean, both, turned, norm, centre, norms):
    """Sets, for the key heads from ``first``, with ``rows`` (k,) rows that see each key and ``counted`` (k,) bool:

    ``clean`` (heads, k, d) fp32, 0 where no row sees the key; ``both`` (heads, k, 2 d) fp32, [k - k̄ | (k - k̄)²], or
    (heads, k, d) without the squares; ``turned`` (heads, d, k), its first half transposed, which products read faster;
    ``norm`` (heads, k) fp64 |k|; the mean seen key ``centre`` k̄ (heads, d) fp64; ``norms`` (heads,), Σ |k| of counted
    keys.
    """
    heads, n_keys, d = clean.shape
    number, centre[:], norms[:] = 0, 0.0, 0.0
    for j in range(n_keys):  # a token's heads lie side by side in memory
        number += rows[j] > 0
        for one in range(heads):
            at = w * strides[0] + (first + one) * strides[1] + j * strides[2]
            if rows[j] > 0:
                norm[one, j] = _copy(key[at : at + d], clean[one, j], centre[one])
            else:
                norm[one, j] = _length(key[at : at + d]) if counted[j] else 0.0
                clean[one, j] = 0.0
            norms[one] += norm[one, j] if counted[j] else 0.0
    for one in range(heads):
        mean = centre[one]
        for e in range(d):
            mean[e] /= max(number, 1)
        for j in range(n_keys):
            if rows[j] > 0:
                _about(clean[one, j], mean, both[one, j, :d], both[one, j, d:])
            else:
                both[one, j] = 0.0
        _turn(both[one], turned[one])


@njit(cache=True, nogil=True, _nrt=False)
def value_stream(value, strides, w, first, d, rows, norm):
    """Sets ``norm`` (heads, k) fp32 to |v|, 0 where no row sees the key."""
    for j in range(norm.shape[1]):
        for one in range(norm.shape[0]):
            at = w * strides[0] + (first + one) * strides[1] + j * strides[2]
            norm[one, j] = _length(value[at : at + d]) if rows[j] > 0 else 0.0


@njit(cache=True, nogil=True, _nrt=False, fastmath=ADD, forceinline=True)
def _add_squares(row, centre, total):
    """Adds the row's squares to ``total``; returns row · centre."""
    common = 0.0
    for e in range(row.shape[0]):
        x = f64(row[e])
        total[e] += x * x
        common += x * centre[e]
    return common


@njit(cache=True, nogil=True, _nrt=False)
def query_stream(query, strides, w, first, seen, centre, scale, clean, norm, shift, totals, norms):
    """Sets, for the query heads from ``first``, with ``seen`` (q,), 0 for rows that do not count, and their k̄:

    ``clean`` (heads, q, d) fp32, 0 in rows that do not count; ``norm`` (heads, q) fp64 |q|; the scores' common part
    ``shift`` = scale q · k̄ (heads, q) fp64; ``totals`` (heads, 2, d) fp64, Σ q and Σ q²; ``norms`` (heads,), Σ |q|.
    """
    heads, n_rows, d = clean.shape
    norms[:], totals[:] = 0.0, 0.0
    for i in range(n_rows):
        for one in range(heads):
            if seen[i] == 0:
                clean[one, i] = 0.0
                norm[one, i] = shift[one, i] = 0.0
                continue
            mean = centre[one * centre.shape[0] // heads]
            at = w * strides[0] + (first + one) * strides[1] + i * strides[2]
            norm[one, i] = _copy(query[at : at + d], clean[one, i], totals[one, 0])
            shift[one, i] = scale * _add_squares(clean[one, i], mean, totals[one, 1])
            norms[one] += norm[one, i]


@njit(cache=True, nogil=True, _nrt=False)
def operands_pass(
    query, query_strides, key, key_strides, value, value_strides, w, first, first_key, d_value, seen, rows, counted,
    scale, clean_query, clean_key, both, turned, query_norm, key_norm, centre, shift, value_norm, norms, query_totals,
    query_norms, centres, key_norms,
):  # fmt: skip
    """All streams of a piece, key heads from ``first_key`` and the query heads from ``first`` that read them.

    Beside what the streams set: ``centres`` (h, d) and ``key_norms`` (h,), k̄ and Σ |k| of each query head's key head.
    ``norms`` (hkv,) fp64 is room to work in.
    """
    key_stream(key, key_strides, w, first_key, rows, counted, clean_key, both, turned, key_norm, centre, norms)
    value_stream(value, value_strides, w, first_key, d_value, rows, value_norm)
    query_stream(query, query_strides, w, first, seen, centre, scale, clean_query, query_norm, shift, query_totals,
                 query_norms)  # fmt: skip
    for head in range(centres.shape[0]):
        one = head * centre.shape[0] // centres.shape[0]
        key_norms[head] = norms[one]
        for e in range(centre.shape[1]):
            centres[head, e] = centre[one, e]
