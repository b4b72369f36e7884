"""All heads of a run: the same bits however they are cut, one line for what cannot be embedded, no head made twice."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.spatial import procrustes

import attnengine as ae
from attnengine import store
from attnengine.disk import write_json
from attnengine.embedding.methods import aligned
from attnengine.embedding.pipeline import embed_run
from attnengine.embedding.settings import EmbedSettings, head_seed
from attnengine.embedding.stored import head_path
from attnengine.errors import EmbeddingError, RunFormatError

QUICK = EmbedSettings(epochs=20, clusters=False)


def bytes_of(run):
    paths = [*sorted((run / "embedding").rglob("*.*")), run / "clouds.parquet", run / "cluster_tokens.parquet"]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in paths}


def change(run, name, site, edit):
    """Rewrite an array of a run's sample."""
    path = run / store.array_path(site, name)
    array = np.load(path)
    edit(array)
    store.write_array(run, path.relative_to(run), array)
    store.write_manifest(run, store.read_manifest(run) | {"files": store.list_files(run)})


def test_a_subset_of_heads_then_the_rest_by_workers_gives_the_bits_of_one_go(bert_run, tmp_path):
    one, other = (shutil.copytree(bert_run, tmp_path / name) for name in ("one", "other"))
    embed_run(one, QUICK, layers=[0, 2], heads=[3, 7], jobs=1)
    embed_run(other, QUICK, layers=[2], heads=[7], jobs=1)
    clouds = embed_run(other, QUICK, layers=[0, 2], heads=[3, 7], jobs=2)
    assert clouds[["site", "head"]].to_numpy().tolist() == [[0, 3], [0, 7], [2, 3], [2, 7]]
    assert bytes_of(one) == bytes_of(other)


def test_heads_that_are_there_are_kept_and_a_damaged_one_is_made_again(bert_copy):
    embed_run(bert_copy, QUICK, layers=[0], heads=[0, 1, 2], jobs=1)
    before = bytes_of(bert_copy)
    kept, damaged, other = (head_path(bert_copy, 0, head) for head in range(3))
    stamp = kept.stat().st_mtime_ns
    damaged.write_bytes(damaged.read_bytes()[:-7])
    other.unlink()
    embed_run(bert_copy, QUICK, layers=[0], heads=[0, 1, 2], jobs=1)
    assert bytes_of(bert_copy) == before
    assert kept.stat().st_mtime_ns == stamp


def test_what_the_run_gives_back_is_the_cloud_and_its_honesty(bert_copy):
    embed_run(bert_copy, EmbedSettings(epochs=50), layers=[2], heads=[3], jobs=1)
    run = ae.open_run(bert_copy)
    found, n = run.embedding(2, 3), len(run.tokens)
    assert found.points.shape == (2 * n, 2)
    assert found.vectors.shape == (2 * n, 32)
    assert found.side.tolist() == [0] * n + [1] * n
    assert found.token.tolist() == [*range(n), *range(n)]
    assert np.array_equal(run.embedding(layer=2, head=3).points, found.points)
    row = run.clouds.iloc[0]
    assert row.n_points == 2 * n
    assert row.faithfulness_d < row.faithfulness_2d < -0.1
    assert 0.7 < row.trustworthiness <= 1
    assert row.faithfulness_2d == pytest.approx(found.figures["faithfulness_2d"])
    heads = run.heads.set_index(["site", "head"])
    assert heads.loc[(2, 3), "faithfulness_2d"] == row.faithfulness_2d
    assert np.isnan(heads.loc[(2, 4), "faithfulness_2d"])


def test_a_score_bias_that_no_vector_holds_is_told_of_each_head_that_has_one(bert_copy, capsys):
    from attnengine.run.progress import Reporter

    sites = ae.open_run(bert_copy).sites
    store.write_table(bert_copy, "sites", sites.assign(has_bias=sites.site == 2))
    store.write_manifest(bert_copy, store.read_manifest(bert_copy) | {"files": store.list_files(bert_copy)})
    clouds = embed_run(bert_copy, QUICK, layers=[0, 2], heads=[3], jobs=1, reporter=Reporter(quiet=False))
    assert clouds.leaves_out_bias.dtype == bool
    assert clouds.set_index("site").leaves_out_bias.to_dict() == {0: False, 2: True}
    told = capsys.readouterr()
    assert "1 heads add a score bias" in told.out + told.err
    assert ae.open_run(bert_copy).heads.set_index(["site", "head"]).leaves_out_bias[2, 3]


