"""The numbers of the head panel: PCA against numpy's SVD, profiles, neurons, and why a value is missing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnengine.embedding.init import principal_axes
from attnengine.errors import RunFormatError
from attnengine_explorer.cloud_data import MAX_POINTS, cloud, drawn_rows, token_columns
from attnengine_explorer.head_data import neurons, offset_axis, offset_ticks, profile, summary, value_text
from attnengine_explorer.points.wording import visible
from attnengine_explorer.run_data import RunData
from attnengine_explorer.state import ViewState


@pytest.fixture(scope="module")
def bert(runs):
    return RunData(runs["bert_like"])


@pytest.fixture(scope="module")
def ragged(runs):
    return RunData(runs["ragged"])


@given(st.integers(3, 40), st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_pca_equals_the_svd_up_to_the_sign_it_fixes(n, d, seed):
    points = np.random.default_rng(seed).normal(size=(n, d)) * np.arange(1, d + 1) + 7
    found, explained = principal_axes(points, 2)
    u, s, vt = np.linalg.svd(points - points.mean(0), full_matrices=False)
    signs = np.sign(vt[[0, 1], np.abs(vt[:2]).argmax(1)])
    np.testing.assert_allclose(found, u[:, :2] * s[:2] * signs, rtol=1e-6, atol=1e-6 * s[0])
    np.testing.assert_allclose(explained, s[:2] ** 2 / (s**2).sum(), rtol=1e-9, atol=1e-12)


def test_pca_of_equal_points_and_of_one_neuron_is_finite():
    assert np.array_equal(principal_axes(np.ones((4, 3)), 2)[0], np.zeros((4, 2)))
    found, explained = principal_axes(np.array([[0.0], [2.0]]), 2)
    assert found.tolist() == [[-1, 0], [1, 0]]
    assert explained.tolist() == [1, 0]


def test_the_cloud_uses_the_key_head_of_the_group_and_shares_one_centre(ragged):
    # decoder L0 has 8 heads over 2 key heads: head 5 reads key head 1.
    q = np.asarray(ragged.run.queries(2)[:, 5], dtype=float)
    k = np.asarray(ragged.run.keys(2)[:, 1], dtype=float)
    expected, _ = principal_axes(np.concatenate([q, k - k.mean(0) + q.mean(0)]), 2)
    found = cloud(ragged, 2, 5)
    np.testing.assert_allclose(np.concatenate([found.queries, found.keys]), expected, atol=1e-4)
    np.testing.assert_allclose(found.queries.mean(0), found.keys.mean(0), atol=1e-4)
    assert np.array_equal(found.entropy, ragged.run.row_entropy(2)[:, 5])
    assert found.n_sampled == len(found.tokens) == 600


def test_more_points_than_the_limit_are_drawn_evenly():
    rows = drawn_rows(24_000)
    assert len(rows) == MAX_POINTS // 2
    assert rows[0] == 0
    assert rows[-1] == 23_999
    assert len(set(rows)) == len(rows)


def test_a_run_without_vectors_explains_the_missing_cloud(tmp_path, runs):
    import shutil

    copy = shutil.copytree(runs["hostile"], tmp_path / "copy")
    shutil.rmtree(copy / "arrays")
    assert "keeps no sampled queries" in cloud(RunData(copy), 0, 0)


def test_tokens_show_spaces_and_line_breaks(bert):
    assert visible(" a\nb\t") == "␣a↵b⇥"
    assert visible(None) == "(text not kept)"
    assert len(visible("x" * 1000)) == 40
    columns = token_columns(bert)
    assert columns["text"][:4].tolist() == ["the", "␣cat", "␣sat", "↵"]
    assert columns["document"][3] == "3 · report-3.txt"


def test_the_profile_axis_puts_earlier_keys_left_and_doubles_by_octave():
    assert offset_axis(np.array([3, 0, -1])).tolist() == [-2, 0, 1]
    shown = offset_ticks(-5, 0)
    assert shown[0.0] == "0"
    assert shown[-float(np.log2(5))] == "4"
    assert all(-5.2 <= x <= 0.2 for x in shown)


def test_a_profile_divides_wide_bins_by_their_width_and_leaves_unseen_bins_out():
    rows = pd.DataFrame({
        "offset_lo": [-1, 0, 1, 128], "offset_hi": [0, 1, 2, 256], "mass": [0.0, 0.5, 0.25, 0.25],
        "n_rows": [0, 9, 9, 9], "mass_se": [np.nan, 0.1, np.nan, 0.05],
    })  # fmt: skip
    shown = profile(rows)
    assert shown["where"] == ["128 to 255 tokens before", "1 token before", "the token itself"]
    assert shown["y"] == [0.25 / 128, 0.25, 0.5]
    assert shown["upper"] == pytest.approx([0.3 / 128, 0.25, 0.6])
    assert shown["mass"] == ["0.250 ± 0.050", "0.2500", "0.50 ± 0.10"]


def test_neurons_sort_by_size_or_number_and_match_the_table(bert):
    rows = bert.head_rows("neurons", 3, 7)
    table = bert.run.neurons
    expected = table[(table.site == 3) & (table["head"] == 7)].qk_mean.to_numpy()
    statistic = bert.neuron_statistics["qk_mean"]
    by_number = neurons(rows, statistic, "neuron")
    assert np.array_equal(by_number["value"], expected)
    by_size = neurons(rows, statistic, "value")
    assert (np.diff(np.abs(by_size["value"])) <= 0).all()
    assert np.array_equal(expected[by_size["neuron"]], by_size["value"])


def test_a_missing_value_says_why(ragged):
    def say(site, head, name):
        return value_text(ragged, ragged.statistics[name], ragged.rows[ragged.index[site, head]])

    assert "offsets have no meaning in cross-attention" in say(3, 0, "previous_mass")
    assert "NaN or infinite" in say(1, 2, "entropy")
    assert "no learned sink" in say(0, 0, "learned_sink_mass")
    assert "not defined" not in say(0, 0, "entropy")


def test_columns_the_catalogue_does_not_know_are_shown_too(bert):
    assert bert.statistics["digit_mass"].title == "On digit"
    assert not {"digit_mass_se", "digit_mass_n", "first_mass_n", "entropy_se", "site"} & set(bert.statistics)
    titles = [row["title"] for group in summary(bert, 0, 0)["groups"] for row in group["rows"]]
    assert len(titles) == len(bert.statistics)


def test_a_state_made_on_another_run_is_fitted(bert):
    state = bert.fitted(ViewState(statistic="nothing", neuron_statistic="nothing", site=5, head=99, theme="dark"))
    assert state == ViewState(theme="dark")
    assert bert.fitted(ViewState(site=5, head=11)).selected == (5, 11)


@pytest.mark.parametrize("damage", ["sites", "heads", "strangers", "no_sites", "twice"])
def test_a_damaged_run_is_refused_in_one_line(tmp_path, runs, damage):
    import shutil

    from attnengine import store

    copy = shutil.copytree(runs["hostile"], tmp_path / "copy")
    sites, heads = pd.read_parquet(copy / "sites.parquet"), pd.read_parquet(copy / "heads.parquet")
    match damage:
        case "sites":
            store.write_table(copy, "sites", sites.drop(columns="n_heads"))
        case "heads":
            (copy / "heads.parquet").write_bytes(b"not parquet")
        case "strangers":
            store.write_table(copy, "heads", heads.assign(site=heads.site + 50))
        case "no_sites":
            store.write_table(copy, "sites", sites.iloc[:0])
        case "twice":
            store.write_table(copy, "heads", pd.concat([heads, heads]))
    with pytest.raises(RunFormatError) as caught:
        RunData(copy)
    assert "\n" not in str(caught.value).split("; ")[0]


def test_a_stored_embedding_is_drawn_with_its_faithfulness_and_a_head_without_says_why(tmp_path, runs):
    import shutil

    from attnengine.embedding.clusters import Cluster
    from attnengine.embedding.gauge import attentionviz
    from attnengine.embedding.head import Picture
    from attnengine.embedding.settings import EmbedSettings
    from attnengine.embedding.stored import head_path, open_folder, write_head

    copy = shutil.copytree(runs["core"], tmp_path / "copy")
    digest = open_folder(copy, EmbedSettings(), "", overwrite=False)
    run = RunData(copy)
    n = len(run.run.queries(0))
    points = np.random.default_rng(0).normal(size=(2 * n, 2)).astype(np.float32)
    figures = {"gauge": "attentionviz", "faithfulness_2d": -0.614, "faithfulness_2d_se": 0.02, "grey": True}
    gauge = attentionviz(np.eye(16), np.eye(16))
    labels = np.full(2 * n, -1, np.int16)
    picture = Picture(points, labels, gauge, figures, [Cluster(0, 1, 0.5, ((3, 2.5),))])
    write_head(head_path(copy, 0, 1), digest, picture)
    write_head(head_path(copy, 0, 2), digest, "every sampled key is the same vector")
    found = cloud(run, 0, 1)
    assert np.array_equal(np.concatenate([found.queries, found.keys]), points)
    assert "faithfulness −0.61 ± 0.02 on screen (too low" in found.facts
    assert "no layout: head 2 of site 0 has no cloud: every sampled key" in cloud(run, 0, 2).facts
    assert cloud(run, 1, 0).facts.startswith("→ PCA 1: ")
    assert "no layout" not in cloud(RunData(runs["core"]), 1, 0).facts
