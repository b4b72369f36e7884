"""A run from the command line to its tables: what is written, what it is called, and what must not change it."""

import io
import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTImageProcessor, ViTModel

import attnengine as ae
from attnengine.cli import main
from attnengine.errors import RunFormatError
from attnengine.statistics.catalogue import HEADS, NEURONS, TYPES
from tests.run.agreement import assert_same_numbers

KEYS = {"site", "layer", "kind", "stack", "head"}


@pytest.fixture
def attnengine(monkeypatch):
    """Run the command line in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["attnengine", *map(str, arguments)])
        with pytest.raises(SystemExit, match="0"):
            main()

    return run


@pytest.fixture(scope="module")
def made(tiny_bert, corpus, tmp_path_factory):
    """The same ordinary run with every statistic and with those of core."""
    folders = {stats: tmp_path_factory.mktemp(stats) / "r" for stats in ("all", "core")}
    for stats, folder in folders.items():
        with pytest.MonkeyPatch.context() as patch:
            arguments = ["run", tiny_bert, corpus, "-o", folder, "-q", "--sample", 500, "--window", 100]
            patch.setattr(sys, "argv", ["attnengine", *map(str, arguments), "--stats", stats])
            with pytest.raises(SystemExit, match="0"):
                main()
    return {stats: ae.open_run(folder) for stats, folder in folders.items()}


@pytest.fixture(scope="module")
def run(made):
    """The run with every statistic, which several tests look at."""
    return made["all"]


def test_the_tables_have_every_column_of_the_contract(run):
    heads = set(HEADS) | {f"{name}_se" for name, entry in HEADS.items() if entry.has_error}
    masses = {f"{name}_n" for name in HEADS if name.endswith("_mass") and name != "value_weighted_first_mass"}
    types = {f"{name}_{part}" for name in TYPES for part in ("score", "lo", "hi", "null", "q")}
    types |= {"outside_mass", "types", "type"}
    assert set(run.heads.columns) == KEYS | heads | masses | types
    assert set(run.head_types.columns) == KEYS | types
    neurons = set(NEURONS) | {f"{name}_se" for name, entry in NEURONS.items() if entry.has_error}
    assert set(run.neurons.columns) == KEYS | {"neuron"} | neurons
    assert set(run.profiles.columns) == KEYS | {"offset_lo", "offset_hi", "mass", "n_rows", "mass_se"}
    assert list(run.windows.columns) == ["window", "document", "start", "n_tokens"]
    assert list(run.documents.columns) == [
        "document", "source", "byte_start", "byte_end", "n_tokens", "text_hash", "label",
    ]  # fmt: skip
    assert len(run.heads) == 2 * 4
    assert len(run.neurons) == 2 * 4 * 8
    assert run.patterns.shape == (2, 4, 32, 32)


def test_values_and_errors_are_there_and_lie_in_their_range(run):
    for name, entry in HEADS.items():
        column = run.heads[name]
        if name == "learned_sink_mass":  # this model has none
            assert column.isna().all()
            continue
        assert column.notna().all(), name
        assert entry.low is None or (column >= entry.low - 1e-6).all(), name
        assert entry.high is None or (column <= entry.high + 1e-6).all(), name
        if entry.has_error:
            assert (run.heads[f"{name}_se"] >= 0).all(), name
    assert np.allclose(run.neurons.groupby(["site", "head"]).score_variance_share.sum(), 1, atol=1e-6)
    assert np.allclose(run.profiles.groupby(["site", "head"]).mass.sum(), 1, atol=1e-5)
    assert np.allclose(run.patterns.sum(-1), 1, atol=1e-4)


def test_a_core_run_has_the_columns_of_core_with_the_numbers_of_all(run, made):
    core = made["core"]
    plain = ["entropy", "entropy_normalized", "p_max", "offset_mean", "distance_mean", "mass_defect_mean"]
    masses = [name for name in HEADS if name.endswith("_mass") and name != "value_weighted_first_mass"]
    heads = {*plain, *masses, "mass_defect_max", "n_queries", "n_pairs", "n_empty_rows"}
    heads |= {f"{name}_se" for name in [*plain, *masses]} | {f"{name}_n" for name in masses}
    assert set(core.heads.columns) == KEYS | heads | set(core.head_types.columns)
    neurons = {"qk_mean", "qk_mean_se", "qk_attended_mean", "qk_attended_mean_se"}
    assert set(core.neurons.columns) == KEYS | {"neuron"} | neurons
    for name in ("heads", "neurons"):
        mine, theirs = getattr(core, name), getattr(run, name)
        pd.testing.assert_frame_equal(mine, theirs[mine.columns], rtol=1e-6, atol=1e-9)  # added in another order
    assert np.array_equal(core.queries(1), run.queries(1))


def test_a_core_run_says_what_it_lacks(made):
    core = made["core"]
    assert (core.stats, made["all"].stats) == ("core", "all")
    assert core.manifest["settings"]["stats"] == "core"
    assert core.verify() == []
    files = {entry["path"] for entry in made["all"].manifest["files"]}
    assert files - {entry["path"] for entry in core.manifest["files"]} == {
        "profiles.parquet", "patterns.npy", "key_tokens.parquet"
    }  # fmt: skip
    for name in ("profiles", "patterns"):
        with pytest.raises(RunFormatError, match=f"made with --stats core, which keeps no {name}"):
            getattr(core, name)


def test_the_sample_has_one_row_a_token_in_every_array(run):
    n = run.manifest["sample"]["tokens"]
    assert 500 <= n == len(run.tokens)
    for site in (0, 1):
        assert run.queries(site).shape == run.keys(site).shape == run.values(site).shape == (n, 4, 8)
        assert run.row_entropy(site).shape == (n, 4)
        assert run.top_keys(site).shape == run.top_weights(site).shape == (n, 4, 16)
        assert np.isfinite(run.queries(site)).all()
        assert (np.diff(run.top_weights(site), axis=-1) <= 0).all()
    with pytest.raises(ValueError, match="read-only"):
        run.queries(0)[0] = 0
    assert run.queries(layer=1) is not None
    with pytest.raises(ValueError, match="sites are 0"):
        run.queries(7)
    with pytest.raises(ValueError, match="either site= or layer="):
        run.queries()


def test_sampled_tokens_can_be_found_in_their_source(run, corpus):
    data = corpus.read_bytes()
    words = run.tokens[~run.tokens.is_special]
    for token in words.sample(50, random_state=0).itertuples():
        document = run.documents.iloc[token.document]
        text = json.loads(data[document.byte_start : document.byte_end])["text"]
        assert text[token.text_start : token.text_end] == token.text


def test_every_file_is_as_the_manifest_says(run):
    assert run.verify() == []
    assert {"python", "torch", "transformers", "numpy"} <= set(run.manifest["versions"])
    assert run.manifest["kernels"]
    assert run.manifest["output"] == "bit-identical to stock SDPA"
    assert run.manifest["model"]["class"] == "BertModel"


def test_batch_and_shard_sizes_change_nothing_that_is_printed(attnengine, run, tiny_bert, corpus, tmp_path):
    options = ["--window", 100, "--sample", 500, "--batch-tokens", 700, "--shard-tokens", 2000]
    attnengine("run", tiny_bert, corpus, "-o", tmp_path / "r", "-q", *options)
    other = ae.open_run(tmp_path / "r")
    assert_same_numbers(run, other, atol=1e-4)
    assert (run.tokens.position == other.tokens.position).all()


def test_a_run_in_fp64_takes_the_path_that_can(attnengine, tiny_bert, corpus, tmp_path):
    masses = {}
    for dtype in ("fp64", "fp32"):
        options = ["--dtype", dtype, "--max-tokens", 300, "--sample", 10]
        attnengine("run", tiny_bert, corpus, "-o", tmp_path / dtype, "-q", *options)
        found = ae.open_run(tmp_path / dtype)
        masses[dtype] = found.heads[["entropy", "p_max", "previous_mass", "score_std"]].to_numpy()
        assert found.manifest["kernels"]["rows"] == {"fp64": "torch", "fp32": "numba"}[dtype]
    assert np.allclose(masses["fp64"], masses["fp32"], rtol=1e-5, atol=1e-6)


def test_a_run_in_memory_equals_the_run_from_disk(run, tiny_bert, corpus):
    from transformers import AutoModel, AutoTokenizer

    texts = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    model = AutoModel.from_pretrained(tiny_bert, add_pooling_layer=False)
    other = ae.analyze(model, AutoTokenizer.from_pretrained(tiny_bert), texts, window=100, sample=500)
    pd.testing.assert_frame_equal(run.heads, other.heads)
    assert np.array_equal(run.queries(1), other.queries(1))


def test_standard_input_max_tokens_and_no_text(attnengine, tiny_bert, tmp_path, monkeypatch):
    class Stdin:
        buffer = io.BytesIO(("A sentence of some words. " * 200).encode())

    monkeypatch.setattr(sys, "stdin", Stdin())
    options = ["--window", 50, "--max-tokens", 200, "--no-text", "-q"]
    attnengine("run", tiny_bert, "-", "-o", tmp_path / "r", *options)
    run = ae.open_run(tmp_path / "r")
    assert run.manifest["corpus"]["tokens"] == run.windows.n_tokens.sum() == 200
    assert run.tokens.text.isna().all()
    assert (run.tokens.text_end >= 0).any()


def test_a_dry_run_says_what_would_be_and_writes_nothing(attnengine, tiny_bert, corpus, tmp_path, capsys):
    attnengine("run", tiny_bert, corpus, "-o", tmp_path / "r", "--dry-run", "--stats", "core")
    told = capsys.readouterr().err
    assert "40 documents" in told
    assert "core statistics" in told
    assert "MB and" in told
    assert "nothing was written" in told
    assert not (tmp_path / "r").exists()


def test_info_tells_what_a_run_is_and_prints_hostile_text_as_text(attnengine, run, capsys):
    attnengine("info", run.path)
    told = capsys.readouterr().out
    assert "BertModel" in told
    assert "40 documents" in told
    assert re.search(r"^statistics +all *$", told, re.M)
    attnengine("info", run.path, "--json")
    assert json.loads(capsys.readouterr().out)["run_hash"] == run.manifest["run_hash"]


def test_pictures_run_through_the_models_own_processor(attnengine, tmp_path):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, image_size=32, patch_size=8,
        initializer_range=0.3,
    )  # fmt: skip
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    (tmp_path / "images").mkdir()
    noise = np.random.default_rng(0)
    for index in range(5):
        Image.fromarray(noise.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{index}.png")
    attnengine("run", tmp_path / "vit", tmp_path / "images", "-o", tmp_path / "r", "-q")
    run = ae.open_run(tmp_path / "r")
    assert run.manifest["corpus"]["tokens"] == 5 * 17
    assert run.heads.distance_mean.between(0.5, 3.5).all()  # a 4 × 4 grid
    for name in ("same_token_mass", "induction_mass", "punctuation_mass", "cross_sentence_mass"):
        assert run.heads[name].isna().all()
    assert (run.tokens.text[:3] == ["[prefix 0]", "r0c0", "r0c1"]).all()
