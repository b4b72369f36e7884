"""What depends on token facts and masks only, worked out once per forward pass and shared by all its layers.

Counts of rows, pairs and visible targets, the groups of equal tokens and sentences, the bins of positions: plain loops
over pairs, compiled, the same for every head. A layer then pays for its queries, keys and values alone.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from attnengine_kernels._check import check_facts, check_length, hidden_pairs
from attnengine_kernels.call import AttentionCall, HeadSums, TokenFacts
from attnengine_kernels.cpu._exp import f64
from attnengine_kernels.sums import PATTERN_BINS, RECEIVED_MIN_ROWS, profile_edges

SAME_TOKEN, INDUCTION, SENTENCE = 0, 1, 2
NOWHERE = -(2**30)  # the key shift of a window whose keys have no positions: no index is ever reached

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Groups:
    """Keys sorted by token, by previous token, by sentence: row i's are ``order[begin[i]:end[i]]``. O(L) memory."""

    order: Array  # (b, 3, k) int32 key indices
    begin: Array  # (b, 3, q) int32
    end: Array  # (b, 3, q) int32; begin == end where the stream has no such fact


@dataclass(frozen=True)
class Prepared:
    """Facts of one batch and one mask, ready for any number of layers; made by :func:`prepare`."""

    queries: TokenFacts
    keys: TokenFacts
    cross: bool
    max_length: int
    given: Tensor  # (2, b, q) int32: lo, hi as they came
    hidden: Array  # (1 or b, q, k) bool, or (0, 0, 0) where no bias hides a pair
    lo: Array  # (b, q) int32, clamped; lo == hi for rows that do not count
    hi: Array  # (b, q) int32
    interval: Array  # (b, 2) int32: least lo, greatest hi of the rows that count
    uniform: Array  # (b,) bool: all rows that count see that interval
    seen: Array  # (b, q) int32: visible keys of each row, 0 for rows that do not count
    key_rows: Array  # (b, k) int32: rows that see each key
    fair: Array  # (b, k) fp64: Σ_i 1[j visible to i] / n_i
    position: Array  # (b, q) int32, -1 without
    key_shift: Array  # (b,) int32: key index - key position
    placed: Array  # (b, 2) int32: the range of keys that have a position
    query_placed: Array  # (b, 2) int32: the range of queries that have one
    query_bin: Array  # (b, q) int32; PATTERN_BINS without position
    key_edges: Array  # (b, 33) int32: key index where each relative bin begins
    patches: tuple[Array, Array]  # (b, q, 2), (b, k, 2) fp32; (b, 0, 2) for text
    groups: Groups
    classes: Array  # (b, C, k) fp64 0/1: real keys of each class, then those that stand in a sentence
    real: Array  # (b, k) bool
    class_names: tuple[str, ...]
    first: Array  # (b,) int32: the first real key
    counted_keys: Array  # (b, k) bool
    offset_bin: Array  # (span,) int64: profile bin by (key position - query position + last query position)
    counts: HeadSums  # every output that does not depend on the head
    moved: dict[Any, Any] = field(default_factory=dict)  # what a path keeps of these facts on its device

    @cached_property
    def windows(self) -> list[Window]:
        """The facts window by window, as the compiled passes take them; cut once for all layers."""
        last = max(int(self.position.max(initial=0)), 0)
        return [
            Window(
                mask=(self.lo[w], self.hi[w], self.seen[w]),
                rest=(self.position[w], self.key_shift[w], self.placed[w], self.query_bin[w], self.groups.order[w],
                      self.groups.begin[w], self.groups.end[w], self.patches[0][w], self.patches[1][w],
                      self.offset_bin, last, self.first[w], self.cross),
                key_rows=self.key_rows[w],
                counted_keys=self.counted_keys[w],
                live=bool(self.seen[w].any()),
                uniform=bool(self.uniform[w]),
                interval=(int(self.interval[w, 0]), int(self.interval[w, 1])),
            )
            for w in range(len(self.lo))
        ]  # fmt: skip


