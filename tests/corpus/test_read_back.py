"""A run's documents are read again from where they lay, and only if they still say the same."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from attnengine.bundled import bundled_documents
from attnengine.corpus.documents import Document
from attnengine.corpus.read_back import BUNDLED, read_back
from attnengine.corpus.sources import SourceOptions, read_corpus
from attnengine.errors import CorpusError
from attnengine.run.provenance import documents_frame

TEXTS = ["The first one. It says é and “so”.", "And a second,\nof two lines.", "A third; no more."]


def run_over(documents: Any, source: str) -> Any:
    """What a run of these documents would say about them."""
    known = list(documents)
    feed = SimpleNamespace(documents=known, document=np.arange(len(known)), n_tokens=np.ones(len(known)))
    manifest = {"corpus": {"source": source}}
    return SimpleNamespace(path=Path("r"), manifest=manifest, documents=documents_frame(feed))  # type: ignore[arg-type]


def write(folder: Path, kind: str) -> tuple[str, SourceOptions]:
    """A corpus of TEXTS, and how it was read."""
    rows = [{"id": str(i), "note": "x", "said": text, "reply": text[::-1]} for i, text in enumerate(TEXTS)]
    options = SourceOptions(text_column="said", pair_column="reply" if kind.startswith("pair") else None)
    if kind in ("text", "text.gz", "lines", "folder", "pattern"):
        name = "a.txt.gz" if kind == "text.gz" else "a.txt"
        data = "\n\n".join(TEXTS * 1200 if kind == "text" else TEXTS).encode()
        (folder / name).write_bytes(gzip.compress(data) if kind == "text.gz" else b"\xef\xbb\xbf" + data)
        (folder / "b.txt").write_text(TEXTS[2], encoding="utf-8")
        where = {"folder": folder, "pattern": folder / "*.txt"}.get(kind, folder / name)
        return str(where), SourceOptions(split="line" if kind == "lines" else "auto")
    if kind in ("jsonl", "pair jsonl"):
        path = folder / "a.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv":
        path = folder / "a.csv"
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        path = folder / "a.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return str(path), options


@pytest.mark.parametrize(
    "kind", ["text", "text.gz", "lines", "folder", "pattern", "jsonl", "pair jsonl", "csv", "parquet", "pair parquet"]
)
def test_every_document_of_a_corpus_is_read_back_as_it_was(kind: str, tmp_path: Path) -> None:
    source, options = write(tmp_path, kind)
    documents = read_corpus(source, options).read()
    run = run_over(documents, source)
    assert len(documents) > 1 or kind == "text.gz"
    for number, document in enumerate(documents):
        again = read_back(run, number)
        assert again.parts == document.parts
        assert again.source == document.source


def test_pictures_and_the_bundled_text_are_read_back(tmp_path: Path) -> None:
    for number in range(2):
        Image.fromarray(np.full((4, 5, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    documents = read_corpus(str(tmp_path), SourceOptions()).read()
    assert read_back(run_over(documents, str(tmp_path)), 1).picture().tobytes() == documents[1].picture().tobytes()
    texts = bundled_documents()[:2]
    run = run_over([Document(name, 0, len(text), text) for name, text in texts], BUNDLED)
    assert read_back(run, 1).text == texts[1][1]


def test_a_document_that_changed_moved_or_never_lay_in_a_file_says_what_to_do(tmp_path: Path) -> None:
    source, options = write(tmp_path, "folder")
    run = run_over(read_corpus(source, options).read(), source)
    (tmp_path / "b.txt").write_text("something else", encoding="utf-8")
    for change in (lambda: None, (tmp_path / "b.txt").unlink):
        change()
        with pytest.raises(
            CorpusError, match=r"b\.txt is not there any more, or says something else .*; type or paste"
        ):
            read_back(run, 1)
    with pytest.raises(CorpusError, match="the run has documents 0 to 1, got 2"):
        read_back(run, 2)
    with pytest.raises(CorpusError, match="item 0 is not there any more"):
        read_back(run_over([Document("item 0", 0, 3, "abc")], "1 documents in memory"), 0)


def test_a_strangers_run_reads_no_file_outside_its_corpus(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("known", encoding="utf-8")
    (tmp_path / "corpus").mkdir()
    run = run_over([Document("../secret.txt", 0, 5, "known")], str(tmp_path / "corpus"))
    with pytest.raises(CorpusError, match="is not there any more"):
        read_back(run, 0)
