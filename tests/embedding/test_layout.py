"""The compiled layout is the plain one to the bit; its graph is UMAP's; its parts do what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnengine.embedding.curve import fit_curve, power
from attnengine.embedding.fuzzy import Graph, fuzzy_graph
from attnengine.embedding.init import EXTENT, first_positions, principal_axes
from attnengine.embedding.layout import LOW_BITS, PARTS, Descent, lay_out_plainly, schedule
from attnengine.embedding.layout_compiled import lay_out
from attnengine.embedding.methods import aligned
from attnengine.embedding.neighbours import nearest

A, B = fit_curve()


@pytest.fixture(scope="module")
def graph(cloud):
    found, squares = nearest(cloud, 15)
    return fuzzy_graph(found, (squares / 2).astype(np.float32), 200)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_compiled_layout_is_the_plain_one_to_the_bit(cloud, graph, dims):
    start, descent = first_positions(cloud, dims, 1), Descent(7, A, B, 30)
    plain = lay_out_plainly(start, schedule(graph), descent)
    assert np.array_equal(plain, lay_out(start, schedule(graph), descent))
    assert np.ptp(plain, axis=0).min() > 1


def test_neither_threads_nor_a_second_time_change_a_bit_and_the_seed_does(cloud, graph):
    start, plan = first_positions(cloud, 2, 1), schedule(graph)
    once = lay_out(start, plan, Descent(7, A, B))
    for threads in (2, 5):
        assert np.array_equal(once, lay_out(start, plan, Descent(7, A, B), threads=threads))
    assert not np.array_equal(once, lay_out(start, plan, Descent(8, A, B)))


def test_edges_are_met_from_both_ends_in_one_part_and_as_often_as_they_weigh(graph):
    plan = schedule(graph)
    part = np.repeat(np.arange(PARTS), np.diff(np.append(plan.starts[:, 0], len(plan.head))))
    edges = {(h, t): (p, r) for h, t, p, r in zip(plan.head, plan.tail, part, plan.rate, strict=True)}
    assert len(edges) == len(graph.weights)
    assert all(edges[t, h] == found for (h, t), found in edges.items())
    shares = np.bincount(part) / len(part)
    assert (abs(shares * PARTS - 1) < 0.2).all()
    epochs = np.arange(1, 201, dtype=np.uint32)[:, None]
    due = (((epochs * plan.rate) & LOW_BITS) < plan.rate).sum(0)
    weight = {(h, t): w for h, t, w in zip(*_coo(graph), strict=True)}
    wanted = 200 * np.array([weight[pair] for pair in zip(plan.head, plan.tail, strict=True)]) / graph.weights.max()
    assert (abs(due - wanted) <= 1).all()


def _coo(graph: Graph):
    return np.repeat(np.arange(graph.n), np.diff(graph.indptr)), graph.indices, graph.weights


def test_strengths_sum_to_log2_k_and_their_union_is_symmetric(cloud, graph):
    from attnengine.embedding.fuzzy import memberships, scales

    found, squares = nearest(cloud, 15)
    strengths = memberships(squares / 2, *scales(squares / 2))
    excess = strengths[:, 1:].sum(1) - np.log2(15)
    assert excess.min() > -1e-4
    assert np.mean(excess < 1e-4) > 0.99  # a point with far and very near neighbours hits the least sigma
    dense = np.zeros((len(cloud), len(cloud)))
    np.put_along_axis(dense, found[:, 1:], strengths[:, 1:], axis=1)
    union = dense + dense.T - dense * dense.T
    union[union < union.max() / 200] = 0
    drawn = np.zeros_like(union)
    head, tail, weight = _coo(graph)
    drawn[head, tail] = weight
    np.testing.assert_allclose(drawn, union, atol=1e-5)  # the graph was made from fp32 distances


@pytest.mark.acceptance
def test_the_graph_is_umap_learns(cloud, graph):
    from umap.umap_ import fuzzy_simplicial_set

    found, squares = nearest(cloud, 15)
    theirs, _, _ = fuzzy_simplicial_set(
        cloud, 15, np.random.RandomState(0), "cosine", knn_indices=found, knn_dists=(squares / 2).astype(np.float32)
    )
    theirs = theirs.toarray()
    theirs[theirs < theirs.max() / 200] = 0
    ours = np.zeros_like(theirs)
    head, tail, weight = _coo(graph)
    ours[head, tail] = weight
    assert np.array_equal(ours > 0, theirs > 0)
    assert np.abs(ours - theirs).max() <= 1e-4


@given(st.floats(-30, 30), st.floats(0.3, 1.0))
def test_the_power_is_right_to_a_hundred_thousandth(exponent, b):
    x = np.float32([10.0**exponent])
    b = np.float32(b)
    assert power(x, b)[0] == pytest.approx(float(x[0]) ** float(b), rel=2e-5)


def test_the_curve_is_umaps():
    assert fit_curve(0.1) == pytest.approx((1.5769, 0.8951), abs=1e-4)
    with pytest.raises(ValueError, match=r"min_dist must be at least 0 and below 3·spread = 3, got 4"):
        fit_curve(4)


def test_the_start_fills_a_square_along_the_principal_axes(cloud):
    start = first_positions(cloud, 2, 5)
    assert np.abs(start.min(0)).max() <= 0.01
    assert np.abs(start.max(0) - EXTENT).max() <= 0.01
    axes, shares = principal_axes(cloud, 2)
    assert shares[0] >= shares[1] > 0
    assert np.corrcoef(start[:, 1], axes[:, 1])[0, 1] > 0.9999
    flat, _ = principal_axes(np.arange(6.0)[:, None], 3)
    assert np.array_equal(flat[:, 1:], np.zeros((6, 2)))


def test_a_turned_mirrored_and_moved_picture_is_put_back():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(50, 2)).astype(np.float32)
    turn = np.linalg.qr(rng.normal(size=(2, 2)))[0] @ np.diag([1, -1])
    np.testing.assert_allclose(aligned((target @ turn + 9).astype(np.float32), target), target, atol=1e-5)
