"""Quality figures are the textbook's; clusters name what they hold."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

from attnengine.embedding import clusters
from attnengine.embedding.clusters import cluster_labels, describe, log_odds
from attnengine.embedding.quality import quality


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def is_key():
    return np.arange(600) >= 300


def nearest_of(x):
    return NearestNeighbors(n_neighbors=16).fit(x).kneighbors(x, return_distance=False)[:, 1:]


def test_trustworthiness_and_continuity_are_scikit_learns(points, is_key):
    screen = points[:, :2] + 0
    found = quality(points, screen, is_key)
    assert found["trustworthiness"] == pytest.approx(trustworthiness(points, screen, n_neighbors=15), abs=1e-12)
    assert found["continuity"] == pytest.approx(trustworthiness(screen, points, n_neighbors=15), abs=1e-12)


def test_preservation_and_cross_shares_equal_a_count_of_neighbours(points, is_key):
    screen = points[:, :2] + 0
    a, b = nearest_of(points), nearest_of(screen)
    found = quality(points, screen, is_key)
    assert found["knn_preservation"] == pytest.approx(
        np.mean([len(set(x) & set(y)) / 15 for x, y in zip(a, b, strict=True)])
    )
    assert found["cross_share_d"] == pytest.approx(np.mean(is_key[a] != is_key[:, None]))
    assert found["cross_share_2d"] == pytest.approx(np.mean(is_key[b] != is_key[:, None]))


def test_a_true_picture_is_perfect_and_noise_is_chance(points, is_key):
    perfect = quality(points[:, :2], points[:, :2], is_key)
    assert [perfect[name] for name in list(perfect)[:4]] == [1, 1, 1, 1]
    noise = quality(points, np.random.default_rng(1).normal(size=(600, 2)).astype(np.float32), is_key)
    assert noise["trustworthiness"] == pytest.approx(0.5, abs=0.03)
    assert noise["triplet_accuracy"] == pytest.approx(0.5, abs=0.02)


def test_two_maps_in_one_picture_have_no_cross_edges(points, is_key):
    apart = points + 100 * is_key[:, None].astype(np.float32)
    assert quality(apart, apart[:, :2] + 0, is_key)["cross_share_d"] == 0


def test_too_few_points_have_no_quality(points, is_key):
    assert np.isnan(list(quality(points[:30], points[:30, :2], is_key[:30]).values())).all()


def test_of_more_points_than_are_clustered_the_others_belong_where_the_nearest_does(monkeypatch):
    draw = np.random.default_rng(3)
    screen = np.concatenate([draw.normal((x, 0), 0.1, (n, 2)) for x, n in ((0, 900), (5, 600))]).astype(np.float32)
    screen = screen[draw.permutation(len(screen))]
    every = cluster_labels(screen)
    monkeypatch.setattr(clusters, "MOST_POINTS", 500)
    labels = cluster_labels(screen)
    drawn = np.linspace(0, 1499, 500).astype(int)
    nearest = drawn[((screen[:, None] - screen[drawn]) ** 2).sum(2).argmin(1)]
    assert np.array_equal(labels, labels[nearest])
    assert np.bincount(labels[labels >= 0]).tolist() == sorted(np.bincount(labels[labels >= 0]), reverse=True)
    left_and_right = screen[:, 0] > 2.5
    for side in (False, True):
        assert len(set(labels[(left_and_right == side) & (labels >= 0)])) == 1
    assert np.mean(labels == every) > 0.97


def test_clusters_are_found_counted_by_size_and_named_by_their_tokens():
    rng = np.random.default_rng(0)
    centres, sizes = np.array([[0, 0], [20, 0], [0, 20]]), [300, 100, 200]
    screen = np.concatenate([c + rng.normal(size=(n, 2)) for c, n in zip(centres, sizes, strict=True)])
    labels = cluster_labels(screen.astype(np.float32))
    assert (np.bincount(labels[labels >= 0]) > 60).all()
    assert [np.bincount(labels[part] + 1).argmax() - 1 for part in np.split(np.arange(600), [300, 400])] == [0, 2, 1]
    tokens = np.where(labels == 1, 7, rng.integers(100, 140, 600))
    found = describe(labels, np.arange(600) < 300, tokens)
    assert [cluster.label for cluster in found] == [0, 1, 2]
    assert found[1].tokens[0][0] == 7
    assert found[0].query_share == 0
    assert found[1].query_share == 1


def test_a_token_as_frequent_inside_as_out_is_not_named():
    odds = log_odds(np.array([10.0, 50, 0]), np.array([100.0, 60, 440]))
    assert odds[1] > 5
    assert abs(odds[0]) < 2
    assert odds[2] < -2
    assert describe(np.full(10, -1, np.int16), np.zeros(10, bool), np.arange(10)) == []
