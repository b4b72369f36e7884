"""The CPU path: every statistic of a call in one sweep over tiles of scores, never an L×L matrix.

The work is cut into pieces, a few heads of one window each, that threads take one after the other. A piece makes its
operands, scans what factors over pairs (:mod:`._scan`, :mod:`._totals`), then goes over tiles, a block of query rows
by the keys they see: torch multiplies (scores; pattern against [K | K²]), and in between one compiled pass
(:mod:`._tile`) turns scores into the pattern while the tile is in the cache. How a window is cut depends on its shape
alone, so its sums do not depend on what else is in the batch or on the number of threads. Recomputing p from lse: Dao
et al. 2022 (arXiv 2205.14135).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from attnengine_kernels._check import check_call
from attnengine_kernels._exact import exact_products
from attnengine_kernels._facts import Memory, Prepared, Window
from attnengine_kernels._finish import finish
from attnengine_kernels.call import AttentionCall, HeadSums, TokenFacts
from attnengine_kernels.cpu._row import SCORE_MAX, SCORE_MIN, SUMS
from attnengine_kernels.cpu._scan import HIGH, LOW, NEURON_SUMS, QK, SHARE, patch_pass, scan_pass, sum_pass
from attnengine_kernels.cpu._scan_hidden import scan_hidden_pass
from attnengine_kernels.cpu._shares import interval_squares, uniform_shares
from attnengine_kernels.cpu._streams import operands_pass
from attnengine_kernels.cpu._tile import attend_pass, grid_pass, tile_pass
from attnengine_kernels.cpu._totals import totals_pass
from attnengine_kernels.cpu._workers import in_parallel, room
from attnengine_kernels.sums import PATTERN_BINS, profile_edges

PIECE = 2**12  # heads times keys of a piece: its tile and operands stay in a core's L2 cache
TILE_ELEMENTS = 2**19  # of fp32 in a tile: 2 MB
LEAST_ROWS, MOST_ROWS = 16, 128

Array = np.ndarray[Any, Any]


class _Flat(NamedTuple):
    """The fp32 memory of a (b, h, l, d) tensor and its strides of (b, h, l)."""

    memory: Array
    strides: tuple[int, ...]


class _Raw(NamedTuple):
    """:data:`.._finish.Raw` as arrays for the compiled passes, the names of SUMS side by side."""

    tile: Array  # (b, h, len(SUMS))
    received: Array
    grid: Array
    profile: Array
    attended: Array
    neurons: Array
    cosine: Array
    query_totals: Array
    centre: Array
    query_norm: Array
    key_norm: Array

    def named(self) -> dict[str, Tensor]:
        """As :func:`.._finish.finish` takes it."""
        rest = {name: torch.from_numpy(array) for name, array in self._asdict().items() if name != "tile"}
        return rest | {name: torch.from_numpy(self.tile[..., n].copy()) for n, name in enumerate(SUMS)}


class _Job(NamedTuple):
    """What all pieces of a call read, and ``raw``, of which each piece writes its own heads."""

    call: AttentionCall
    facts: Prepared
    query: _Flat
    key: _Flat
    value: _Flat
    core: bool  # only what sums.CORE keeps
    lse: Array  # (b, h, q) fp32; (b, h, 0) if none was given
    sink: Array  # (h,) fp64, -inf for none
    raw: _Raw


class _Operands(NamedTuple):
    """One piece's tensors, clean of poison."""

    query: Array  # (h, q, d) fp32, 0 in rows that do not count
    key: Array  # (hkv, k, d) fp32, 0 where nobody looks
    query_norm: Array  # (h, q) fp64
    key_norm: Array  # (hkv, k) fp64
    both: Tensor  # (hkv, k, 2 d) fp32, [k - k̄ | (k - k̄)²]; (hkv, k, d) for core
    turned: Tensor  # (hkv, d, k) fp32, k - k̄
    centre: Array  # (hkv, d) fp64, k̄
    shift: Array  # (h, q) fp64, scale q · k̄
    value_norm: Array  # (hkv, k) fp32, 0 where nobody looks


