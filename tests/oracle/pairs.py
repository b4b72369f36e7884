"""What a query and a key are to each other, pair by pair and the same for every head: targets, offset, distance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.oracle.facts import NOWHERE, Stream

Array = np.ndarray
Holds = Callable[[int, int], bool]


@dataclass(frozen=True)
class Pairs:
    """Facts about (query, key) pairs of one window, and whose numbers count there."""

    targets: dict[str, Array]  # (q, k) bool: whether key j is a target of row i
    offset: Array | None  # (q, k) i − j in positions; None in cross-attention
    distance: Array | None  # (q, k) |i − j|, in pictures Euclidean in patches
    placed: Array | None  # (q, k) bool: both have a position
    row_bin: Array  # (q,) ⌊32 · position / length⌋; NOWHERE for what has no position
    key_bin: Array  # (k,)
    counted_rows: list[int]
    counted_keys: list[int]


def pairs_of(queries: Stream, keys: Stream, cross: bool) -> Pairs:
    """All pairs of one window, asked one by one."""
    rows, columns = range(len(queries.counted)), range(len(keys.counted))

    def ask(holds: Callable[[int, int], float], dtype: type) -> Array:
        return np.array([[holds(i, j) for j in columns] for i in rows], dtype=dtype)

    at, to = queries.position, keys.position
    offset = distance = placed = None
    if not cross:
        offset = ask(lambda i, j: at[i] - to[j], int)
        placed = ask(lambda i, j: NOWHERE not in (at[i], to[j]), bool)
        distance = np.abs(offset).astype(float)
    if queries.patch is not None and keys.patch is not None:
        here, there = queries.patch, keys.patch
        distance = ask(lambda i, j: np.hypot(here[i][0] - there[j][0], here[i][1] - there[j][1]), float)
    return Pairs(
        targets={name: ask(holds, bool) for name, holds in target_sets(queries, keys, cross).items()},
        offset=offset,
        distance=distance,
        placed=placed,
        row_bin=relative_bins(at),
        key_bin=relative_bins(to),
        counted_rows=[i for i in rows if queries.counted[i]],
        counted_keys=[j for j in columns if keys.counted[j]],
    )


def target_sets(queries: Stream, keys: Stream, cross: bool) -> dict[str, Holds]:
    """name -> (i, j) -> whether key j is a target of row i. In cross-attention i and j count different tokens."""
    sets: dict[str, Holds] = {"first": lambda i, j: j == 0, "special": lambda i, j: keys.special[j]}
    if keys.punctuation is not None:
        marks = keys.punctuation
        sets["punctuation"] = lambda i, j: marks[j]
    if queries.ids is not None and keys.ids is not None:
        q, k = queries.ids, keys.ids
        sets["same_token"] = lambda i, j: k[j] == q[i] and (cross or j != i)
        sets["induction"] = lambda i, j: j > 0 and k[j - 1] == q[i] and (cross or j not in (i, i + 1))
    if cross:
        return sets
    at = queries.position
    sets["self"] = lambda i, j: at[i] != NOWHERE and at[j] == at[i]
    sets["previous"] = lambda i, j: NOWHERE not in (at[i], at[j]) and at[j] == at[i] - 1
    sets["next"] = lambda i, j: NOWHERE not in (at[i], at[j]) and at[j] == at[i] + 1
    if keys.sentence is not None:
        which = keys.sentence
        sets["cross_sentence"] = lambda i, j: NOWHERE not in (which[i], which[j]) and which[i] != which[j]
    return sets


def relative_bins(positions: list[int], bins: int = 32) -> Array:
    """The bin of each position in a mean pattern."""
    length = max(positions) + 1
    return np.array([NOWHERE if position == NOWHERE else bins * position // length for position in positions])
