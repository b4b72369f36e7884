"""A run's document, read again from where the corpus lay; known to be the same by its hash.

A run keeps where its documents came from and what they hashed to, not what they say. The hash also decides what a
row's text column was, and it makes a stranger's run harmless: nothing is shown whose content its maker did not have.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnengine.bundled import bundled_documents
from attnengine.corpus import files
from attnengine.corpus.documents import LONGEST_DOCUMENT, Document
from attnengine.corpus.pictures import IMAGE_SUFFIXES
from attnengine.corpus.rows import json_object
from attnengine.corpus.sources import CSV_SUFFIXES, JSONL_SUFFIXES, TEXT_SUFFIXES, kind_of
from attnengine.errors import CorpusError, RunFormatError

if TYPE_CHECKING:
    from attnengine.opened import Run

BUNDLED = "pydoc_data.topics"
ROW = re.compile(r"(.*) row (\d{1,12})")
MAX_COLUMNS = 64  # of a row; pairs of them are tried
REMEDY = "type or paste its text instead"


def read_back(run: Run, document: int) -> Document:
    """Document number ``document`` of a run with its text, pair of texts, or image.

    Raises CorpusError if it is nowhere to be read, or no longer says what it said.
    """
    found = run.documents[run.documents["document"] == document]
    if len(found) != 1:
        raise CorpusError(f"the run has documents 0 to {len(run.documents) - 1}, got {document}")
    row = found.iloc[0]
    corpus = run.manifest.get("corpus")
    corpus = corpus.get("source") if isinstance(corpus, dict) else None
    if not isinstance(corpus, str):
        raise RunFormatError(f"{run.path} does not say what it was made from; make the run again")
    told = Document(str(row["source"]), _count(row["byte_start"]), _count(row["byte_end"]))
    try:
        for content in _candidates(corpus, told):
            known = replace(told, **content)
            if known.digest.hex() == row["text_hash"]:
                return known
    except CorpusError as error:
        raise CorpusError(f"{told.source} cannot be read again: {error}; {REMEDY}") from error
    raise CorpusError(f"{told.source} is not there any more, or says something else ({corpus}); {REMEDY}")


def _count(value: Any) -> int:
    number = int(value)
    return number if 0 <= number < 2**53 else 0


def _candidates(corpus: str, told: Document) -> Iterator[dict[str, Any]]:
    """What the document may hold, as Document's ``content`` or ``image``."""
    if corpus == BUNDLED:
        yield from ({"content": text} for name, text in bundled_documents() if name == told.source)
        return
    numbered = ROW.fullmatch(told.source)
    path = _file(corpus, numbered[1] if numbered else told.source)
    kind = "" if path is None else kind_of(path)
    if path is None:
        return
    if kind in IMAGE_SUFFIXES:
        yield {"image": path}
    elif kind in JSONL_SUFFIXES:
        yield from _of_row(json_object(_bytes(path, told).decode("utf-8-sig"), told.source))
    elif numbered and kind == ".parquet":
        yield from _of_row(_parquet_row(path, int(numbered[2])))
    elif numbered and kind in CSV_SUFFIXES:
        yield from _of_row(_csv_row(path, int(numbered[2]), CSV_SUFFIXES[kind]))
    elif kind in TEXT_SUFFIXES or not kind or path == Path(corpus):
        yield {"content": _bytes(path, told).decode("utf-8", "replace")}


def _file(corpus: str, name: str) -> Path | None:
    """The file of a corpus argument that a document was read from; None if there is none (any more)."""
    base = Path(corpus)
    if base.is_dir():
        path = (base / name).resolve()
        return path if path.is_relative_to(base.resolve()) and path.is_file() else None
    path = base if base.is_file() else Path(name)  # a pattern names its files as it found them
    return path if path.is_file() else None


def _bytes(path: Path, told: Document) -> bytes:
    """Bytes of the document in what its file unpacks to."""
    size = min(told.byte_end - told.byte_start, 4 * LONGEST_DOCUMENT)
    with files.named(path.name), files.opened(path) as stream:
        left = told.byte_start
        while left > 0 and (skipped := len(stream.read(min(left, files.BLOCK)))):
            left -= skipped
        return stream.read(max(size, 0))


def _of_row(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every text of a row, then every pair of them, then every image: the hash says which it was."""
    texts = [value for value in row.values() if isinstance(value, str)][:MAX_COLUMNS]
    yield from ({"content": text} for text in texts)
    yield from ({"content": pair} for pair in itertools.permutations(texts, 2))
    images = (value.get("bytes") for value in row.values() if isinstance(value, dict))
    yield from ({"image": image} for image in images if isinstance(image, bytes))


def _parquet_row(path: Path, number: int) -> Mapping[str, Any]:
    import pyarrow.parquet as pq

    with files.named(path.name), pq.ParquetFile(path, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if number < rows:
                return _row(file.read_row_group(group, use_threads=False).slice(number, 1).to_batches(), 0)
            number -= rows
    return {}


def _csv_row(path: Path, number: int, delimiter: str) -> Mapping[str, Any]:
    import pyarrow as pa
    from pyarrow import csv

    with files.named(path.name):
        with files.opened(path) as stream:
            head = csv.open_csv(stream, parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True))
            names = head.schema.names
        with files.opened(path) as stream:
            reader = csv.open_csv(
                stream,
                parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
            )
            return _row(reader, number)


def _row(batches: Iterable[Any], number: int) -> Mapping[str, Any]:
    for batch in batches:
        if number < batch.num_rows:
            return {name: batch.column(i)[number].as_py() for i, name in enumerate(batch.schema.names)}
        number -= batch.num_rows
    return {}