def head_sums(
    call: AttentionCall,
    queries: TokenFacts,
    keys: TokenFacts,
    *,
    cross: bool = False,
    max_length: int | None = None,
    memory: Memory | None = None,
    stats: str = "all",
) -> HeadSums:
    """Every sum of :mod:`.sums` for one attention call on the CPU, in O(L) memory per head.

    As :func:`.reference.head_sums`; inputs fp32, fp16 or bf16 (computed in fp32). ``memory`` saves the work that
    depends on facts and mask only; ``stats`` "core" leaves out the work that those do not need. Raises ValueError for
    shapes that do not fit and for fp64, which the path "torch" takes.
    """
    check_call(call)
    if torch.float64 in (call.query.dtype, call.key.dtype):
        raise ValueError("query, key: expected fp32, fp16 or bf16 on this path, got fp64; path='torch' takes it")
    facts = (memory or Memory()).find(call, queries, keys, cross=cross, max_length=max_length)
    (b, h), (hkv, n_key) = call.query.shape[:2], call.key.shape[1:3]
    with exact_products():
        job = _Job(
            call=call,
            facts=facts,
            query=_flat(call.query),
            key=_flat(call.key),
            value=_flat(call.value),
            core=stats == "core" and not facts.hidden.size,  # where a bias hides pairs nothing is left out
            lse=np.zeros((b, h, 0), np.float32) if call.lse is None else _numpy(call.lse),
            sink=np.full(h, -np.inf) if call.sink is None else call.sink.detach().double().numpy(),
            raw=_empty(call, facts),
        )
        most = max(PIECE // (n_key * (h // hkv)), 1)  # key heads of a piece
        step = -(-hkv // -(-hkv // most))  # shared out evenly
        in_parallel(
            _piece, ((job, w, first, min(first + step, hkv)) for w in range(b) for first in range(0, hkv, step))
        )
        return finish(call, facts, job.raw.named(), stats)


def _empty(call: AttentionCall, facts: Prepared) -> _Raw:
    (b, h, _, d), n_key = call.query.shape, call.key.shape[2]
    shapes = {"tile": (len(SUMS),), "received": (n_key,), "grid": (PATTERN_BINS + 1, PATTERN_BINS)}
    shapes |= {"profile": (len(profile_edges(facts.max_length)),), "attended": (3, d), "neurons": (len(NEURON_SUMS), d)}
    shapes |= {"cosine": (), "query_totals": (2, d), "centre": (d,), "query_norm": (), "key_norm": ()}
    raw = _Raw(**{name: np.zeros((b, h, *shape)) for name, shape in shapes.items()})
    raw.tile[..., SCORE_MIN], raw.tile[..., SCORE_MAX] = np.inf, -np.inf
    raw.neurons[:, :, LOW], raw.neurons[:, :, HIGH] = np.inf, -np.inf
    return raw


def _numpy(tensor: Tensor) -> Array:
    """fp32 and contiguous: the passes are compiled for that alone."""
    return tensor.detach().float().contiguous().numpy()


def _flat(tensor: Tensor) -> _Flat:
    x = tensor.detach().float()
    x = x if x.stride(3) == 1 else x.contiguous()
    span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return _Flat(x.as_strided((span,), (1,)).numpy(), x.stride()[:3])


def _piece(job: _Job, w: int, first: int, last: int) -> None:
    """Key heads [first, last) of window ``w``, and the query heads that read them."""
    group = job.call.query.shape[1] // job.call.key.shape[1]
    heads, window = slice(first * group, last * group), job.facts.windows[w]
    operands = _operands(job, window, w, first, last, heads)
    if window.live:
        _scan(job, operands, w, first, heads)
        _sweep(job, operands, window, w, heads)


def _operands(job: _Job, window: Window, w: int, first: int, last: int, heads: slice) -> _Operands:
    (n_query, d), n_key = job.call.query.shape[2:], job.call.key.shape[2]
    raw, n, m = job.raw, last - first, heads.stop - heads.start
    query, key, both = (
        room("query", (m, n_query, d)),
        room("key", (n, n_key, d)),
        room("both", (n, n_key, d if job.core else 2 * d)),
    )
    turned, value_norm = room("turned", (n, d, n_key)), room("value norm", (n, n_key))
    query_norm, shift = room("query norm", (m, n_query), np.float64), room("shift", (m, n_query), np.float64)
    key_norm, centre = room("key norm", (n, n_key), np.float64), room("centre", (n, d), np.float64)
    operands_pass(
        *job.query, *job.key, *job.value, w, heads.start, first, 0 if job.core else job.call.value.shape[3],
        window.mask[2], window.key_rows, window.counted_keys, float(job.call.scale), query, key, both, turned,
        query_norm, key_norm, centre, shift, value_norm, room("norms", (n,), np.float64), raw.query_totals[w, heads],
        raw.query_norm[w, heads], raw.centre[w, heads], raw.key_norm[w, heads],
    )  # fmt: skip
    return _Operands(query, key, query_norm, key_norm, torch.from_numpy(both), torch.from_numpy(turned), centre, shift,
                     value_norm)  # fmt: skip


def _scan(job: _Job, o: _Operands, w: int, first: int, heads: slice) -> None:
    """What factors over pairs; ``first`` key head."""
    facts, sums, cosine = job.facts, job.raw.neurons[w, heads], job.raw.cosine[w, heads]
    lo, hi, position, placed, shift = facts.lo[w], facts.hi[w], facts.position[w], facts.placed[w], facts.key_shift[w]
    patches = (facts.patches[0][w], facts.patches[1][w])
    images = len(patches[1]) > 0
    if facts.hidden.size:
        scan_hidden_pass(o.query, o.key, o.centre, lo, hi, facts.seen[w], facts.hidden[w % len(facts.hidden)], position,
                         shift, placed, *patches, facts.cross, sums, cosine)  # fmt: skip
        return
    if job.core:
        if facts.uniform[w]:  # Σ_ij q k = Σ_i q · Σ_j k
            end = int(facts.interval[w, 1])
            sums[:, QK] = (
                job.raw.query_totals[w, heads, 0] * job.raw.centre[w, heads] * (end - int(facts.interval[w, 0]))
            )
        else:
            sum_pass(o.query, o.key, lo, hi, room("running", (o.key.shape[1] + 1, o.key.shape[2]), np.float64), sums)
        return
    about, query = o.both[..., : o.key.shape[2]], torch.from_numpy(o.query)
    d, start = o.key.shape[2], int(facts.interval[w, 0])
    total = room("total", (d,), np.float64)
    if facts.uniform[w]:
        width, key_width = len(o.query) * d, len(o.key) * d
        work = (room("query block", (9, width)), room("key block", (9, key_width)),
                room("query totals", (11, width), np.float64), room("key totals", (11, key_width), np.float64),
                room("left", (2, key_width), np.float64), room("distance", (width,), np.float64))  # fmt: skip
        totals_pass(*job.query, *job.key, w, heads.start, first, o.query_norm, o.key_norm, facts.interval[w],
                    facts.seen[w], facts.key_rows[w], position, shift, facts.query_placed[w], placed,
                    images or facts.cross, *work, sums, cosine)  # fmt: skip
        uniform_shares(query, about, int(facts.interval[w, 1]) - start, sums[:, SHARE])
    else:
        n_key = o.key.shape[1]
        moving = bool((lo[lo < hi] != start).any())
        prefix = room("prefix", (n_key + 1, 8, d), np.float64)
        table = room("table", (n_key.bit_length() if moving else 1, 2, n_key, d))
        scan_pass(o.query, o.key, o.centre, start, lo, hi, position, shift, placed, images, facts.cross, prefix, table,
                  total, sums, cosine)  # fmt: skip
        sums[:, SHARE] += interval_squares(query, about, lo, hi).numpy()
    if images and not facts.cross:
        patch_pass(o.query, o.key, lo, hi, position, placed, *patches, total, sums)


def _sweep(job: _Job, o: _Operands, window: Window, w: int, heads: slice) -> None:
    """All tiles of the piece, in order."""
    raw, call = job.raw, job.call
    (h, n_query, d), (hkv, n_key, _) = o.query.shape, o.key.shape
    query, n_offsets = torch.from_numpy(o.query), len(job.facts.offset_bin)
    block = min(max(TILE_ELEMENTS // (h * n_key), LEAST_ROWS), MOST_ROWS)
    lse = job.lse[w, heads] if call.lse is not None else np.zeros((h, n_query), np.float32)
    known = (float(call.scale), o.shift, lse, call.lse is not None, job.sink[heads], np.float32(call.softcap or 0.0))
    by_bin = room("by bin", (h, PATTERN_BINS + 1, n_key))
    if not job.core:
        by_bin[:] = 0.0
    sums = (raw.tile[w, heads], raw.received[w, heads], by_bin, raw.profile[w, heads])
    for r0 in range(0, n_query, block):
        r1 = min(r0 + block, n_query)
        span = window.span(r0, r1)
        if span is None:
            continue
        k0, k1 = span
        work = (room("column", (k1 - k0,)), room("offsets", (n_offsets,)), room("aside", (k1 - k0,)))
        tile, inverse = room("tile", (h, r1 - r0, k1 - k0)), room("inverse", (h, r1 - r0))
        grouped = torch.from_numpy(tile).view(hkv, -1, k1 - k0)  # the query heads of a key head, one after the other
        torch.bmm(query[:, r0:r1].reshape(hkv, -1, d), o.turned[:, :, k0:k1], out=grouped)
        bias = _bias(call, w, heads, slice(r0, r1), slice(k0, k1))
        tile_pass(tile, r0, k0, *known, bias, o.value_norm, *window.mask, *window.rest, job.core, *sums,
                  inverse, *work)  # fmt: skip
        attended = room("attended", (h, r1 - r0, o.both.shape[2]))
        torch.bmm(grouped, o.both[:, k0:k1], out=torch.from_numpy(attended).view(hkv, -1, o.both.shape[2]))
        attend_pass(attended, o.query, inverse, r0, raw.attended[w, heads])
    if not job.core:
        grid_pass(by_bin, job.facts.key_edges[w], raw.grid[w, heads])


def _bias(call: AttentionCall, w: int, heads: slice, rows: slice, keys: slice) -> Array:
    if call.bias is None:
        return np.zeros((1, 1, 0), np.float32)
    window = call.bias[w % call.bias.shape[0]]  # (1 or h, q, k)
    return _numpy(window[heads if len(window) > 1 else slice(None), rows, keys])
