"""Plain and compressed files as streams, and text files as documents; nothing is read whole that can be read in turn.

Everything is strict UTF-8, nothing is guessed or skipped: a file that cannot be read whole is an error that names it
and the byte or line.
"""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, cast

from attnengine.corpus.documents import LONGEST_DOCUMENT, Document
from attnengine.corpus.wording import said
from attnengine.errors import CorpusError

COMPRESSED = (".gz", ".zst")
BLOCK = 1 << 22  # bytes read at a time
SPLIT_ABOVE = 64_000  # characters of a lone text file that stay one document
SPLIT_TARGET = 2_000  # characters a document has at least when a file is split at blank lines
SPLITS = ("auto", "file", "blank", "line")


@contextmanager
def named(name: str) -> Iterator[None]:
    """What a damaged or unreadable file makes the libraries raise, as a CorpusError with its name."""
    import pyarrow as pa

    try:
        yield
    except CorpusError:
        raise
    except EOFError as error:
        raise CorpusError(f"{name} is cut off: its compressed data ends too early; copy it again") from error
    except (OSError, ValueError, zlib.error, MemoryError, pa.ArrowException) as error:
        raise CorpusError(f"cannot read {name}: {said(error)}") from error


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's content as a binary stream, unpacked if its name ends in .gz or .zst."""
    suffix = path.suffix.lower()
    if suffix in (".gz", ".tgz"):
        with gzip.open(path) as packed:
            yield cast("IO[bytes]", packed)
    elif suffix == ".zst":
        import pyarrow as pa

        with pa.input_stream(str(path), compression="zstd") as native:
            yield cast("IO[bytes]", BufferedReader(native, BLOCK))
    else:
        with path.open("rb") as file:
            yield file


def text_documents(stream: IO[bytes], name: str, split: str, *, lone: bool, block: int = BLOCK) -> Iterator[Document]:
    """A text stream as documents: whole, or cut at blank lines or at every line (``split``; auto: see sources)."""
    texts = decoded(stream, name, block)
    head = next(texts, "")
    start = 3 if head.startswith("\ufeff") else 0
    head = head.removeprefix("\ufeff")
    if split == "auto":
        split = "blank" if lone and len(head) > SPLIT_ABOVE else "file"
    cut = {"file": _whole, "blank": _blank_pieces, "line": _line_pieces}[split]
    for piece in _pieces(head, texts, cut, name):
        end = start + len(piece.encode("utf-8"))
        yield Document(name, start, end, piece)
        start = end


def decoded(stream: IO[bytes], name: str, block: int = BLOCK) -> Iterator[str]:
    """The stream as strings; a NUL byte or a bad sequence is named with its place."""
    decoder, at = codecs.getincrementaldecoder("utf-8")(), 0
    while True:
        with named(name):
            data = stream.read(block)
        nul = data.find(b"\0")
        if nul >= 0:
            raise CorpusError(f"{name}: byte {at + nul} is NUL, so this is a binary file; expected UTF-8 text")
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{name}: byte {at - pending + error.start} is not UTF-8 ({error.reason}); "
                "convert the file, for example with iconv -f latin1 -t utf-8"
            ) from error
        if not data:
            return
        at += len(data)
        yield text


def _pieces(head: str, texts: Iterator[str], cut: Callable[..., Iterator[str]], name: str) -> Iterator[str]:
    """What ``cut`` makes of the whole text, while only the open piece is held.

    ``cut(text, scan)`` gives the pieces of a text, the last of which may go on; before ``scan`` there is no cut.
    """
    held, scan = head, 0
    for text in texts:
        *done, held = list(cut(held, scan)) or [""]
        yield from done
        scan = len(held.rstrip()) if held else 0
        held += text
        if len(held) > LONGEST_DOCUMENT:
            raise CorpusError(
                f"{name}: more than {LONGEST_DOCUMENT:,} characters would be one document; split the file with "
                "--documents blank or line"
            )
    yield from cut(held, scan)


def _whole(text: str, _scan: int) -> Iterator[str]:
    yield text


def _line_pieces(text: str, _scan: int) -> Iterator[str]:
    yield from text.splitlines(keepends=True)


def _blank_pieces(text: str, scan: int) -> Iterator[str]:
    """Consecutive paragraphs, blank lines kept with the paragraph before, at least SPLIT_TARGET characters each.

    Blank lines at the very end are no cut: they may go on, and at the end of a file there is nothing to cut off.
    """
    start = 0
    for blank in re.compile(r"\n[ \t\r]*\n\s*").finditer(text, scan):
        if blank.end() - start >= SPLIT_TARGET and blank.end() < len(text):
            yield text[start : blank.end()]
            start = blank.end()
    if start < len(text):
        yield text[start:]


def lines(stream: IO[bytes], name: str, longest: int) -> Iterator[tuple[int, bytes]]:
    """(byte it begins at, line with its end) of a stream; CorpusError for one of more than ``longest`` bytes."""
    at, number = 0, 0
    while True:
        with named(name):
            line = stream.readline(longest + 1)
        if not line:
            return
        number += 1
        if len(line) > longest:
            raise CorpusError(f"{name} line {number}: more than {longest:,} bytes; expected one document a line")
        yield at, line
        at += len(line)