class Window(NamedTuple):
    """Facts of one window; ``mask`` and ``rest`` are the arguments of the tile pass, in its order."""

    mask: tuple[Array, Array, Array]  # lo, hi, seen
    rest: tuple[Any, ...]
    key_rows: Array  # (k,)
    counted_keys: Array  # (k,)
    live: bool  # a row counts and sees a key
    uniform: bool  # all rows that count see the interval
    interval: tuple[int, int]

    def span(self, r0: int, r1: int) -> tuple[int, int] | None:
        """The keys that rows [r0, r1) see, first and one past the last; None if they see none."""
        if self.uniform:
            return self.interval
        lo, hi, seen = self.mask
        live = seen[r0:r1] > 0
        if not live.any():
            return None
        return int(lo[r0:r1][live].min()), int(hi[r0:r1][live].max())


class Memory:
    """The facts prepared last: give one to every ``head_sums`` of a run, and layers of a forward pass share them.

    They are found again by the same TokenFacts objects (which must not be changed in place) and an equal mask.
    """

    def __init__(self, size: int = 4) -> None:
        self._kept: deque[Prepared] = deque(maxlen=size)  # encoder, decoder, cross, one more mask

    def find(
        self, call: AttentionCall, queries: TokenFacts, keys: TokenFacts, *, cross: bool, max_length: int | None
    ) -> Prepared:
        """The prepared facts of a call, worked out now if they are not known. Raises what :func:`prepare` raises."""
        hidden, bounds = hidden_pairs(call.bias), call.on_host()
        longest = max_length or max(call.query.shape[2], call.key.shape[2])
        for known in self._kept:
            if (known.cross, known.max_length) == (cross, longest) and _same(known, bounds, queries, keys, hidden):
                return known
        made = prepare(queries, keys, bounds, cross=cross, max_length=longest, hidden=hidden)
        self._kept.append(made)
        return made


def _same(known: Prepared, bounds: Tensor, queries: TokenFacts, keys: TokenFacts, hidden: Tensor | None) -> bool:
    if known.queries is not queries or known.keys is not keys or (hidden is None) != (known.hidden.size == 0):
        return False
    if not torch.equal(known.given, bounds):
        return False
    return hidden is None or np.array_equal(known.hidden, _array(hidden))


