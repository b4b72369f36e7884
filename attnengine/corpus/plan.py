"""The plan of a run: which windows form which batches and shards, which group each document falls in, what is sampled.

Everything here is fixed before the first forward and hashed, because batch shapes change floating-point bits: a run
that goes on after a kill must be cut exactly as before.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnengine.corpus.feed import Feed
from attnengine.errors import PlanError

GROUPS = 512
BATCH_PAIRS = 12 * 2**20  # query–key pairs a batch has at most: padding needs a dense vendor mask, 64 MB in fp32
SEGMENT = 64  # consecutive real tokens of one window: the unit of the sample


@dataclass(frozen=True)
class Plan:
    """Batches (window numbers), shards (batch numbers), the group of every window, and the sample."""

    batches: tuple[tuple[int, ...], ...]
    shards: tuple[tuple[int, ...], ...]
    group: np.ndarray  # (windows,) int32
    n_groups: int
    sample_window: np.ndarray  # (n,) int32, ascending with sample_position: row order of table ``tokens``
    sample_position: np.ndarray  # (n,) int32
    sample_plain: np.ndarray  # (n,) bool: of the sample that estimates are made from, not added for a class
    digest: str  # SHA-256 of everything above, the corpus and the settings that change numbers

    @property
    def n_samples(self) -> int:
        """Sampled tokens."""
        return len(self.sample_window)


def make_plan(
    feed: Feed,
    *,
    batch_tokens: int,
    shard_tokens: int,
    sample: int,
    seed: int,
    identity: dict[str, Any],
    sample_by: str | None = None,
) -> Plan:
    """Sort windows by length, pack them into batches of at most ``batch_tokens`` padded tokens, deal out shards.

    ``identity`` (model and settings) goes into the digest. A batch holds at least one window, however long.
    """
    batches = pack(feed.n_tokens, batch_tokens)
    shards = cut_shards(batches, feed.n_tokens, shard_tokens)
    group, n_groups = groups_of(feed)
    window, position, plain = sample_rows(feed, sample, seed, sample_by)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode())
    digest.update(json.dumps([batches, shards]).encode())
    for document in feed.documents:
        digest.update(document.digest)
    for array in (feed.document, feed.start, feed.n_tokens, group, window, position, plain):
        digest.update(np.ascontiguousarray(array).tobytes())
    return Plan(batches, shards, group, n_groups, window, position, plain, digest.hexdigest())


def pack(n_tokens: np.ndarray, batch_tokens: int) -> tuple[tuple[int, ...], ...]:
    """Windows, longest first (a batch too large for memory shows at once), into batches of similar length.

    A batch holds at most ``batch_tokens`` padded tokens and BATCH_PAIRS pairs, but at least one window.
    """
    order = np.lexsort((np.arange(len(n_tokens)), -n_tokens.astype(np.int64)))
    batches: list[tuple[int, ...]] = []
    current: list[int] = []
    for window in order.tolist():
        width = int(n_tokens[current[0]]) if current else int(n_tokens[window])
        n = len(current) + 1
        if current and (n * width > batch_tokens or n * width * width > BATCH_PAIRS):
            batches.append(tuple(current))
            current = []
        current.append(window)
    if current:
        batches.append(tuple(current))
    return tuple(batches)


def cut_shards(
    batches: tuple[tuple[int, ...], ...], n_tokens: np.ndarray, shard_tokens: int
) -> tuple[tuple[int, ...], ...]:
    """Shards of ``shard_tokens`` real tokens on average and equal Σ L²: the unit of work that is kept or lost.

    Each batch, longest windows first, goes to the shard with the least Σ L² so far (Graham 1969, LPT), so that every
    shard is a cross-section of the lengths: shards take the same time, and a part of them is no biased sample.
    """
    n_shards = min(max(round(int(n_tokens.sum()) / shard_tokens), 1), len(batches))
    least = [(0, shard) for shard in range(n_shards)]  # a heap of (Σ L² so far, shard)
    shards: list[list[int]] = [[] for _ in range(n_shards)]
    for index, batch in enumerate(batches):
        cost, shard = least[0]
        shards[shard].append(index)
        heapq.heapreplace(least, (cost + squares(n_tokens[list(batch)]), shard))
    return tuple(map(tuple, shards))


def squares(n_tokens: np.ndarray) -> int:
    """Σ L² of windows: what their attention costs."""
    return int((n_tokens.astype(np.int64) ** 2).sum())


def groups_of(feed: Feed) -> tuple[np.ndarray, int]:
    """The error group of each window: its document while there are at most 512, else a hash of the document."""
    n = len(feed.documents)
    if n <= GROUPS:
        return feed.document.astype(np.int32), n
    hashed = np.asarray([int(document_hash(document.digest) % GROUPS) for document in feed.documents], np.int32)
    return hashed[feed.document], GROUPS


def document_hash(digest: bytes) -> int:
    """First 64 bits of the document's SHA-256."""
    return int.from_bytes(digest[:8], "little")


