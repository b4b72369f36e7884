"""The map of similar heads: its distances are the formulas that are shown, and its plane is classical scaling."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.manifold import ClassicalMDS

from attnengine_explorer.run_data import RunData
from attnengine_explorer.similarity import alike, head_map


@pytest.fixture(scope="module")
def run(runs):
    return RunData(runs["bert_like"])


def distance(run: RunData, by: str, a: tuple[int, int], b: tuple[int, int]) -> float:
    """The formula of the page, term by term."""
    if by == "patterns":
        P, Q = (run.run.patterns[site, head].astype(float) for site, head in (a, b))
        P, Q = P / P.sum(axis=1, keepdims=True), Q / Q.sum(axis=1, keepdims=True)
        return float(np.mean([0.5 * sum((np.sqrt(P[i]) - np.sqrt(Q[i])) ** 2) for i in range(len(P))]) ** 0.5)
    if by == "profiles":
        m, n = (run.head_rows("profiles", *head).set_index("offset_lo").mass for head in (a, b))
        return float((0.5 * ((np.sqrt(m / m.sum()) - np.sqrt(n / n.sum())) ** 2).sum()) ** 0.5)
    table = run.heads.set_index(["site", "head"])
    squares = []
    for name, entry in run.statistics.items():
        x = table[name]
        if entry.group != "checks" and x.notna().any() and x.std(ddof=0) > 0:
            squares.append(((x[a] - x[b]) / x.std(ddof=0)) ** 2)
    return float(np.mean(squares) ** 0.5)


@pytest.mark.parametrize("by", ["statistics", "patterns", "profiles"])
def test_distances_are_those_of_the_formula(run, by):
    found = head_map(run, by)
    heads = list(run.index)
    for i, j in ((0, 1), (5, 60), (33, 71)):
        expected = distance(run, by, heads[i], heads[j])
        assert np.linalg.norm(found.features[i] - found.features[j]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("by", ["statistics", "patterns", "profiles"])
def test_the_plane_is_classical_scaling_of_the_distances(run, by):
    found = head_map(run, by)
    expected = ClassicalMDS(n_components=2).fit_transform(found.features)
    for axis in (0, 1):
        assert abs(np.corrcoef(found.points[:, axis], expected[:, axis])[0, 1]) > 1 - 1e-6
        assert found.points[:, axis].std() == pytest.approx(expected[:, axis].std(), rel=1e-6)
    assert np.array_equal(found.points, head_map(run, by).points)


def test_the_heads_most_alike_are_the_nearest(run):
    found = head_map(run, "statistics")
    every = sorted(
        (float(np.linalg.norm(found.features[row] - found.features[9])), row)
        for row in range(len(found.features)) if row != 9
    )  # fmt: skip
    assert [row for row, _ in alike(found, 9)] == [row for _, row in every[:5]]


def test_heads_without_offsets_are_not_on_the_map_of_profiles(runs):
    ragged = RunData(runs["ragged"])
    missing = np.isnan(head_map(ragged, "profiles").points[:, 0])
    assert [ragged.sites[site].kind == "cross" for site, _ in ragged.index] == missing.tolist()


def test_a_core_run_has_no_map_of_what_it_does_not_keep(runs):
    core = RunData(runs["core"])
    assert head_map(core, "patterns") == "This run was made with --stats core: no patterns."
    assert head_map(core, "profiles") == "This run was made with --stats core: no profiles."
    assert not isinstance(head_map(core, "statistics"), str)
