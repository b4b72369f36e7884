"""Gauges change distances and never attention; which one is chosen follows its rule."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from attnengine.embedding.gauge import GAUGES, SCALES, attentionviz, balanced, choose, matching_scale


@pytest.mark.parametrize("name", GAUGES)
def test_a_gauge_leaves_attention_as_it_was(minilm_head, name):
    queries, keys = (rows.astype(np.float64) for rows in minilm_head)
    gauge = GAUGES[name](*minilm_head)
    moved = (queries @ gauge.query_map.T) @ (keys @ gauge.key_map.T + gauge.key_shift).T
    np.testing.assert_allclose(softmax(moved, axis=1), softmax(queries @ keys.T, axis=1), atol=1e-9)


def test_attentionviz_moves_keys_onto_queries_and_keeps_directions_only(minilm_head):
    queries, keys = minilm_head
    gauge = attentionviz(queries, keys)
    moved = keys.astype(np.float64) - keys.mean(0, dtype=np.float64) + queries.mean(0, dtype=np.float64)
    np.testing.assert_allclose(gauge.keys(keys), moved / np.linalg.norm(moved, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(gauge.queries(queries), axis=1), 1, atol=1e-6)


def test_the_balanced_gauge_gives_both_sides_one_covariance(minilm_head):
    gauge = balanced(*minilm_head)
    q = np.cov(minilm_head[0] @ gauge.query_map.T, rowvar=False)
    k = np.cov(minilm_head[1] @ gauge.key_map.T, rowvar=False)
    np.testing.assert_allclose(q, k, rtol=1e-3, atol=1e-3 * np.abs(q).max())


def test_a_gauge_too_skewed_to_trust_is_dropped():
    rng = np.random.default_rng(0)
    loud, quiet = np.eye(256)[0], np.eye(256)[1]
    queries, keys = rng.normal(size=(2, 400, 1))
    assert balanced(queries * loud, keys * quiet) is None
    assert balanced(queries * loud, keys * loud) is not None


def test_the_correlated_scale_stays_within_its_bounds(minilm_head):
    c = GAUGES["correlated"](*minilm_head).query_map[0, 0]
    assert SCALES[0] <= c / matching_scale(*minilm_head) <= SCALES[-1]


def test_a_row_in_a_gauge_has_the_same_bits_alone_and_in_company(minilm_head):
    queries, keys = minilm_head
    gauge = balanced(queries, keys)
    assert np.array_equal(gauge.queries(queries)[7:9], gauge.queries(queries[7:9]))


def test_the_most_faithful_gauge_that_joins_both_sides_is_chosen_and_ties_go_to_the_earlier():
    joined = dict.fromkeys(GAUGES, 0.3)
    faithful = {"attentionviz": -0.50, "norm-matched": -0.70, "correlated": -0.705, "balanced": -0.6}
    faithful["attentionviz-uncentred"] = -0.99
    assert choose(faithful, joined) == ("norm-matched", True)
    assert choose(faithful, joined | {"norm-matched": 0.05}) == ("correlated", True)
    assert choose(faithful, dict.fromkeys(GAUGES, 0.09)) == ("attentionviz", False)
    assert choose(dict.fromkeys(GAUGES, np.nan), joined) == ("attentionviz", True)


def test_vectors_without_length_or_variation_make_finite_gauges():
    zeros, ones = np.zeros((20, 4), np.float32), np.ones((20, 4), np.float32)
    for queries, keys in ((zeros, ones), (ones, zeros), (zeros, zeros)):
        for make in GAUGES.values():
            gauge = make(queries, keys)
            assert gauge is None or np.isfinite([gauge.queries(queries), gauge.keys(keys)]).all()