def test_equal_tokens_at_equal_places_share_a_point(bert_copy):
    def double(array):
        array[1::2] = array[::2][: len(array[1::2])]

    for name in ("queries", "keys"):
        change(bert_copy, name, 0, double)
    clouds = embed_run(bert_copy, QUICK, layers=[0], heads=[1], jobs=1)
    points = ae.open_run(bert_copy).embedding(0, 1).points
    n = len(points) // 2
    assert clouds.n_distinct[0] <= n + 2
    assert np.array_equal(points[: n - n % 2 : 2], points[1:n:2])


def test_heads_of_a_causal_model_with_grouped_keys_are_embedded(causal_run):
    clouds = embed_run(causal_run.path, QUICK, jobs=1)
    assert clouds.problem.isna().all()
    assert len(clouds) == 8
    assert (clouds.faithfulness_d < -0.3).all()


@pytest.mark.parametrize(
    ("method", "dims"), [("pca", 3), pytest.param("t-sne", 2, marks=pytest.mark.acceptance), ("umap", 3)]
)
def test_other_methods_and_three_dimensions(bert_copy, method, dims):
    clouds = embed_run(
        bert_copy, EmbedSettings(method, dims=dims, epochs=30, clusters=False), layers=[2], heads=[3], jobs=1
    )
    assert clouds.problem.isna().all()
    assert clouds.trustworthiness[0] > 0.7
    points = ae.open_run(bert_copy).embedding(2, 3).points
    assert points.shape[1] == dims
    assert np.isfinite(points).all()
    assert np.ptp(points, axis=0).min() > 0.1


@pytest.mark.acceptance  # umap-learn compiles for half a minute
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_umap_learn_is_an_option(bert_copy):
    clouds = embed_run(bert_copy, EmbedSettings("umap-learn", clusters=False), layers=[2], heads=[3], jobs=1)
    assert clouds.problem.isna().all()
    assert clouds.trustworthiness[0] > 0.8


def test_a_bad_head_says_why_and_the_others_go_on(bert_copy):
    def spoil(array):
        array[5, 0] = np.nan
        array[:, 1] = 1.0
        array[:, 2] = array[0, 2]
        array[::2, 2] = array[1, 3]

    change(bert_copy, "queries", 1, spoil)
    change(bert_copy, "keys", 1, lambda array: array.__setitem__((slice(None, None, 2), 2), 7.0))
    change(bert_copy, "keys", 1, lambda array: array.__setitem__((slice(1, None, 2), 2), 8.0))
    clouds = embed_run(bert_copy, QUICK, layers=[1], heads=[0, 1, 2, 3], jobs=1).set_index("head")
    run = ae.open_run(bert_copy)
    assert "1 of " in clouds.problem[0]
    assert "NaN or infinite" in clouds.problem[0]
    assert "every sampled query is the same vector" in clouds.problem[1]
    assert "4 distinct points are too few for 15 neighbours" in clouds.problem[2]
    assert clouds.problem.isna().tolist() == [False, False, False, True]
    assert clouds.grey.tolist()[:3] == [True] * 3
    assert clouds.n_points.tolist()[:3] == [0] * 3
    with pytest.raises(EmbeddingError, match="head 1 of site 1 has no cloud: every sampled query"):
        run.embedding(1, 1)
    with pytest.raises(EmbeddingError, match="has no cloud of head 5 of site 1"):
        run.embedding(1, 5)
    with pytest.raises(ValueError, match="expected one site"):
        run.embedding(17, 0)


def test_an_embedding_of_other_settings_is_replaced_only_when_asked(bert_copy):
    embed_run(bert_copy, QUICK, layers=[0], heads=[0], jobs=1)
    other = EmbedSettings(epochs=20, clusters=False, seed=1)
    with pytest.raises(EmbeddingError, match="made with seed 0; --overwrite replaces it"):
        embed_run(bert_copy, other, layers=[0], heads=[0], jobs=1)
    before = ae.open_run(bert_copy).embedding(0, 0).points
    embed_run(bert_copy, other, layers=[0], heads=[0], jobs=1, overwrite=True)
    assert not np.array_equal(before, ae.open_run(bert_copy).embedding(0, 0).points)


def test_a_warm_start_keeps_the_picture_in_place(bert_run, tmp_path):
    first, second, cold = (shutil.copytree(bert_run, tmp_path / name) for name in "abc")
    settings = EmbedSettings(clusters=False, epochs=100)
    for run in (second, cold):  # another checkpoint, almost the same
        change(run, "keys", 2, lambda array: np.multiply(array, 1 + 0.02 * np.sin(np.arange(32)), out=array))
    embed_run(first, settings, layers=[2], heads=[3], jobs=1)
    warm = embed_run(second, settings, layers=[2], heads=[3], jobs=1, like=first)
    fresh = embed_run(cold, EmbedSettings(clusters=False, epochs=100, seed=5), layers=[2], heads=[3], jobs=1)
    a, b, c = (ae.open_run(run).embedding(2, 3).points for run in (first, second, cold))
    assert procrustes(a, b)[2] < min(0.03, 0.75 * procrustes(a, c)[2])
    np.testing.assert_allclose(aligned(b, a), b, atol=1e-4)  # turned already
    assert warm.trustworthiness[0] > fresh.trustworthiness[0] - 0.02


