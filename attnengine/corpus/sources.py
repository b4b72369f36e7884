"""What a corpus argument means: files, folders and data sets to documents, in a fixed order.

    text file      one document; over 64 kB it is split at blank lines into documents of >= 2,000 characters
    .jsonl         one document a line, the string under ``text_column``
    .parquet .csv .tsv   one document a row, likewise
    .tar .tgz      WebDataset: one document a key, an image or a text
    folder         every file of these kinds below it, by path; or every image, if it holds images
    'data/*.txt'   every file that matches, by path
    hf:NAME[:CONFIG][@SPLIT]   a data set of the hub, streamed
    -              standard input, as text

Text, jsonl, csv and tar files may end in .gz or .zst. With a pair column, rows give pairs of texts. Nothing is
guessed or skipped: what cannot be read whole is an error that names the file and the place in it, and what is left
out (blank documents; files of other kinds in a folder) is counted.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnengine.corpus import files
from attnengine.corpus.archives import tar_documents
from attnengine.corpus.documents import LONGEST_LINE, Corpus
from attnengine.corpus.documents import Document as Document
from attnengine.corpus.files import COMPRESSED, SPLITS, text_documents
from attnengine.corpus.hub import PREFIX, hub_documents
from attnengine.corpus.pictures import IMAGE_SUFFIXES
from attnengine.corpus.rows import csv_documents, jsonl_documents, parquet_documents
from attnengine.corpus.wording import printable
from attnengine.errors import CorpusError

TEXT_SUFFIXES = (".txt", ".text", ".md", ".rst")
JSONL_SUFFIXES = (".jsonl", ".ndjson")
CSV_SUFFIXES = {".csv": ",", ".tsv": "\t"}
TAR_SUFFIXES = (".tar", ".tgz")
DATA_SUFFIXES = (*TEXT_SUFFIXES, *JSONL_SUFFIXES, ".parquet", *CSV_SUFFIXES, *TAR_SUFFIXES)
ROW_SUFFIXES = (*JSONL_SUFFIXES, ".parquet", *CSV_SUFFIXES, *TAR_SUFFIXES)  # of files that can hold pairs


@dataclass(frozen=True)
class SourceOptions:
    """How files become documents."""

    split: str = "auto"  # auto | file | blank | line
    text_column: str = "text"
    label_column: str | None = None
    longest_line: int = LONGEST_LINE  # 0: no limit
    pair_column: str | None = None  # the second text of a pair

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"documents must be one of {', '.join(SPLITS)}; got {self.split!r}")


def read_corpus(corpus: str, options: SourceOptions) -> Corpus:
    """The documents of a corpus argument, in a fixed order, none of them blank; read as they are asked for.

    Raises CorpusError for what does not exist, is empty, is not UTF-8, or has a row without text: at once for the
    first document, for the others when they are read.
    """
    n_ignored = 0
    if corpus == "-":
        _expect_rows("", "standard input", options)
        found = text_documents(sys.stdin.buffer, "-", options.split, lone=True)
    elif corpus.startswith(PREFIX):
        found = hub_documents(corpus, options)
    elif Path(corpus).is_dir():
        paths, n_ignored = folder_files(Path(corpus))
        found = _files(paths, options, lone=False)
    elif Path(corpus).exists():
        found = _files([(Path(corpus), printable(Path(corpus).name))], options, lone=True)
    else:
        found = _files(matches(corpus), options, lone=False)
    return Corpus(found, corpus, longest_line=options.longest_line, n_ignored=n_ignored)


def documents_of(texts: Iterable[Any], options: SourceOptions | None = None) -> Corpus:
    """The corpus in memory: strings, pairs of strings, or PIL images; TypeError for anything else."""
    if isinstance(texts, str | bytes):
        raise TypeError("texts must be a list of strings (or images), got one string; write [text]")
    longest_line = (options or SourceOptions()).longest_line
    found = (_in_memory(index, item) for index, item in enumerate(texts))
    return Corpus(found, "the list of texts", longest_line=longest_line).read()


def _in_memory(index: int, item: Any) -> Document:
    name = f"item {index}"
    if isinstance(item, str):
        return Document(name, 0, len(item.encode("utf-8", "surrogatepass")), item)
    if isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(part, str) for part in item):
        return Document(name, 0, len("".join(item).encode("utf-8", "surrogatepass")), (item[0], item[1]))
    if hasattr(item, "tobytes") and hasattr(item, "size") and hasattr(item, "convert"):
        return Document(name, 0, 0, image=item)
    raise TypeError(f"texts[{index}] must be a string, a pair of strings or a PIL image, got {type(item).__name__}")


def kind_of(path: Path) -> str:
    """The suffix that says what a file holds, without .gz or .zst: ``.txt`` of a.txt.gz."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def folder_files(folder: Path) -> tuple[list[tuple[Path, str]], int]:
    """((path, name below the folder) of every file that is a corpus, by name), and how many others there are.

    CorpusError if there is none, if images and text stand side by side, or if a link leads out of the folder.
    """
    found = list(_walk(folder))
    paths = sorted((path for path in found if kind_of(path) in (*DATA_SUFFIXES, *IMAGE_SUFFIXES)), key=os.fspath)
    root = folder.resolve()
    for path in paths:
        if not path.is_file():
            raise CorpusError(f"{printable(path)} is no file that can be read: a broken link, a pipe or a socket")
        if not path.resolve().is_relative_to(root):
            raise CorpusError(f"{printable(path)} is a link out of the folder; give its target, or copy the file")
    images = [path for path in paths if kind_of(path) in IMAGE_SUFFIXES]
    if images and len(images) < len(paths):
        raise CorpusError(
            f"{folder} holds {len(paths) - len(images)} text files and {len(images)} images; give one kind a folder"
        )
    if not paths:
        raise CorpusError(
            f"{folder} holds no corpus: expected files ending in {', '.join(DATA_SUFFIXES)} "
            f"or images, found {len(found)} other files"
        )
    return [(path, printable(path.relative_to(folder).as_posix())) for path in paths], len(found) - len(paths)


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below the folder that is not hidden; CorpusError for a subfolder that is a link or cannot be read."""

    def refuse(error: OSError) -> None:
        raise CorpusError(f"cannot read the folder {printable(error.filename)}: {error.strerror}")

    for at, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        linked = next((Path(at, name) for name in folders if Path(at, name).is_symlink()), None)
        if linked is not None:
            raise CorpusError(f"{printable(linked)} is a link to a folder; give its target as a corpus of its own")
        yield from (Path(at, name) for name in names if not name.startswith("."))


def matches(pattern: str) -> list[tuple[Path, str]]:
    """(path, path as the pattern finds it) of every file that matches, by name; CorpusError if there is none."""
    if not glob.has_magic(pattern):
        raise CorpusError(
            f"corpus {pattern!r} does not exist; expected a file, a folder, a pattern such as 'data/*.jsonl', "
            "hf:NAME for a hub data set, or -"
        )
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207 (the pattern may be absolute)
    paths = sorted(path for path in found if Path(path).is_file())
    if not paths:
        raise CorpusError(f"no file matches {pattern!r}; put a pattern in quotes, so that the shell leaves it alone")
    return [(Path(path), printable(path)) for path in paths]


def _files(paths: Iterable[tuple[Path, str]], options: SourceOptions, *, lone: bool) -> Iterator[Document]:
    for path, name in paths:
        yield from _file(path, name, options, lone=lone)


def _file(path: Path, name: str, options: SourceOptions, *, lone: bool) -> Iterator[Document]:
    kind = kind_of(path)
    _expect_rows(kind, name, options)
    if kind in IMAGE_SUFFIXES:
        yield Document(name, 0, path.stat().st_size, image=path)
    elif kind == ".parquet":
        yield from parquet_documents(path, name, options)
    elif kind == ".json":
        raise CorpusError(f"{name} is JSON; expected .jsonl, one object a line (jq -c '.[]' file.json makes one)")
    else:
        with files.named(name), files.opened(path) as stream:
            yield from _stream(stream, kind, name, options, lone=lone)


def _expect_rows(kind: str, name: str, options: SourceOptions) -> None:
    if options.pair_column is not None and kind not in ROW_SUFFIXES:
        raise CorpusError(f"{name} has no rows for --pair-column; expected {', '.join(ROW_SUFFIXES)} or hf:NAME")


def _stream(stream: Any, kind: str, name: str, options: SourceOptions, *, lone: bool) -> Iterator[Document]:
    if kind in JSONL_SUFFIXES:
        yield from jsonl_documents(stream, name, options)
    elif kind in CSV_SUFFIXES:
        yield from csv_documents(stream, name, options, CSV_SUFFIXES[kind])
    elif kind in TAR_SUFFIXES:
        yield from tar_documents(stream, name, options)
    else:
        yield from text_documents(stream, name, options.split, lone=lone)
