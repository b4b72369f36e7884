"""Files to documents: what a corpus argument means, with provenance to the byte.

    text file     one document; over 64 kB it is split at blank lines into documents of >= 2,000 characters
    .jsonl        one document a line, the string under ``text_column``
    folder        every text and .jsonl file below it, by path; or every image, if it holds images
    -             standard input, as text

Everything is strict UTF-8, nothing is guessed or skipped: a corpus that cannot be read whole is an error that names
the file and the byte or line.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from attnengine.errors import CorpusError

TEXT_SUFFIXES = (".txt", ".text", ".md", ".rst")
JSONL_SUFFIXES = (".jsonl", ".ndjson")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SPLIT_ABOVE = 64_000  # characters of a lone text file that stay one document
SPLIT_TARGET = 2_000  # characters a document has at least when a file is split at blank lines
LONGEST_LINE = 1_000_000  # characters; longer lines are data (base64, minified code), not text
SPLITS = ("auto", "file", "blank", "line")


@dataclass(frozen=True)
class Document:
    """One document: its text (or its image) and where it came from.

    ``byte_start`` and ``byte_end`` are the bytes of ``source`` it was read from: for jsonl the line, for text the
    characters themselves. ``text`` is empty for images, ``image`` the path or the picture (PIL.Image) itself.
    """

    source: str
    byte_start: int
    byte_end: int
    text: str
    label: str | None = None
    image: Any = None

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the text, or of the image's pixels and size."""
        if self.image is None:
            return hashlib.sha256(self.text.encode("utf-8")).digest()
        picture = open_image(self.image)
        return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).digest()


@dataclass(frozen=True)
class SourceOptions:
    """How files become documents."""

    split: str = "auto"  # auto | file | blank | line
    text_column: str = "text"
    label_column: str | None = None
    longest_line: int = LONGEST_LINE  # 0: no limit

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"documents must be one of {', '.join(SPLITS)}; got {self.split!r}")


def read_corpus(corpus: str, options: SourceOptions) -> list[Document]:
    """The documents of a corpus argument, in a fixed order, none of them blank.

    Raises CorpusError for what does not exist, is empty, is not UTF-8, or has a line without text.
    """
    if corpus == "-":
        documents = list(_text_documents(sys.stdin.buffer.read(), "-", options, lone=True))
    else:
        path = Path(corpus)
        if not path.exists():
            raise CorpusError(f"corpus {corpus!r} does not exist; expected a text file, a .jsonl, a folder, or -")
        documents = list(_folder(path, options) if path.is_dir() else _file(path, options, lone=True))
    return checked(documents, corpus, options)


def documents_of(texts: Iterable[Any], options: SourceOptions | None = None) -> list[Document]:
    """Documents of an in-memory corpus: strings, or PIL images."""
    if isinstance(texts, str | bytes):
        raise TypeError("texts must be a list of strings (or images), got one string; write [text]")
    documents = []
    for index, item in enumerate(texts):
        if isinstance(item, str):
            documents.append(Document(f"item {index}", 0, len(item.encode("utf-8", "surrogatepass")), item))
        elif hasattr(item, "tobytes") and hasattr(item, "size") and hasattr(item, "convert"):
            documents.append(Document(f"item {index}", 0, 0, "", image=item))
        else:
            raise TypeError(f"texts[{index}] must be a string or a PIL image, got {type(item).__name__}")
    return checked(documents, "the list of texts", options or SourceOptions())


def checked(documents: list[Document], corpus: str, options: SourceOptions) -> list[Document]:
    """The documents that hold something; CorpusError if none does or a line is too long to be text."""
    kept = [document for document in documents if document.image is not None or document.text.strip()]
    if not kept:
        raise CorpusError(f"corpus {corpus!r} is empty: expected at least one document with text in it")
    if len({document.image is None for document in kept}) > 1:
        raise CorpusError(f"corpus {corpus!r} mixes text and images; run them separately")
    for document in kept:
        _check_text(document, options)
    return kept


def _check_text(document: Document, options: SourceOptions) -> None:
    if any("\ud800" <= character <= "\udfff" for character in document.text):
        raise CorpusError(f"{document.source}: lone surrogate characters; expected valid Unicode text")
    if not options.longest_line or len(document.text) <= options.longest_line:
        return
    longest = max(map(len, document.text.splitlines()))
    if longest > options.longest_line:
        raise CorpusError(
            f"{document.source}: one line has {longest:,} characters, more than {options.longest_line:,}; that is "
            "rarely text. Break the lines, or allow it with --longest-line 0"
        )


