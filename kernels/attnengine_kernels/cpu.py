"""The CPU path: every statistic of a call in one sweep over tiles of scores, never an L×L matrix.

A tile is a block of query rows by the keys they see, for all heads of one window: torch multiplies (scores; pattern
against [K | K²]), and in between one compiled pass (:mod:`._tile`) turns scores into the pattern while the tile is in
the cache. What factors over pairs is scanned in O(L D) (:mod:`._scan`). A window is worked on alone and heads are
never added to each other, so its sums do not depend on its neighbours in the batch. The idea of recomputing p from
lse: Dao et al. 2022 (arXiv 2205.14135).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from attnengine_kernels._check import check_call
from attnengine_kernels._exact import exact_products
from attnengine_kernels._facts import Memory, Prepared
from attnengine_kernels._finish import Raw, finish
from attnengine_kernels._scan import HIGH, LOW, NEURON_SUMS, scan_pass
from attnengine_kernels._scan_hidden import scan_hidden_pass
from attnengine_kernels._streams import key_streams, query_streams
from attnengine_kernels._tile import SCORE_MAX, SCORE_MIN, SUMS, attend_pass, tile_pass
from attnengine_kernels.call import AttentionCall, HeadSums, TokenFacts
from attnengine_kernels.sums import PATTERN_BINS, profile_edges

TILE_ELEMENTS = 2**19  # of fp32: 2 MB, what the L2 caches of two cores hold
LEAST_ROWS, MOST_ROWS = 16, 128

THREADS = numba.get_num_threads()  # as numba was started: the most it can use

Array = np.ndarray[Any, Any]


class _Streams(NamedTuple):
    query: Array  # (b, h, q, d) fp32, 0 in rows that do not count
    scaled: Tensor  # (b, h, q, d) fp32, scale · query
    key: Array  # (b, hkv, k, d) fp32, 0 where nobody looks
    both: Tensor  # (b, hkv, k, 2 d) fp32, [k - k̄ | (k - k̄)²]
    centre: Array  # (b, hkv, d) fp64, k̄
    shift: Array  # (b, h, q) fp64, scale q · k̄
    value_norm: Array  # (b, hkv, k) fp32, 0 where nobody looks


def head_sums(
    call: AttentionCall,
    queries: TokenFacts,
    keys: TokenFacts,
    *,
    cross: bool = False,
    max_length: int | None = None,
    memory: Memory | None = None,
) -> HeadSums:
    """Every sum of :mod:`.sums` for one attention call on the CPU, in O(L) memory per head.

    As :func:`.reference.head_sums`; inputs fp32, fp16 or bf16 (computed in fp32). ``memory`` saves the work that
    depends on facts and mask only. Raises ValueError for shapes that do not fit and for fp64, which :mod:`.blocked`
    takes.
    """
    check_call(call)
    if torch.float64 in (call.query.dtype, call.key.dtype):
        raise ValueError("query, key: expected fp32, fp16 or bf16 on this path, got fp64; path='torch' takes it")
    facts = (memory or Memory()).find(call, queries, keys, cross=cross, max_length=max_length)
    numba.set_num_threads(min(torch.get_num_threads(), THREADS))
    with exact_products():
        raw, streams = _start(call, facts)
        _scan(streams, facts, raw)
        for w in range(call.query.shape[0]):
            _sweep(call, facts, streams, w, raw)
        return finish(call, facts, raw)


def _start(call: AttentionCall, facts: Prepared) -> tuple[Raw, _Streams]:
    (b, h, n_query, d), (hkv, n_key) = call.query.shape, call.key.shape[1:3]
    query, scaled = np.zeros((b, h, n_query, d), np.float32), np.zeros((b, h, n_query, d), np.float32)
    key, both = np.zeros((b, hkv, n_key, d), np.float32), np.zeros((b, hkv, n_key, 2 * d), np.float32)
    shift, totals, centre = np.zeros((b, h, n_query)), np.zeros((b, h, 2, d)), np.zeros((b, hkv, d))
    query_norm, key_norm = np.zeros((b, h)), np.zeros((b, hkv))
    key_streams(_numpy(call.key), facts.key_rows, facts.counted_keys, key, both, centre, key_norm)
    query_streams(_numpy(call.query), facts.seen, centre, float(call.scale), query, scaled, shift, totals, query_norm)
    value_norm = torch.linalg.vector_norm(call.value.detach().float(), dim=-1)  # (b, hkv, k)
    value_norm = value_norm.masked_fill(torch.from_numpy(facts.key_rows == 0)[:, None], 0.0)
    n_bins = len(profile_edges(facts.max_length))
    raw = Raw(
        tile=np.zeros((b, h, len(SUMS))),
        received=np.zeros((b, h, call.key.shape[2])),
        grid=np.zeros((b, h, PATTERN_BINS + 1, PATTERN_BINS)),
        profile=np.zeros((b, h, n_bins)),
        attended=np.zeros((b, h, 3, d)),
        neurons=np.zeros((b, h, len(NEURON_SUMS), d)),
        cosine=np.zeros((b, h)),
        query_totals=totals,
        centre=np.repeat(centre, h // hkv, axis=1),
        query_norm=query_norm,
        key_norm=np.repeat(key_norm, h // hkv, axis=1),
    )
    raw.tile[..., SCORE_MIN], raw.tile[..., SCORE_MAX] = np.inf, -np.inf
    raw.neurons[:, :, LOW], raw.neurons[:, :, HIGH] = np.inf, -np.inf
    both_, scaled_ = torch.from_numpy(both), torch.from_numpy(scaled)
    return raw, _Streams(query, scaled_, key, both_, centre, shift, _numpy(value_norm))


def _numpy(tensor: Tensor) -> Array:
    """fp32 and contiguous, so that the passes are compiled for one layout only."""
    return tensor.detach().float().contiguous().numpy()


def _scan(streams: _Streams, facts: Prepared, raw: Raw) -> None:
    places = (facts.position, facts.key_shift, facts.placed, *facts.patches, facts.cross, raw.neurons, raw.cosine)
    if facts.hidden.size:
        scan_hidden_pass(streams.query, streams.key, streams.centre, facts.lo, facts.hi, facts.seen, facts.hidden,
                         *places)  # fmt: skip
        return
    by_lo, by_hi = np.argsort(facts.lo, axis=1, kind="stable"), np.argsort(facts.hi, axis=1, kind="stable")
    scan_pass(streams.query, streams.key, streams.centre, facts.lo, facts.hi, by_lo, by_hi, *places)


def _sweep(call: AttentionCall, facts: Prepared, streams: _Streams, w: int, raw: Raw) -> None:
    """All tiles of one window, in order."""
    (h, n_query, d), (hkv, n_key) = call.query.shape[1:], call.key.shape[1:3]
    lse = np.zeros((len(facts.lo), h, n_query), np.float32)
    if call.lse is not None:
        lse = _numpy(call.lse)
    sink = np.full(h, -np.inf) if call.sink is None else call.sink.detach().double().numpy()
    last = max(int(facts.position.max()), 0)
    block = min(max(TILE_ELEMENTS // (h * n_key), LEAST_ROWS), MOST_ROWS)
    room = torch.empty(h * min(block, n_query) * n_key)
    for r0 in range(0, n_query, block):
        r1 = min(r0 + block, n_query)
        live = facts.seen[w, r0:r1] > 0
        if not live.any():
            continue
        k0, k1 = int(facts.lo[w, r0:r1][live].min()), int(facts.hi[w, r0:r1][live].max())
        tile = room[: h * (r1 - r0) * (k1 - k0)].view(h, r1 - r0, k1 - k0)
        grouped = tile.view(hkv, -1, k1 - k0)  # the query heads of a key head, one after the other
        both = streams.both[w, :, k0:k1]  # (hkv, keys, 2 d)
        query = streams.scaled[w, :, r0:r1].reshape(hkv, -1, d)
        torch.bmm(query, both[..., :d].transpose(1, 2), out=grouped)
        inverse = np.empty((h, r1 - r0), np.float32)
        tile_pass(
            tile.numpy(), w, r0, k0, streams.shift, lse, call.lse is not None, sink, np.float32(call.softcap or 0.0),
            _bias(call, w, r0, r1, k0, k1), streams.value_norm, facts.lo, facts.hi, facts.seen, facts.position,
            facts.key_shift, facts.placed, facts.query_bin, facts.key_edges, facts.groups.order, facts.groups.begin,
            facts.groups.end, *facts.patches, facts.offset_bin, last, facts.first, facts.cross, raw.tile, raw.received,
            raw.grid, raw.profile, inverse,
        )  # fmt: skip
        attended = torch.bmm(grouped, both).view(h, r1 - r0, 2 * d)
        attend_pass(attended.numpy(), streams.query, inverse, w, r0, raw.attended)


def _bias(call: AttentionCall, w: int, r0: int, r1: int, k0: int, k1: int) -> Array:
    if call.bias is None:
        return np.zeros((1, 1, 0), np.float32)
    window = call.bias[w % call.bias.shape[0]]  # (1 or h, q, k)
    return _numpy(window[:, r0:r1, k0:k1])
