"""Every statistic of STATISTICS.md, written down as it is defined: row by row, in fp64, over dense arrays.

Independent on purpose of ``attnengine_kernels.reference``: it never sees it, and takes the model's own eager pattern
where the reference takes captured queries and keys. Slow and plain; three short documents are all it is for.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from tests.oracle.eager import Head
from tests.oracle.facts import NOWHERE
from tests.oracle.pairs import Pairs

Array = np.ndarray
BINS = 32  # of a mean pattern, each way
SPAN = 512  # offsets to either side, more than any window here is long
SEEN_BY = 8  # rows that must see a key before its share of attention counts


class Observations:
    """What one head showed, by document: sums with their numbers, single pairs and rows, extremes, patterns."""

    def __init__(self, documents: int, width: int) -> None:
        self.sums: dict[str, Array] = defaultdict(lambda: np.zeros(documents))
        self.numbers: dict[str, Array] = defaultdict(lambda: np.zeros(documents))
        self.rows: dict[str, list[list[Array]]] = defaultdict(lambda: [[] for _ in range(documents)])
        self.counts = {"n_queries": 0, "n_pairs": 0, "n_empty_rows": 0}
        self.profile = np.zeros((documents, 2 * SPAN + 1))  # Σ p by exact offset, -SPAN … SPAN
        self.offsets: list[Array] = []  # of each row: (2 SPAN + 1,) bool, whether it sees a key at that offset
        self.pattern, self.pattern_rows = np.zeros((BINS, BINS)), np.zeros(BINS)
        self.width, self.document = width, 0

    def add(self, name: str, total: float, number: float = 1) -> None:
        """One more observation of a mean, or ``number`` of them together."""
        self.sums[name][self.document] += total
        self.numbers[name][self.document] += number

    def keep(self, name: str, array: Array) -> None:
        """(n, …) numbers kept one by one, for what is no mean."""
        self.rows[name][self.document].append(array)

    def sees(self, offsets: slice) -> int:
        """Rows that see a key at one of these offsets."""
        return int(np.array(self.offsets)[:, offsets].any(1).sum())


def observe(out: Observations, head: Head, pairs: Pairs, document: int) -> None:
    """Add one window of one head."""
    out.document = document
    rows = [i for i in pairs.counted_rows if head.visible[i].any()]
    out.counts["n_empty_rows"] += len(pairs.counted_rows) - len(rows)
    out.counts["n_queries"] += len(rows)
    for j in pairs.counted_keys:
        out.add("key_norm", np.linalg.norm(head.key[j]))
    for i in rows:
        seen = np.flatnonzero(head.visible[i])
        out.counts["n_pairs"] += len(seen)
        _pattern(out, head, i, seen)
        _masses(out, head, i, pairs)
        _scores(out, head, i, seen)
        _neurons(out, head, i, seen)
        _relative(out, head, i, seen, pairs)
        if pairs.offset is not None:
            _distances(out, head, i, pairs)
    _received(out, head, rows)


def _pattern(out: Observations, head: Head, i: int, seen: Array) -> None:
    p = head.pattern[i][seen]
    hat = p / p.sum()
    entropy = -(hat[hat > 0] * np.log(hat[hat > 0])).sum()
    out.add("entropy", entropy)
    if len(seen) > 1:
        out.add("entropy_normalized", entropy / np.log(len(seen)))
    out.add("p_max", hat.max())
    defect = abs(p.sum() + head.sink_mass(i) - 1)
    out.add("mass_defect_mean", defect)
    out.keep("mass_defect", np.array([defect]))
    if head.sink is not None:
        out.add("learned_sink_mass", head.sink_mass(i))
    moved = p * np.linalg.norm(head.value[seen], axis=1)
    if moved.sum() > 0:
        out.add("value_weighted_first_mass", moved[seen == 0].sum() / moved.sum())


def _masses(out: Observations, head: Head, i: int, pairs: Pairs) -> None:
    for name, target in pairs.targets.items():
        found = target[i] & head.visible[i]
        if found.any():
            out.add(f"{name}_mass", head.pattern[i][found].sum())


def _scores(out: Observations, head: Head, i: int, seen: Array) -> None:
    scores, q, k = head.score[i][seen], head.query[i], head.key[seen]
    out.keep("score", scores)
    out.add("score_mean", scores.sum(), len(seen))
    out.add("query_norm", np.linalg.norm(q))
    out.add("qk_cosine", (k @ q / (np.linalg.norm(q) * np.linalg.norm(k, axis=1))).sum(), len(seen))


def _neurons(out: Observations, head: Head, i: int, seen: Array) -> None:
    x = head.query[i] * head.key[seen]  # (keys, d)
    hat = head.pattern[i][seen] / head.pattern[i][seen].sum()
    out.keep("x", x)
    out.keep("attended", (hat @ x)[None])
    out.keep("attended_square", (hat @ x**2)[None])
    product = head.scale * x.sum(1)
    covariance = ((x - x.mean(0)) * (product - product.mean())[:, None]).mean(0)
    out.keep("share_top", head.scale * covariance[None])
    out.keep("share_bottom", product.var()[None])


def _distances(out: Observations, head: Head, i: int, pairs: Pairs) -> None:
    """Offsets, distances and profiles: between positions, so a picture's prefix tokens have none."""
    near = np.flatnonzero(head.visible[i] & pairs.placed[i])
    if len(near) == 0:
        return
    p, offset, distance = head.pattern[i][near], pairs.offset[i][near], pairs.distance[i][near]
    out.add("offset_mean", (p / p.sum()) @ offset)
    out.add("distance_mean", (p / p.sum()) @ distance)
    out.keep("distance", distance)
    out.keep("distance_x", head.query[i] * head.key[near])
    seen = np.zeros(2 * SPAN + 1, dtype=bool)
    seen[offset + SPAN] = True
    out.offsets.append(seen)
    out.profile[out.document, offset + SPAN] += p  # each offset occurs once in a row


def _relative(out: Observations, head: Head, i: int, seen: Array, pairs: Pairs) -> None:
    """The mean pattern on 32 × 32 relative positions."""
    row, bins = pairs.row_bin[i], pairs.key_bin[seen]
    if row == NOWHERE:
        return
    out.pattern_rows[row] += 1
    placed = bins != NOWHERE
    np.add.at(out.pattern[row], bins[placed], head.pattern[i][seen][placed])


def _received(out: Observations, head: Head, rows: list[int]) -> None:
    """Gini of what keys receive over what a uniform head would give them, in this window."""
    received = []
    for j in range(head.pattern.shape[1]):
        seers = [i for i in rows if head.visible[i, j]]
        if len(seers) >= SEEN_BY:
            uniform = (1 / head.visible[seers].sum(1)).sum()
            received.append(head.pattern[seers, j].sum() / uniform)
    if received:
        out.add("received_gini", len(received) * gini(np.array(received)), len(received))


def gini(values: Array) -> float:
    """Mean absolute difference of two values over twice the mean."""
    return float(np.abs(values[:, None] - values[None, :]).mean() / (2 * values.mean()))
