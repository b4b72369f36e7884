"""Rows with named columns as documents: jsonl, Parquet and csv."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from attnengine.corpus import files
from attnengine.corpus.documents import Document
from attnengine.errors import CorpusError

if TYPE_CHECKING:
    from attnengine.corpus.sources import SourceOptions

LONGEST_ROW = 1 << 28  # bytes of a jsonl line
BATCH_ROWS = 256  # rows of a table in memory at a time
CSV_BLOCK = 1 << 24  # bytes; no row of a csv file may be longer


def row_document(
    row: Mapping[str, Any], where: str, options: SourceOptions, place: tuple[str, int, int] | None = None
) -> Document:
    """The document of a row: text, or an image as its file's bytes, under the columns that ``options`` name.

    A null is a blank document. ``place`` is (source, byte_start, byte_end) where the row is a run of bytes.
    """
    value = _value(row, options.text_column, where, "--text-column")
    label = None if options.label_column is None else row.get(options.label_column)
    label = label if label is None else str(label)
    if isinstance(value, bytes):
        return Document(where, 0, len(value), label=label, image=value)
    if options.pair_column is not None:
        second = _value(row, options.pair_column, where, "--pair-column")
        if isinstance(second, bytes):
            raise CorpusError(f"{where}: {options.pair_column!r} is an image; expected the second text of a pair")
        content: Any = (value, second)
        length = len((value + second).encode("utf-8", "surrogatepass"))
    else:
        content, length = value, len(value.encode("utf-8", "surrogatepass"))
    return Document(*(place or (where, 0, length)), content=content, label=label)


def _value(row: Mapping[str, Any], column: str, where: str, option: str) -> Any:
    """The text of a column, "" for null; or the bytes of an image, as the hub's data sets store them."""
    value = row.get(column)
    if isinstance(value, str) or (value is None and column in row):
        return value or ""
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return value["bytes"]
    raise CorpusError(
        f"{where}: expected a string under {column!r}, found "
        f"{type(value).__name__ if column in row else columns_found(row)}; name another column with {option}"
    )


def columns_found(names: Iterable[str]) -> str:
    """``'a', 'b'``, for an error that says what there is; not more than a line can hold."""
    found = list(map(repr, names))
    return (", ".join(found[:12]) + (" …" if len(found) > 12 else ""))[:300] or "no column"


def jsonl_documents(stream: IO[bytes], name: str, options: SourceOptions) -> Iterator[Document]:
    """One document a line; empty lines are none."""
    for number, (start, line) in enumerate(files.lines(stream, name, LONGEST_ROW), start=1):
        where = f"{name} line {number}"
        try:
            text = line.decode("utf-8-sig" if start == 0 else "utf-8")
        except UnicodeDecodeError as error:
            raise CorpusError(f"{where}: byte {start + error.start} is not UTF-8 ({error.reason})") from error
        if text.strip():
            yield row_document(json_object(text, where), where, options, (name, start, start + len(line)))


def json_object(line: str, where: str) -> dict[str, Any]:
    """The object that a JSON text is, or a CorpusError that says what it is instead."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise CorpusError(f"{where}: expected a JSON object, found a {type(row).__name__}")
    return row


def parquet_documents(path: Path, name: str, options: SourceOptions) -> Iterator[Document]:
    """One document a row; only the columns that are asked for are read, a few hundred rows at a time."""
    import pyarrow.parquet as pq

    with files.named(name), pq.ParquetFile(path, page_checksum_verification=True) as file:
        columns = wanted(file.schema_arrow.names, name, options)
        batches = file.iter_batches(batch_size=BATCH_ROWS, columns=columns, use_threads=False)
        yield from _table_documents(batches, name, options)


def csv_documents(stream: IO[bytes], name: str, options: SourceOptions, delimiter: str) -> Iterator[Document]:
    """One document a row of a csv or tsv file with a header, quoted as usual; every column is read as text."""
    import pyarrow as pa
    from pyarrow import csv

    with files.named(name):
        asked = [c for c in (options.text_column, options.pair_column, options.label_column) if c]
        reader = csv.open_csv(
            stream,
            read_options=csv.ReadOptions(block_size=CSV_BLOCK, use_threads=False),
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(asked, pa.string())),
        )
        columns = wanted(reader.schema.names, name, options)
        yield from _table_documents((batch.select(columns) for batch in reader), name, options)


def wanted(names: Sequence[str], where: str, options: SourceOptions) -> list[str]:
    """The columns that are asked for, if a table has each once."""
    asked = {"--text-column": options.text_column, "--pair-column": options.pair_column}
    asked["--label-column"] = options.label_column
    for option, column in asked.items():
        if column is not None and list(names).count(column) != 1:
            problem = "no column" if column not in names else "more than one column"
            raise CorpusError(f"{where} has {problem} {column!r}, but {columns_found(names)}; name one with {option}")
    return list(dict.fromkeys(column for column in asked.values() if column is not None))


def _table_documents(batches: Iterable[Any], name: str, options: SourceOptions) -> Iterator[Document]:
    number = 0
    for batch in batches:
        columns = {column: batch.column(column) for column in batch.schema.names}
        for i in range(batch.num_rows):
            where = f"{name} row {number}"
            try:
                row = {column: values[i].as_py() for column, values in columns.items()}
            except ValueError as error:  # text that is not UTF-8, a date that is none
                raise CorpusError(f"{where}: {error}") from error
            yield row_document(row, where, options)
            number += 1