def test_a_warm_start_from_other_tokens_is_refused(bert_run, bert_copy, causal_run):
    with pytest.raises(EmbeddingError, match="has no embedding yet"):
        embed_run(bert_copy, QUICK, like=bert_run)
    embed_run(causal_run.path, QUICK, jobs=1)
    with pytest.raises(EmbeddingError, match="differ in table sites"):
        embed_run(bert_copy, QUICK, like=causal_run.path)
    assert not (bert_copy / "embedding").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "isomap"], "method must be one of umap, umap-learn, t-sne, pca; got 'isomap'"),
        (["--gauge", "golden"], "gauge must be one of auto, attentionviz"),
        (["--dims", "4"], "dims must be one of 2, 3; got 4"),
        (["--neighbours", "2"], "neighbours must be 3 to 200, got 2"),
        (["--epochs", "1"], "epochs must be 10 to 10000"),
        (["--min-dist", "-1"], "min_dist must be at least 0"),
        (["--layers", "9"], "no layer 9; it has 0 to 5"),
        (["--heads", "x"], "--heads must be numbers separated by commas"),
        (["--like", "/nowhere"], "/nowhere is not a folder"),
    ],
)
def test_wrong_options_are_one_line_and_change_nothing(cli, bert_copy, options, words):
    code, said = cli("embed", bert_copy, *options)
    assert code == 2
    assert said.startswith("attnengine: ")
    assert words in said
    assert len(said.splitlines()) == 1
    assert not (bert_copy / "embedding" / "site-000").exists()


def test_the_command_embeds_and_says_what_came_out(cli, bert_copy):
    options = ["--layers", "0", "--heads", "0,1", "--epochs", "20", "--jobs", "1", "--no-clusters"]
    code, said = cli("embed", bert_copy, *options)
    assert code == 0
    assert "2 heads embedded · median faithfulness on screen -0." in said


def test_embedding_a_run_as_it_ends_needs_a_sample(cli, tmp_path):
    from attnengine.bundled import bundled_model

    (tmp_path / "text.txt").write_text(" ".join(f"the cat sat on mat {i} ." for i in range(12)))
    arguments = ["run", bundled_model(), tmp_path / "text.txt", "-o", tmp_path / "run", "--stats", "core", "--embed"]
    code, said = cli(*arguments, "--sample", "0")
    assert code == 2
    assert "--embed lays out sampled queries and keys: it needs a --sample above 0" in said
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_sample_is_refused(cli, bert_copy):
    shutil.rmtree(bert_copy / "arrays")
    code, said = cli("embed", bert_copy)
    assert code == 2
    assert "keeps no sampled queries and keys; make the run again with --sample above 0" in said
    with pytest.raises(EmbeddingError, match="has no embedding yet; make it with `attnengine embed"):
        ae.open_run(bert_copy).embedding(0, 0)


@pytest.mark.parametrize("damage", ["settings", "shape", "json", "link"])
def test_a_strangers_embedding_is_refused_in_one_line(bert_copy, damage, tmp_path):
    embed_run(bert_copy, QUICK, layers=[0], heads=[0], jobs=1)
    path, settings = head_path(bert_copy, 0, 0), bert_copy / "embedding" / "settings.json"
    if damage == "settings":
        write_json(settings, json.loads(settings.read_text()) | {"settings": {"method": "os.system"}})
    if damage == "shape":
        save_file(load_file(path) | {"points": np.zeros((3, 9), np.float32)}, path)
    if damage == "json":
        path.write_bytes(b"\x08" + bytes(7) + b"not json")
    if damage == "link":
        shutil.move(bert_copy / "embedding", tmp_path / "elsewhere")
        (bert_copy / "embedding").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(RunFormatError, match="is a link"):
            embed_run(bert_copy, QUICK, overwrite=True)
        return
    with pytest.raises(RunFormatError):
        ae.open_run(bert_copy).embedding(0, 0)


def test_seeds_differ_between_heads_sites_and_runs():
    seeds = {head_seed(s, site, head) for s in range(3) for site in range(20) for head in range(20)}
    assert len(seeds) == 1200
    assert all(0 <= seed < 2**32 for seed in seeds)
