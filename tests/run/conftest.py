"""A tiny BERT on disk, with a real WordPiece tokenizer: small enough to run in every test."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from attnengine.bundled import bundled_model


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
    AutoTokenizer.from_pretrained(bundled_model()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A jsonl file of 40 documents of different lengths."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    words = ["the", "cat", "sat", "on", "the", "mat", ".", "a", "dog", "!", "did", "it", "?", "yes", ",", "it", "did"]
    lines = (" ".join(words[(i * 7 + j) % len(words)] for j in range(20 + 7 * i)) for i in range(40))
    path.write_text("".join(f'{{"text": "{line}"}}\n' for line in lines))
    return path
