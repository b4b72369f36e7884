"""Head types of a run against brute force from eager attention: here every token is sampled, so nothing is left to
chance but the intervals.

Nulls are made the long way: a head's profile offset by offset, and a positional null by shuffling rows indeed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from attnengine.statistics.catalogue import TYPES
from tests.oracle.estimates import profile_bin
from tests.oracle.facts import NOWHERE
from tests.oracle.models import CASES
from tests.oracle.pairs import pairs_of
from tests.oracle.tables import deviation

AGREE = 1e-4
BY_OFFSET = {
    "previous_token": lambda d: d == 1, "next_token": lambda d: d == -1, "local": lambda d: (d != 0) & (abs(d) <= 5),
}  # fmt: skip
BY_TOKEN = {
    "duplicate_token": "same_token", "induction": "induction", "punctuation": "punctuation",
    "cross_sentence": "cross_sentence",
}  # fmt: skip


@cache
def pairs_once(queries, keys, cross):
    return pairs_of(queries.stream, keys.stream, cross)


@dataclass(frozen=True, eq=False)
class Key:
    """A stream that can be looked up: by identity."""

    stream: object

    def __hash__(self):
        return id(self.stream)

    def __eq__(self, other):
        return self.stream is other.stream


def rows_of(one, site, head):
    """(pattern row, seen keys, Z, offsets or None, placed keys, targets) of every counted row of a head."""
    layer = one.case.layers[site]
    for window, calls in zip(one.oracle.windows, one.oracle.calls, strict=True):
        queries = window.streams[layer.stack]
        keys = window.streams["encoder" if layer.kind == "cross" else layer.stack]
        pairs, found = pairs_once(Key(queries), Key(keys), layer.kind == "cross"), calls[site][head]
        z = np.array(keys.special) | (np.arange(len(keys.special)) == 0)
        has_place = np.array(keys.position) != NOWHERE
        for i in pairs.counted_rows:
            seen = found.visible[i]
            targets = {name: target[i] & seen for name, target in pairs.targets.items()}
            placed = has_place & (queries.position[i] != NOWHERE)
            yield found.pattern[i], seen, z, None if pairs.offset is None else pairs.offset[i], placed, targets


def brute_force_types(one, site, head):
    """type -> (score, null) of one head, from the definitions; positional's null is left to its own test."""
    sums = defaultdict(lambda: np.zeros(3))  # score, null, denominator
    profile, pairs_at, wanted = defaultdict(float), defaultdict(float), defaultdict(lambda: defaultdict(float))
    positional, squares, rows_placed = defaultdict(float), 0.0, 0
    for p, seen, z, offset, placed, targets in rows_of(one, site, head):
        outside = seen & ~z
        m, n = p[outside].sum(), outside.sum()
        for name in ("first", "special"):
            if targets[name].any():
                even = p[seen].sum() * targets[name].sum() / seen.sum()
                sums[f"{name}_token"] += p[targets[name]].sum(), even, 1
        if n > 1:
            hat = p[outside][p[outside] > 0] / m
            sums["broad"] += -(hat * np.log(hat)).sum() / np.log(n), 0.85, 1
        if offset is None:
            continue
        where = outside & placed
        for name, holds in BY_OFFSET.items():
            target = where & holds(offset)
            if target.any():
                sums[name] += p[target].sum(), m * target.sum() / n, m
        for j in np.flatnonzero(where):
            profile[profile_bin(offset[j])] += p[j]
            pairs_at[profile_bin(offset[j])] += 1
        near = where & (abs(offset) < 128)
        rows_placed += near.any()
        squares += (p[near] ** 2).sum()
        for j in np.flatnonzero(near):
            positional[offset[j]] += p[j]
        for name, mass in BY_TOKEN.items():
            if mass in targets and (targets[mass] & where).any():
                sums[name] += p[targets[mass] & where].sum(), 0, m
                for d in offset[targets[mass] & where]:
                    wanted[name][profile_bin(d)] += 1
    for name, counts in wanted.items():
        sums[name][1] = sum(count * profile[b] / pairs_at[b] for b, count in counts.items())
    out = {name: (s / n, null / n) for name, (s, null, n) in sums.items()}
    if rows_placed:
        out["positional"] = (sum(x**2 for x in positional.values()) / rows_placed / squares, np.nan)
    return out


@pytest.mark.parametrize("name", CASES)
def test_scores_and_nulls_equal_brute_force(name, measured):
    one = measured(name)
    table = one.run.head_types.set_index(["site", "head"])
    heads = [at for at in table.index if at[1] in (0, 3) and (name != "minilm" or at[0] in (0, 5))]
    expected = {at: brute_force_types(one, *at) for at in heads}
    for kind in TYPES:
        for part, column in enumerate(("score", "null")):
            if (kind, column) == ("positional", "null"):
                continue
            wanted = np.array([expected[at].get(kind, (np.nan, np.nan))[part] for at in heads])
            assert deviation(table.loc[heads, f"{kind}_{column}"].to_numpy(), wanted, "mass") <= AGREE, (kind, column)


def test_the_positional_null_is_the_mean_over_shuffled_rows(measured):
    one, rng = measured("gpt2"), np.random.default_rng(0)
    table = one.run.head_types.set_index(["site", "head"])
    for head in range(1):
        rows = list(rows_of(one, 1, head))
        scores = []
        for _ in range(60):
            profile, squares, n = defaultdict(float), 0.0, 0
            for p, seen, z, offset, _placed, _targets in rows:
                outside = np.flatnonzero(seen & ~z)
                near = np.abs(offset[outside]) < 128
                shuffled = rng.permutation(p[outside])
                squares += (shuffled[near] ** 2).sum()
                n += near.any()
                for d, x in zip(offset[outside][near], shuffled[near], strict=True):
                    profile[d] += x
            scores.append(sum(x**2 for x in profile.values()) / n / squares)
        error = np.std(scores) / 60**0.5
        assert abs(table.positional_null[1, head] - np.mean(scores)) < 4 * error
        assert 4 * error < 0.15 * np.mean(scores)  # so that the comparison says something
