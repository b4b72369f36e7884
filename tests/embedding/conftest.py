"""Runs with sampled vectors: MiniLM on Python's documentation, and a tiny causal model with grouped keys."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, LlamaConfig, LlamaModel

import attnengine as ae
from attnengine.bundled import bundled_digits, bundled_documents, bundled_model
from attnengine.opened import Run


@pytest.fixture(scope="session")
def bert_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six documents through MiniLM, 640 sampled tokens. Tests that write take :func:`bert_copy`."""
    folder = tmp_path_factory.mktemp("runs") / "bert"
    texts = [text[:2500] for _, text in bundled_documents()[4:28:4]]
    model, tokenizer = AutoModel.from_pretrained(bundled_model()), AutoTokenizer.from_pretrained(bundled_model())
    ae.analyze(model.eval(), tokenizer, texts, output=folder, stats="core", sample=640)
    return folder


@pytest.fixture
def bert_copy(bert_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert_run, tmp_path / "run"))


@pytest.fixture(scope="session")
def bundled_runs(bert_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Runs of the bundled models: MiniLM, the causal one on the same documents, the ViT on forty digits."""
    folder = tmp_path_factory.mktemp("bundled")
    (folder / "images").mkdir()
    for name, picture in bundled_digits()[:40]:
        picture.save(folder / "images" / f"{name}.png")
    (folder / "texts.jsonl").write_text(
        "".join(json.dumps({"text": text[:2500]}) + "\n" for _, text in bundled_documents()[4:28:4])
    )
    for name, corpus in (("causal", "texts.jsonl"), ("digits", "images")):
        command = ["run", bundled_model(name), folder / corpus, "-o", folder / name, "--sample", 640, "--stats", "core"]
        subprocess.run([sys.executable, "-m", "attnengine.cli", *map(str, command), "-q"], check=True, timeout=300)
    return {"minilm": ae.open_run(bert_run)} | {name: ae.open_run(folder / name) for name in ("causal", "digits")}


@pytest.fixture(scope="session")
def causal_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A random two-layer Llama, 4 query heads on 2 key heads: causal, with rotary positions."""
    folder = tmp_path_factory.mktemp("runs") / "causal"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=30522, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=32, max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    texts = [text[:600] for _, text in bundled_documents()[4:20:4]]
    tokenizer = AutoTokenizer.from_pretrained(bundled_model())
    return ae.analyze(LlamaModel(config).eval(), tokenizer, texts, output=folder, stats="core", sample=256)


@pytest.fixture(scope="session")
def minilm_head(bert_run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Queries and keys (n, 32) of L2H3."""
    run = ae.open_run(bert_run)
    return np.asarray(run.queries(2)[:, 3]), np.asarray(run.keys(2)[:, 3])


@pytest.fixture(scope="session")
def cloud(minilm_head: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """L2H3 in AttentionViz's gauge: (2n, 32) fp32 rows of length 1."""
    from attnengine.embedding.gauge import attentionviz

    gauge = attentionviz(*minilm_head)
    return np.concatenate([gauge.queries(minilm_head[0]), gauge.keys(minilm_head[1])])
