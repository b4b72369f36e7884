"""Faithfulness equals what scipy computes from the run's own files, query by query."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

import attnengine as ae
from attnengine.embedding.faithfulness import clustered_mean, is_grey, rank_correlations, sight
from attnengine.embedding.gauge import GAUGES


def by_scipy(tokens, scores, distances, visible):
    """(n,) Spearman's correlation for each query by scipy; NaN with fewer than 8 visible keys."""
    window, position = tokens["window"].to_numpy(), tokens["position"].to_numpy()
    found = np.full(len(tokens), np.nan)
    for i in range(len(tokens)):
        keys = np.flatnonzero((window == window[i]) & visible(position[i] - position))
        if len(keys) >= 8:
            found[i] = spearmanr(scores[i, keys], distances[i, keys]).statistic
    return found


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(("layer", "head"), [(0, 1), (4, 5)])
def test_attentionviz_recipe_equals_an_independent_computation(bert_run, centred, layer, head):
    run = ae.open_run(bert_run)
    q, k = np.float64(run.queries(layer)[:, head]), np.float64(run.keys(layer)[:, head])
    shown = k - k.mean(0) + q.mean(0) if centred else k
    expected = by_scipy(run.tokens, q @ k.T, cdist(q, shown, "cosine"), lambda back: back < np.inf)
    gauge = GAUGES["attentionviz" if centred else "attentionviz-uncentred"](q, k)
    seen = sight(run.tokens, kind="self", window=None, top_keys=run.top_keys(layer))
    found = rank_correlations(q, k, gauge.queries(q), gauge.keys(k), seen)
    assert np.isfinite(expected).sum() > 500
    # Points are fp32: two keys at almost one distance may change ranks.
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert np.nanmean(found) == pytest.approx(np.nanmean(expected), abs=1e-5)


def test_a_causal_head_is_judged_by_earlier_keys_only_and_reads_its_group_of_keys(causal_run):
    run = causal_run
    q, k = np.float64(run.queries(1)[:, 3]), np.float64(run.keys(1)[:, 1])
    seen = sight(run.tokens, kind="self", window=None, top_keys=run.top_keys(1))
    assert seen.after == 0
    expected = by_scipy(run.tokens, q @ k.T, cdist(q, k), lambda back: back >= 0)
    np.testing.assert_allclose(rank_correlations(q, k, q, k, seen), expected, atol=1e-9)
    assert np.isnan(expected).any()  # a window's first queries see too few keys


@pytest.mark.filterwarnings("ignore:An input array is constant")  # NaN in scipy as in ours
@pytest.mark.parametrize(
    ("causal", "window", "visible"),
    [
        (True, 10, lambda back: (back >= 0) & (back < 10)),
        (False, 10, lambda back: abs(back) <= 10),
        (False, None, lambda back: back < np.inf),
    ],
)
def test_a_sliding_window_hides_keys_and_ties_share_a_rank(causal, window, visible):
    rng = np.random.default_rng(0)
    tokens = pd.DataFrame({"window": np.repeat([3, 1], 40), "position": np.tile(rng.permutation(60)[:40], 2)})
    tokens["document"] = tokens["window"]
    q, k = rng.integers(-1, 2, (2, 80, 3)).astype(float)  # few values, many ties
    top = tokens["position"].to_numpy()[:, None, None] + (0 if causal else 1)
    seen = sight(tokens, kind="self", window=window, top_keys=top)
    expected = by_scipy(tokens, q @ k.T, cdist(q, k, "sqeuclidean"), visible)
    np.testing.assert_allclose(rank_correlations(q, k, q, k, seen), expected, atol=1e-12)


def test_the_error_of_the_mean_is_clustered_by_document():
    rng = np.random.default_rng(1)
    document = np.repeat(np.arange(20), 50)
    values = rng.normal(size=20)[document] + 0.01 * rng.normal(size=1000)
    value, error, n = clustered_mean(np.append(values, np.nan), np.append(document, 99))
    assert n == 1000
    assert value == pytest.approx(values.mean())
    means = values.reshape(20, 50).mean(1)
    assert error == pytest.approx(means.std(ddof=1) / np.sqrt(20))
    assert np.isnan(clustered_mean(values[:50], document[:50])[1])
    assert clustered_mean(np.array([np.nan]), np.array([0]))[2] == 0


@pytest.mark.parametrize(
    ("mean", "error", "grey"),
    [(-0.5, 0.1, False), (-0.19, 0.01, True), (-0.5, 0.3, True), (np.nan, np.nan, True), (-0.5, np.nan, False)],
)
def test_a_picture_is_grey_if_it_shows_too_little_or_that_is_not_sure(mean, error, grey):
    assert is_grey(mean, error) is grey