def splitmix64(x: int) -> int:
    """One step of Steele, Lea & Flood's SplitMix64 (OOPSLA 2014): a well-mixed 64-bit hash of ``x``."""
    mask = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def splitmix64_each(x: np.ndarray) -> np.ndarray:
    """:func:`splitmix64` of every element of a uint64 array, which wraps around by itself."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: np.ndarray = x ^ (x >> np.uint64(31))
    return result


def sample_rows(feed: Feed, sample: int, seed: int, by: str | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(window, position, plain) of the sampled tokens: whole segments by ascending hash until ``sample`` are kept.

    A segment is 64 consecutive real tokens of a window (fewer at its end), ranked by
    splitmix64(seed, document hash, segment start), so that the choice is the same however the run is sharded.
    ``by`` adds the next segments in that order that hold a token of this class, until ``sample`` tokens more are
    kept; they are not ``plain``, and no estimate may count them: they were not drawn evenly.
    """
    if sample <= 0:
        return np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, bool)
    base = np.uint64(splitmix64(seed & ((1 << 64) - 1)))
    document = np.asarray([document_hash(document.digest) for document in feed.documents], np.uint64)
    pieces = -(-feed.n_tokens.astype(np.int64) // SEGMENT)  # segments of each window
    window = np.repeat(np.arange(len(pieces), dtype=np.int32), pieces)
    begin = SEGMENT * (np.arange(len(window)) - np.repeat(np.cumsum(pieces) - pieces, pieces))
    keyed = splitmix64_each(base ^ document[feed.document])
    rank = splitmix64_each(keyed[window] ^ (feed.start[window] + begin).astype(np.uint64))
    order = np.lexsort((begin, window, rank))
    end = np.minimum(begin + SEGMENT, feed.n_tokens[window])
    kept = np.cumsum((end - begin)[order])
    n_plain = 1 + int(np.searchsorted(kept, sample))
    plain = np.zeros(len(window), dtype=bool)
    plain[order[:n_plain]] = True
    rest = ((int(s), int(window[s]), int(begin[s]), int(end[s])) for s in order[n_plain:])
    added = [] if by is None else _holding(feed, by, rest, sample)
    chosen = np.sort(np.concatenate([order[:n_plain], np.asarray(added, dtype=order.dtype)]))
    length = (end - begin)[chosen]
    position = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    where = np.repeat(window[chosen], length), (position + np.repeat(begin[chosen], length)).astype(np.int32)
    return *where, np.repeat(plain[chosen], length)


def _holding(feed: Feed, name: str, segments: Iterable[tuple[int, int, int, int]], sample: int) -> list[int]:
    """The first of ``segments`` (number, window, begin, end) that hold a token of a class, ``sample`` tokens in all."""

    def classes(window: int) -> dict[str, Any]:
        return next(iter(feed.batch([window], "cpu").streams.values())).classes

    if name not in classes(0):
        raise PlanError(f"the corpus has no token class {name!r} to sample by; it has {', '.join(sorted(classes(0)))}")
    found, tokens = [], 0
    for segment, window, begin, end in segments:
        if tokens >= sample:
            break
        if bool(classes(window)[name][0, begin:end].any()):
            found.append(segment)
            tokens += end - begin
    return found
