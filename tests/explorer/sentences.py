"""Sentences without a model, and runs of a real one over a little text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from attnengine.bundled import bundled_model
from attnengine.corpus.sources import SourceOptions, read_corpus
from attnengine.front import run_documents
from attnengine.model.load import load_model
from attnengine.model.sentence import Attention, Sentence, Tokens
from attnengine.records import Site
from attnengine.run.progress import Reporter
from attnengine.run.settings import RunSettings

DOCUMENTS = {
    "cats": "The cat sat on the mat because it was tired. It purred, and the mat was warm. " * 12,
    "keys": "The clerk counted the keys, and the keys counted nothing. Nobody counted the lamps! " * 3,
    "short": "A query asks and a key answers.",
}


def tokens(texts: list[str], stack: str = "", segment: list[int] | None = None) -> Tokens:
    """Tokens of these texts; [CLS] and its like are special."""
    n = len(texts)
    return Tokens(
        stack, "".join(texts), np.arange(n), tuple(texts), np.arange(n), np.arange(n) + 1,
        np.array([text.startswith("[") for text in texts]), np.array(segment or [0] * n, dtype=np.int8),
    )  # fmt: skip


def sentence(
    texts: list[str], heads: int = 3, sites: int = 2, d: int = 8, segment: list[int] | None = None
) -> Sentence:
    """A sentence of a model that never was: random queries and keys, bidirectional attention."""
    rng, n = np.random.default_rng(0), len(texts)
    calls = []
    for number in range(sites):
        site = Site(number, f"layer.{number}", 0, "", "self", number, heads, heads, d, d, 1.0, None, None, False, False)
        vectors = rng.normal(size=(2, heads, n, d)).astype(np.float32)
        lo, hi = np.zeros(n, dtype=np.int32), np.full(n, n, dtype=np.int32)
        calls.append(Attention(site, vectors[0], vectors[1], lo, hi))
    return Sentence("".join(texts), None, {"": tokens(texts, segment=segment)}, tuple(calls))


def spoken(folder: Path) -> Path:
    """A run of the bundled MiniLM over :data:`DOCUMENTS`, with a corpus that can be read again."""
    folder.mkdir(parents=True)
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text, "name": name}) + "\n" for name, text in DOCUMENTS.items()))
    run = run_documents(
        load_model(str(bundled_model())), read_corpus(str(corpus), SourceOptions()), folder / "run",
        RunSettings(stats="core", sample=150, threads=1), device="cpu", source=str(corpus),
        reporter=Reporter(quiet=True),
    )  # fmt: skip
    assert run is not None
    return run.path
