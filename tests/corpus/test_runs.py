"""What the sources promise holds in a finished run: pairs, classes, provenance and what was left out."""

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

import attnengine as ae
from attnengine.bundled import bundled_model
from attnengine.cli import main

PAIRS = [("In 1984 it rained.", "Did it? Yes, 2 days."), ("No numbers here.", "One: 7."), ("3 and 4", "are 12!")]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(bundled_model())


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False).eval()


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory):
    """The model on disk."""
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def eager(model, tokenizer, a, b):
    """(heads, l, l) attention of a pair by transformers itself, and its encoding."""
    encoded = tokenizer(a, b, return_tensors="pt", return_offsets_mapping=True)
    offsets, sequence = encoded.pop("offset_mapping")[0].tolist(), encoded.sequence_ids(0)
    plain = BertModel(model.config, add_pooling_layer=False)
    plain.load_state_dict(model.state_dict())
    plain.set_attn_implementation("eager")
    with torch.no_grad():
        pattern = plain.eval()(**encoded, output_attentions=True).attentions[0][0].double().numpy()
    words = ["" if s is None else (a, b)[s][i:j] for s, (i, j) in zip(sequence, offsets, strict=True)]
    return pattern, words, sequence


def test_masses_of_pairs_and_of_a_users_class_are_those_of_eager_attention(model, tokenizer):
    run = ae.analyze(model, tokenizer, PAIRS, token_class={"digit": "[0-9]+"}, sample=64)
    digit, cross = [], []
    for a, b in PAIRS:
        pattern, words, sequence = eager(model, tokenizer, a, b)
        is_digit = np.asarray([word.isdigit() for word in words])
        digit.append(pattern[:, :, is_digit].sum(-1))  # every row sees the digits
        for i, mine in enumerate(sequence):
            if mine is not None:
                other = np.asarray([theirs is not None and theirs != mine for theirs in sequence])
                cross.append(pattern[:, i, other].sum(-1))
    expected = np.concatenate(digit, axis=1).mean(1), np.mean(cross, axis=0)
    assert run.heads.digit_mass.to_numpy() == pytest.approx(expected[0], abs=1e-5)
    assert run.heads.cross_sentence_mass.to_numpy() == pytest.approx(expected[1], abs=1e-5)
    assert run.heads.digit_mass_se.notna().all()
    assert set(run.tokens.text[run.tokens.is_digit]) == {"1984", "2", "7", "3", "4", "12"}
    assert run.manifest["settings"]["token_class"] == {"digit": "[0-9]+"}


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["attnengine", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


def test_rows_from_parquet_and_jsonl_give_the_same_run_and_blanks_are_counted(folder, tmp_path, monkeypatch, capsys):
    rows = [{"q": a, "a": b, "y": str(n)} for n, (a, b) in enumerate(PAIRS)] + [{"q": " ", "a": None, "y": "z"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    options = ["--text-column", "q", "--pair-column", "a", "--label-column", "y", "--window", 15]
    options += ["--token-class", "digit=[0-9]+", "--stats", "core", "--sample", 16, "-q"]
    runs = []
    for name in ("a.jsonl", "a.parquet"):
        assert command(monkeypatch, "run", folder, tmp_path / name, "-o", tmp_path / f"{name}-run", *options) == 0
        runs.append(ae.open_run(tmp_path / f"{name}-run"))
    one, other = runs
    assert one.heads.equals(other.heads)
    assert one.tokens.equals(other.tokens)
    assert one.documents.label.tolist() == ["0", "1", "2"]
    assert other.documents.source.tolist() == [f"a.parquet row {n}" for n in range(3)]
    data = (tmp_path / "a.jsonl").read_bytes()
    for row in one.documents.itertuples():
        assert json.loads(data[row.byte_start : row.byte_end])["q"] == PAIRS[row.document][0]
    assert one.manifest["corpus"]["left_out"] == {
        "blank_documents": 1, "ignored_files": 0, "documents_without_tokens": 0, "shortened_pairs": 1,
        "tokens_cut_from_pairs": 1,
    }  # fmt: skip
    capsys.readouterr()
    assert command(monkeypatch, "info", tmp_path / "a.jsonl-run") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "left out 1 blank documents, 1 shortened pairs, 1 tokens cut from pairs" in said