def _folder(folder: Path, options: SourceOptions) -> Iterator[Document]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    texts = [path for path in files if path.suffix.lower() in TEXT_SUFFIXES + JSONL_SUFFIXES]
    if images and texts:
        raise CorpusError(f"{folder} holds {len(texts)} text files and {len(images)} images; give one kind a folder")
    for path in images:
        yield Document(path.relative_to(folder).as_posix(), 0, path.stat().st_size, "", image=_readable(path))
    for path in texts:
        yield from _file(path, options, lone=False, name=path.relative_to(folder).as_posix())
    if not images and not texts:
        raise CorpusError(
            f"{folder} holds no corpus: expected files ending in {', '.join(TEXT_SUFFIXES + JSONL_SUFFIXES)} "
            f"or images, found {len(files)} other files"
        )


def _file(path: Path, options: SourceOptions, *, lone: bool, name: str | None = None) -> Iterator[Document]:
    name = name or path.name
    if path.suffix.lower() in IMAGE_SUFFIXES:
        yield Document(name, 0, path.stat().st_size, "", image=_readable(path))
        return
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror}") from error
    if path.suffix.lower() in JSONL_SUFFIXES:
        yield from _jsonl_documents(data, name, options)
    else:
        yield from _text_documents(data, name, options, lone=lone)


def _decode(data: bytes, name: str, base: int = 0) -> str:
    """Strict UTF-8; a NUL byte or a bad sequence is named with its offset in the file."""
    nul = data.find(b"\0")
    if nul >= 0:
        raise CorpusError(f"{name}: byte {base + nul} is NUL, so this is a binary file; expected UTF-8 text")
    try:
        return data.decode("utf-8-sig" if base == 0 else "utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{name}: byte {base + error.start} is not UTF-8 ({error.reason}); "
            "convert the file, for example with iconv -f latin1 -t utf-8"
        ) from error


def _text_documents(data: bytes, name: str, options: SourceOptions, *, lone: bool) -> Iterator[Document]:
    text = _decode(data, name)
    start = len(data) - len(text.encode("utf-8"))  # 3 where the file begins with a byte order mark
    split = options.split
    if split == "auto":
        split = "blank" if lone and len(text) > SPLIT_ABOVE else "file"
    for piece in {"file": _whole, "blank": _blank_pieces, "line": _line_pieces}[split](text):
        end = start + len(piece.encode("utf-8"))
        yield Document(name, start, end, piece)
        start = end


def _whole(text: str) -> Iterator[str]:
    yield text


def _line_pieces(text: str) -> Iterator[str]:
    yield from text.splitlines(keepends=True)


def _blank_pieces(text: str) -> Iterator[str]:
    """Consecutive paragraphs, blank lines kept with the paragraph before, at least SPLIT_TARGET characters each."""
    start = 0
    for blank in re.finditer(r"\n[ \t\r]*\n\s*", text):
        if blank.end() - start >= SPLIT_TARGET:
            yield text[start : blank.end()]
            start = blank.end()
    if start < len(text):
        yield text[start:]


def _jsonl_documents(data: bytes, name: str, options: SourceOptions) -> Iterator[Document]:
    start = 0
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        end = start + len(line)
        text = _decode(line, f"{name} line {number}", start)
        if text.strip():
            yield _jsonl_document(text, f"{name} line {number}", name, (start, end), options)
        start = end


def _jsonl_document(line: str, where: str, name: str, span: tuple[int, int], options: SourceOptions) -> Document:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where}: not valid JSON ({error})") from error
    text = row.get(options.text_column) if isinstance(row, dict) else None
    if not isinstance(text, str):
        found = ", ".join(map(repr, row)) if isinstance(row, dict) else f"a {type(row).__name__}"
        raise CorpusError(
            f"{where}: expected a string under {options.text_column!r}, found {found or 'an empty object'}; "
            "name another column with --text-column"
        )
    label = row.get(options.label_column) if options.label_column else None
    return Document(name, *span, text, label=None if label is None else str(label))


def _readable(path: Path) -> Path:
    open_image(path)
    return path


def open_image(image: Any) -> Any:
    """The picture as RGB (PIL.Image); CorpusError if the file is not one Pillow can read whole."""
    from PIL import Image

    if not isinstance(image, Path):
        return image.convert("RGB")
    try:
        with Image.open(image) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CorpusError(f"{image} is not a readable image: {error}") from error
