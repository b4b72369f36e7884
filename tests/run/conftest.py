"""A tiny BERT on disk, with a real WordPiece tokenizer: small enough to run in every test; and a run in shards."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from attnengine.bundled import bundled_model
from attnengine.cli import main
from attnengine.opened import open_run


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a 2-layer, 4-head BERT of random weights (seed 0) and 128 positions."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    AutoTokenizer.from_pretrained(bundled_model("minilm")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A jsonl file of 40 documents of different lengths."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    words = ["the", "cat", "sat", "on", "the", "mat", ".", "a", "dog", "!", "did", "it", "?", "yes", ",", "it", "did"]
    lines = (" ".join(words[(i * 7 + j) % len(words)] for j in range(20 + 7 * i)) for i in range(40))
    path.write_text("".join(f'{{"text": "{line}"}}\n' for line in lines))
    return path


@pytest.fixture(scope="session")
def seven(tiny_bert: Path, corpus: Path) -> list[object]:
    """The arguments of a run of seven shards, the output folder left out."""
    options = ["--shard-tokens", 1000, "--batch-tokens", 300, "--sample", 300, "--window", 40, "--threads", 1]
    return ["run", tiny_bert, corpus, *options, "-o"]


@pytest.fixture(scope="session")
def undisturbed(seven: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run, made in one go by one process."""
    folder = tmp_path_factory.mktemp("undisturbed") / "r"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["attnengine", *map(str, [*seven, folder, "-q"])])
        with pytest.raises(SystemExit, match="0"):
            main()
    return folder


def same_numbers(one: Path, other: Path) -> bool:
    """Whether two complete runs hold the same bytes in every table and array but ``shards``."""
    first, second = (open_run(path) for path in (one, other))
    assert first.manifest["status"] == second.manifest["status"] == "complete"
    assert first.verify() == second.verify() == []
    return bool(first.manifest["run_hash"] == second.manifest["run_hash"])
