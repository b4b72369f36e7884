"""The benchmark of clouds measures what it says: points are drawn evenly, and keep what they see."""

from __future__ import annotations

import numpy as np

import attnengine as ae
from attnengine.embedding.faithfulness import rank_correlations
from attnengine.embedding.order import read
from benchmarks.embed import make_case, some


def test_some_points_of_a_head_see_the_others_of_their_window_as_before(bert_run):
    data = read(ae.open_run(bert_run), 2, 3)
    n = len(data.queries)
    rows = np.arange(0, n, 2)
    half = some(data, rows)
    assert np.array_equal(half.queries, data.queries[rows])
    assert np.array_equal(half.seen.position, data.seen.position[rows])
    every = rank_correlations(data.queries, data.keys, data.queries, data.keys, data.seen)
    mine = rank_correlations(half.queries, half.keys, half.queries, half.keys, half.seen)
    assert np.isfinite(mine).sum() > 0.9 * np.isfinite(every).sum() / 2
    window = np.zeros(n, int)
    window[data.seen.order] = np.searchsorted(data.seen.starts, np.arange(n), side="right")
    for first, last in zip(half.seen.starts, [*half.seen.starts[1:], len(rows)], strict=False):
        assert len(set(window[rows][half.seen.order[first:last]])) <= 1
    assert len(half.seen.starts) == len(data.seen.starts)
    assert len(make_case(ae.open_run(bert_run), 2, 3, 0, 200).head.queries) == 100
