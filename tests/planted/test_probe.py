"""The probe against brute force from eager attention, on heads whose scores are known, and at the command line."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, LlamaConfig

from attnengine.bundled import bundled_model
from attnengine.cli import main
from attnengine.errors import PlanError, UnsupportedModelError
from attnengine.model.load import wrap_model
from attnengine.probe import SCORES, ProbeSettings, make_sequences, model_inputs, probe
from tests.oracle.models import random_model
from tests.planted.models import V, planted_model, planted_tokenizer

SETTINGS = ProbeSettings(length=20, sequences=6, seed=3)


def eager(loaded, sequences):
    """(sequences, layers, heads, q, k) from the model's own eager attention."""
    loaded.model.set_attn_implementation("eager")
    with torch.no_grad():
        out = loaded.model(**model_inputs(loaded, sequences.ids, "cpu"), output_attentions=True)
    return torch.stack(out.attentions, dim=1).double().numpy()


def llama():
    def config():
        return LlamaConfig(
            vocab_size=V + 2, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=32, max_position_embeddings=128,
        )  # fmt: skip

    return wrap_model(random_model("LlamaModel", config, 0)(None), planted_tokenizer())


def test_planted_heads_score_one_and_the_others_next_to_nothing():
    table = probe(wrap_model(planted_model(), planted_tokenizer()), ProbeSettings(length=40)).set_index(
        ["layer", "head"]
    )
    best = {"induction": (1, 0), "previous_token": (0, 0), "duplicate_token": (0, 2)}
    for name, at in best.items():
        assert table[name].idxmax() == at
        assert table.loc[at, name] == pytest.approx(1, abs=0.02)  # the duplicate head keeps a trace of its own token
        assert table[name].drop(index=at).max() < 0.1


def test_a_causal_models_scores_equal_brute_force():
    loaded = llama()
    table, sequences = probe(loaded, SETTINGS), make_sequences(loaded, SETTINGS, causal=True)
    found = eager(loaded, sequences)
    assert sequences.ids.shape == (6, 40)
    assert torch.equal(sequences.ids[:, :20], sequences.ids[:, 20:])
    second = range(20, 40)
    keys = {"induction": lambda i: i - 19, "previous_token": lambda i: i - 1, "duplicate_token": lambda i: i - 20}
    for name, key in keys.items():
        each = np.mean([found[:, :, :, i, key(i)] for i in second], axis=0)  # (sequences, layers, heads)
        np.testing.assert_allclose(table[name], each.mean(0).ravel(), atol=1e-6)
        np.testing.assert_allclose(table[f"{name}_se"], each.std(0, ddof=1).ravel() / 6**0.5, atol=1e-6)
        assert table[name].std() > 1e-3  # heads differ by more than the tolerance


def test_a_bidirectional_models_scores_are_the_masked_ones():
    loaded = wrap_model(AutoModel.from_pretrained(bundled_model()), AutoTokenizer.from_pretrained(bundled_model()))
    table, sequences = probe(loaded, SETTINGS), make_sequences(loaded, SETTINGS, causal=False)
    ids, mask = sequences.ids, loaded.tokenizer.mask_token_id
    assert ids.shape == (6, 42)  # [CLS], two copies, [SEP]
    hidden = [i for i in range(42) if bool((ids[:, i] == mask).all())]
    assert len(hidden) == 3
    assert min(hidden) > 20
    shown = [i for i in range(21, 41) if i not in hidden]
    assert torch.equal(ids[:, shown], ids[:, [i - 20 for i in shown]])
    found = eager(loaded, sequences)
    wanted = {
        "induction": [(i, i - 20) for i in hidden],
        "previous_token": [(i, i - 1) for i in range(21, 41)],
        "duplicate_token": [(i, i - 20) for i in shown],
    }
    for name, pairs in wanted.items():
        each = np.mean([found[:, :, :, i, j] for i, j in pairs], axis=0)
        np.testing.assert_allclose(table[name], each.mean(0).ravel(), atol=1e-6)


def test_the_seed_decides_the_tokens_and_batches_change_nothing():
    loaded = llama()
    one, other = (make_sequences(loaded, replace(SETTINGS, seed=seed), causal=True).ids for seed in (3, 4))
    assert not torch.equal(one, other)
    assert all(len(set(row[:20].tolist())) == 20 for row in one)  # no token twice in a copy
    tables = [probe(loaded, replace(SETTINGS, batch=batch)) for batch in (1, 6)]
    np.testing.assert_allclose(tables[0][list(SCORES)], tables[1][list(SCORES)], atol=1e-6)


def test_what_cannot_be_probed_is_refused_in_one_line():
    with pytest.raises(PlanError, match="the model has 128 positions; use a smaller --length"):
        probe(llama(), ProbeSettings(length=65))
    maskless = replace(llama(), tokenizer=planted_tokenizer())
    with pytest.raises(UnsupportedModelError, match="no mask token"):
        make_sequences(maskless, SETTINGS, causal=False)
    with pytest.raises(UnsupportedModelError, match="one stack"):
        probe(replace(llama(), is_encoder_decoder=True), SETTINGS)
    with pytest.raises(ValueError, match="length must be at least 2"):
        ProbeSettings(length=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("planted-model")
    planted_model().save_pretrained(path)
    planted_tokenizer().save_pretrained(path)
    return path


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["attnengine", "probe", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


def test_the_command_shows_the_best_heads_and_writes_all(folder, tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, folder, "--length", 40, "--top", 2, "-o", tmp_path / "heads.csv") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-2].split()[0] == "L1H0"
    assert len(pd.read_csv(tmp_path / "heads.csv")) == 8
    assert command(monkeypatch, folder, "--length", 40, "--json", "-o", tmp_path / "heads.parquet") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["settings"]["length"] == 40
    table = pd.read_parquet(tmp_path / "heads.parquet")
    assert [head["induction"] for head in told["heads"]] == pytest.approx(table.induction.tolist())


def test_a_file_of_another_kind_is_refused_before_the_model_is_read(monkeypatch, capsys):
    assert command(monkeypatch, "no-such-model", "-o", "heads.xlsx") == 2
    assert "must end in .parquet or .csv" in capsys.readouterr().err