def prepare(
    queries: TokenFacts,
    keys: TokenFacts,
    bounds: Tensor,
    *,
    cross: bool = False,
    max_length: int | None = None,
    hidden: Tensor | None = None,
) -> Prepared:
    """Facts and mask of a batch, worked out once for every layer that shares them.

    ``bounds`` (2, b, q) int32 are lo and hi of the AttentionCall, on the host; ``hidden`` (1 or b, q, k) bool marks
    pairs that a bias of -inf hides. O(b q k) cheap operations, O(b (q + k)) memory. Raises ValueError for shapes that
    do not fit.
    """
    (_, b, n_query), n_key = bounds.shape, keys.real.shape[1]
    check_facts(queries, "queries", b, n_query)
    check_facts(keys, "keys", b, n_key)
    longest = max_length or max(n_query, n_key)
    if not cross:
        check_length(queries, keys, longest)
    real, counted = _array(keys.real), _array(queries.counted)
    lo, hi = _array(bounds)
    low = np.clip(lo, 0, n_key).astype(np.int32)
    high = np.where(counted, np.clip(hi, low, n_key), low).astype(np.int32)
    veil = np.zeros((0, 0, 0), np.bool_) if hidden is None else _array(hidden)
    seen, key_rows, fair = _visibility(low, high, veil, n_key)
    position, key_position = _array(queries.position).astype(np.int32), _array(keys.position).astype(np.int32)
    placed = _placed(key_position)
    first_position = np.take_along_axis(key_position, placed[:, :1], 1)[:, 0]
    key_shift = np.where(first_position < 0, NOWHERE, placed[:, 0] - first_position)
    names = tuple(keys.classes)
    told = real if keys.sentence is None else real & (_array(keys.sentence) >= 0)
    classes = np.stack([_array(keys.classes[name]) & real for name in names] + [told], axis=1)  # (b, C + 1, k)
    groups = _groups(queries, keys, real, cross)
    query_bin = np.where(seen > 0, _bins(position), PATTERN_BINS).astype(np.int32)
    patches = _patches(queries, keys)
    live = seen > 0
    least, greatest = np.where(live, low, n_key).min(1), np.where(live, high, 0).max(1)
    interval = np.stack([np.minimum(least, greatest), greatest], axis=1).astype(np.int32)
    uniform = (~live | ((low == interval[:, :1]) & (high == interval[:, 1:]))).all(1)
    edges = np.array(profile_edges(longest), dtype=np.int64)  # (n_bins, 2)
    last = max(int(position.max(initial=0)), 0)
    step = np.arange(last + max(int(key_position.max(initial=0)), 0) + 1) - last  # key position - query position
    offset_bin = np.searchsorted(edges[:, 0], -step, side="right") - 1
    prepared = Prepared(
        queries=queries, keys=keys, cross=cross, max_length=longest, given=bounds.clone(), hidden=veil,
        lo=low, hi=high, interval=interval, uniform=uniform, seen=seen, key_rows=key_rows, fair=fair,
        position=position, key_shift=key_shift.astype(np.int32), placed=placed,
        query_placed=_placed(position), query_bin=query_bin,
        key_edges=_key_edges(key_position, placed), patches=patches, groups=groups,
        classes=classes.astype(np.float64), real=real, class_names=names, first=real.argmax(1).astype(np.int32),
        counted_keys=_array(keys.counted), offset_bin=offset_bin, counts={},
    )  # fmt: skip
    prepared.counts.update(_count(prepared, counted, classes, len(edges)))
    return prepared


def _array(tensor: Tensor) -> Array:
    """Contiguous, so that the compiled passes are compiled once."""
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


def _placed(position: Array) -> Array:
    """First and one past the last index with a position (b, 2); positions are known to rise by one."""
    some = position >= 0
    first = np.where(some.any(1), some.argmax(1), 0)
    return np.stack([first, first + some.sum(1)], axis=1).astype(np.int32)


