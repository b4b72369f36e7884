"""Heads whose truth is known, through the whole of ``ae.analyze``: each is called what it is, and noise is called
nothing.
"""

from __future__ import annotations

import numpy as np
import pytest
import transformers as tf

import attnengine as ae
from attnengine.errors import RunFormatError
from attnengine.opened import open_run
from attnengine.run.types import remake_head_types
from attnengine.statistics.catalogue import HEADS, TYPES
from attnengine.statistics.head_types import TypeSettings
from attnengine.store import read_manifest
from tests.oracle.models import random_model
from tests.planted.models import TRUTH, V, independent_text, planted_model, planted_tokenizer, shuffled_model

DOCUMENTS = 200


def run_of(model, documents=DOCUMENTS, seed=0, **settings):
    return ae.analyze(model, planted_tokenizer(), independent_text(documents, seed), **settings)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return run_of(planted_model(), output=tmp_path_factory.mktemp("planted"))


def test_every_planted_head_is_called_what_it_is(planted):
    heads = planted.head_types.set_index(["layer", "head"])
    assert heads["type"].to_dict() == TRUTH
    for at, name in TRUTH.items():
        row = heads.loc[at]
        assert name in row.types.split(",")
        assert row[f"{name}_q"] < 0.05
        assert row[f"{name}_score"] - row[f"{name}_null"] >= 0.1
        assert row[f"{name}_score"] > 0.98
        assert row[f"{name}_lo"] - 1e-6 <= row[f"{name}_score"] <= row[f"{name}_hi"] + 1e-6


def test_no_planted_head_is_called_what_it_cannot_be(planted):
    """A previous-token head is local and positional, too; marks end sentences; nothing else overlaps."""
    also = {
        "previous_token": {"local", "positional"}, "local": {"positional"}, "punctuation": {"cross_sentence"},
        "duplicate_token": {"positional"},  # of equal tokens, it prefers certain distances
    }  # fmt: skip
    for row in planted.head_types.itertuples():
        assert set(row.types.split(",")) <= {row.type} | also.get(row.type, set())
    assert planted.head_types.next_token_score.isna().all()  # a causal model has no next token to see
    assert planted.head_types.special_token_score.isna().all()  # nor this text any special token


def test_the_same_heads_with_shuffled_weights_receive_no_type():
    assert set(run_of(shuffled_model(0)).head_types["type"]) == {""}


def test_heads_and_head_types_are_one_table_to_a_reader(planted):
    heads = planted.heads
    assert len(heads) == len(planted.head_types) == len(TRUTH)
    assert heads["type"].tolist() == planted.head_types["type"].tolist()
    assert {"previous_mass", "previous_token_score"} <= set(heads.columns)


def test_every_mean_has_its_interval(planted):
    both = planted.heads.merge(planted.intervals, on=["site", "head"])
    for name, entry in HEADS.items():
        if entry.has_error and both[name].notna().all():
            assert (both[f"{name}_lo"] <= both[name] + 1e-12).all(), name
            assert (both[name] <= both[f"{name}_hi"] + 1e-12).all(), name
            assert (both[f"{name}_hi"] - both[f"{name}_lo"] >= 3.9 * both[f"{name}_se"]).all(), name


def test_the_table_is_derived_it_can_be_made_again_and_leaves_the_runs_hash_alone(planted):
    before = read_manifest(planted.path)
    derived = before["derived"]["head_types"]
    assert "head_types.parquet" not in {entry["path"] for entry in before["files"]}
    try:
        remake_head_types(planted.path, TypeSettings(least_effect=2.0))
        remade = open_run(planted.path)
        assert set(remade.head_types["type"]) == {""}
        assert remade.manifest["run_hash"] == before["run_hash"]
        assert remade.manifest["derived"]["head_types"]["settings_hash"] != derived["settings_hash"]
        assert remade.verify() == []
        (planted.path / "head_types.parquet").write_bytes(b"")
        assert open_run(planted.path).verify() == ["head_types.parquet differs from its checksum"]
    finally:
        remake_head_types(planted.path, TypeSettings())
    assert open_run(planted.path).manifest["derived"]["head_types"] == derived  # to the bit


def test_a_run_without_a_sample_says_that_it_has_no_types(capsys):
    run = run_of(planted_model(), documents=3, sample=0, quiet=False)
    assert "no head types" in " ".join(capsys.readouterr().err.split())
    assert "type" not in run.heads.columns
    with pytest.raises(RunFormatError, match="--sample 0"):
        _ = run.head_types
    with pytest.raises(RunFormatError, match="keeps no sums for head types"):
        remake_head_types(run.path, TypeSettings())


def test_one_document_gives_scores_but_no_verdict():
    types = run_of(planted_model(), documents=1).head_types
    assert types.previous_token_score.notna().all()
    assert types.previous_token_q.isna().all()
    assert types.previous_token_lo.isna().all()
    assert set(types["type"]) == {""}


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"false_discovery_rate": 0.0}, "between 0 and 1"), ({"level": 2.0}, "level"), ({"resamples": 0}, "at least 1")],
)
def test_settings_that_make_no_sense_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        TypeSettings(**settings)


def small(kind):
    """A maker of three layers of eight heads of noise by seed and gain."""
    common = {"vocab_size": V + 2, "max_position_embeddings": 128, "intermediate_size": 64}
    of = {
        "GPT2Model": lambda: tf.GPT2Config(
            vocab_size=V + 2, n_embd=64, n_layer=3, n_head=8, n_positions=128, bos_token_id=None, eos_token_id=None
        ),
        "BertModel": lambda: tf.BertConfig(hidden_size=64, num_hidden_layers=3, num_attention_heads=8, **common),
        "LlamaModel": lambda: tf.LlamaConfig(
            hidden_size=64, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=4, **common
        ),
    }[kind]
    return lambda seed, gain: random_model(kind, of, seed, gain)(None)


@pytest.mark.acceptance
def test_at_most_five_in_a_hundred_noise_heads_are_typed():
    """Shuffled planted heads, and random models whose scores spread by 1 or more within rows, several seeds each."""
    made = [shuffled_model(seed) for seed in range(8)]
    made += [small("GPT2Model")(seed, 2.0) for seed in range(4)]
    made += [small("LlamaModel")(seed, gain) for seed in range(4) for gain in (1.0, 2.0)]
    typed = np.concatenate([run_of(model, seed=seed).head_types["types"] != "" for seed, model in enumerate(made)])
    assert len(typed) == 8 * 8 + 12 * 24
    assert typed.mean() <= 0.05


@pytest.mark.acceptance
def test_flat_noise_is_called_broad_which_it_is_and_hardly_anything_else():
    """Weights so small that scores hardly differ: a head that spreads its attention evenly *is* broad, by any name."""
    made = [
        small(kind)(seed, gain) for kind in ("GPT2Model", "BertModel") for seed in (0, 1) for gain in (0.3, 1.0, 1.5)
    ]
    tables = [run_of(model, seed=seed).head_types for seed, model in enumerate(made)]
    assert sum((table["type"] == "broad").sum() for table in tables) > 100
    others = [name for name in TYPES if name != "broad"]
    wrong = [table.types.str.split(",").map(lambda found: bool(set(found) & set(others))).mean() for table in tables]
    assert np.mean(wrong) <= 0.05
    for table in tables:
        assert (table[table.types.str.contains("broad")].broad_score >= 0.95 - 1e-6).all()