def _bins(position: Array) -> Array:
    n = np.maximum(position.max(1, initial=-1, keepdims=True) + 1, 1).astype(np.int64)
    return np.where(position >= 0, PATTERN_BINS * position.astype(np.int64) // n, PATTERN_BINS)


def _key_edges(position: Array, placed: Array) -> Array:
    bins = _bins(position)
    edges = [(bins < one).sum(1) for one in range(PATTERN_BINS + 1)]  # keys with a position before the bin
    return (placed[:, :1] + np.stack(edges, axis=1)).astype(np.int32)


def _patches(queries: TokenFacts, keys: TokenFacts) -> tuple[Array, Array]:
    if queries.patch is None or keys.patch is None:
        empty = np.zeros((len(queries.real), 0, 2), np.float32)
        return empty, empty
    return _array(queries.patch).astype(np.float32), _array(keys.patch).astype(np.float32)


def _groups(queries: TokenFacts, keys: TokenFacts, real: Array, cross: bool) -> Groups:
    (b, n_query), n_key = queries.real.shape, keys.real.shape[1]
    shapes = ((b, 3, n_key), (b, 3, n_query), (b, 3, n_query))
    order, begin, end = (np.zeros(shape, np.int32) for shape in shapes)
    kinds: list[tuple[int, Array, Array, Array]] = []
    if queries.token_id is not None and keys.token_id is not None:
        mine, theirs = _array(queries.token_id), _array(keys.token_id)
        after = real.copy()
        after[:, :1] = False
        after[:, 1:] &= real[:, :-1]
        kinds += [(SAME_TOKEN, mine, theirs, real), (INDUCTION, mine, np.roll(theirs, 1, axis=1), after)]
    if queries.sentence is not None and keys.sentence is not None and not cross:
        sentence = _array(keys.sentence)
        kinds.append((SENTENCE, _array(queries.sentence), sentence, real & (sentence >= 0)))
    for kind, mine, theirs, allowed in kinds:
        for w in range(b):
            members = np.flatnonzero(allowed[w])
            members = members[np.argsort(theirs[w, members], kind="stable")]
            order[w, kind, : len(members)] = members
            begin[w, kind] = np.searchsorted(theirs[w, members], mine[w], side="left")
            end[w, kind] = np.searchsorted(theirs[w, members], mine[w], side="right")
            if kind == SENTENCE:  # to a row in no sentence no key is in another one: all of them count as its own
                begin[w, kind, mine[w] < 0], end[w, kind, mine[w] < 0] = 0, len(members)
    return Groups(order, begin, end)


def _count(p: Prepared, counted: Array, classes: Array, n_bins: int) -> HeadSums:
    """Every output that is the same for all heads; ``<name>_mass_n`` is (b,) here and spread over heads later."""
    b = len(p.lo)
    targets = np.zeros((b, len(p.class_names)))
    _count_classes(p.lo, p.hi, p.hidden, classes, targets)
    grouped = np.zeros((b, 3))
    _count_groups(p.lo, p.hi, p.hidden, p.position, p.key_shift, p.cross, p.groups.order, p.groups.begin,
                  p.groups.end, classes[:, -1], grouped)  # fmt: skip
    rows = p.seen > 0
    counts: dict[str, Array] = {f"{name}_mass_n": targets[:, c] for c, name in enumerate(p.class_names)}
    if p.queries.token_id is not None and p.keys.token_id is not None:
        counts |= {"same_token_mass_n": grouped[:, SAME_TOKEN], "induction_mass_n": grouped[:, INDUCTION]}
    if p.queries.sentence is not None and p.keys.sentence is not None and not p.cross:
        counts["cross_sentence_mass_n"] = grouped[:, SENTENCE]
    if not p.cross:
        distance, profile = np.zeros((b, 4)), np.zeros((b, n_bins))
        _count_offsets(p.lo, p.hi, p.hidden, p.position, p.key_shift, p.placed, *p.patches, p.offset_bin, distance,
                       profile)  # fmt: skip
        counts |= {"distance_pairs": distance[:, 0], "distance_sum": distance[:, 1], "profile_n": profile}
        counts["distance_m2"] = distance[:, 2] - distance[:, 1] ** 2 / np.maximum(distance[:, 0], 1)
        counts |= {"offset_mean_n": distance[:, 3], "distance_mean_n": distance[:, 3]}
        near = profile[:, n_bins // 2 - 1 : n_bins // 2 + 2]  # the bins of offsets -1, 0, 1
        counts |= {"next_mass_n": near[:, 0], "self_mass_n": near[:, 1], "previous_mass_n": near[:, 2]}
    for name, number in {
        "n_queries": rows.sum(1),
        "n_pairs": p.seen.sum(1),
        "n_empty_rows": (counted & ~rows).sum(1),
        "n_keys": p.counted_keys.sum(1),
        "received_fair": p.fair,
        "pattern_n": (p.query_bin[:, :, None] == np.arange(PATTERN_BINS)).sum(1),
        "entropy_normalized_n": (p.seen >= 2).sum(1),
        "received_gini_n": (p.real & (p.key_rows >= RECEIVED_MIN_ROWS)).sum(1),
    }.items():
        counts[name] = number
    return {name: torch.from_numpy(np.ascontiguousarray(value, dtype=np.float64)) for name, value in counts.items()}


@njit(cache=True, nogil=True, _nrt=False)
def own_key(position, key_shift, cross):
    """Index of the key that is the query itself, or -2: without a position, and in cross-attention, there is none."""
    if cross or position < 0 or position + key_shift < 0:
        return -2
    return position + key_shift


@njit(cache=True, nogil=True)
def _visible(hidden, w, i, j):
    return hidden.shape[0] == 0 or not hidden[w % hidden.shape[0], i, j]


@njit(cache=True, nogil=True)
def _visibility(lo, hi, hidden, n_key):
    """Visible keys per row, rows per key, and Σ_i 1/n_i per key."""
    b, n_query = lo.shape
    seen, rows, fair = np.zeros((b, n_query), np.int32), np.zeros((b, n_key), np.int32), np.zeros((b, n_key))
    for w in range(b):
        for i in range(n_query):
            for j in range(lo[w, i], hi[w, i]):
                if _visible(hidden, w, i, j):
                    seen[w, i] += 1
                    rows[w, j] += 1
            for j in range(lo[w, i], hi[w, i]):
                if _visible(hidden, w, i, j):
                    fair[w, j] += 1 / seen[w, i]
    return seen, rows, fair


@njit(cache=True, nogil=True)
def _count_classes(lo, hi, hidden, classes, targets):
    """Rows that see a key of the class; the search stops at the first one."""
    for w in range(lo.shape[0]):
        for c in range(targets.shape[1]):
            for i in range(lo.shape[1]):
                for j in range(lo[w, i], hi[w, i]):
                    if classes[w, c, j] and _visible(hidden, w, i, j):
                        targets[w, c] += 1
                        break


@njit(cache=True, nogil=True)
def _count_groups(lo, hi, hidden, position, key_shift, cross, order, begin, end, told, counts):
    """Rows that see a key of the same token, a key after the same token, a key of another sentence."""
    for w in range(lo.shape[0]):
        for i in range(lo.shape[1]):
            own = own_key(position[w, i], key_shift[w], cross)
            for kind in (SAME_TOKEN, INDUCTION):
                following = own + 1 if kind == INDUCTION and own >= 0 else -2
                for g in range(begin[w, kind, i], end[w, kind, i]):
                    j = order[w, kind, g]
                    if lo[w, i] <= j < hi[w, i] and j != own and j != following and _visible(hidden, w, i, j):
                        counts[w, kind] += 1
                        break
            same = 0
            for g in range(begin[w, SENTENCE, i], end[w, SENTENCE, i]):
                j = order[w, SENTENCE, g]
                same += lo[w, i] <= j < hi[w, i] and _visible(hidden, w, i, j)
            for j in range(lo[w, i], hi[w, i]):
                if told[w, j] and _visible(hidden, w, i, j):
                    same -= 1
                    if same < 0:  # more visible keys in sentences than those of the row's own
                        counts[w, SENTENCE] += 1
                        break


@njit(cache=True, nogil=True)
def _count_offsets(lo, hi, hidden, position, key_shift, placed, query_patch, key_patch, offset_bin, distance, profile):
    """Pairs that have a distance, its sums, rows that have such a pair, and rows per profile bin."""
    b, n_query = lo.shape
    last = 0
    for w in range(b):
        for i in range(n_query):
            last = max(last, position[w, i])
    for w in range(b):
        for i in range(n_query):
            if position[w, i] < 0:
                continue
            pairs, total, square, before = 0, 0.0, 0.0, -1
            for j in range(max(lo[w, i], placed[w, 0]), min(hi[w, i], placed[w, 1])):
                if not _visible(hidden, w, i, j):
                    continue
                step = j - key_shift[w] - position[w, i]
                far = f64(abs(step))
                if key_patch.shape[1]:
                    dr = query_patch[w, i, 0] - key_patch[w, j, 0]
                    dc = query_patch[w, i, 1] - key_patch[w, j, 1]
                    far = np.sqrt(f64(dr) * dr + f64(dc) * dc)
                pairs += 1
                total += far
                square += far * far
                one = offset_bin[step + last]
                if one != before:  # bins come in runs
                    profile[w, one] += 1
                    before = one
            distance[w, 0] += pairs
            distance[w, 1] += total
            distance[w, 2] += square
            distance[w, 3] += pairs > 0
