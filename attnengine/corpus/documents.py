"""Documents, and a corpus that knows all of them without keeping what they say in memory."""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, overload

from attnengine.corpus.pictures import open_image
from attnengine.corpus.spool import Spool
from attnengine.errors import CorpusError

LONGEST_LINE = 1_000_000  # characters; longer lines are data (base64, minified code), not text
LONGEST_DOCUMENT = 32_000_000  # characters; a tokenizer takes a document whole, at some hundred bytes a token
PAIR_JOINT = "\n"  # stands between A and B in the text of a pair, which its tokens' places count in


@dataclass(frozen=True)
class Kept:
    """What a document says, in the spool: the UTF-8 of its text (or texts), or its image file."""

    spool: Spool
    begin: int
    sizes: tuple[int, ...]
    digest: bytes

    def read(self) -> tuple[bytes, ...]:
        """The parts, read back."""
        data, parts = memoryview(self.spool.read(self.begin, sum(self.sizes))), []
        for size in self.sizes:
            parts.append(bytes(data[:size]))
            data = data[size:]
        return tuple(parts)


@dataclass(frozen=True)
class Document:
    """One document: where it came from, and its text, its pair of texts, or its image.

    ``byte_start`` and ``byte_end`` are bytes of the file ``source``: for text the characters themselves, for jsonl
    the line, of compressed files counted in what they unpack to. Where a row or a member is no run of bytes
    (Parquet, csv, tar, hub data sets), ``source`` names it ("a.parquet row 7", "a.tar member 12.txt") and they are 0
    and the length of its text in UTF-8; for images they are 0 and the size of the file, 0 for one in memory.

    ``content`` is a text or a pair of texts, ``image`` a path, the file's bytes, or a PIL.Image; of a document that a
    Corpus kept, both are read back when ``text``, ``parts`` or :meth:`picture` ask for them.
    """

    source: str
    byte_start: int
    byte_end: int
    content: str | tuple[str, str] | Kept = ""
    label: str | None = None
    image: Any = None

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """(text,), or (A, B) of a pair."""
        if isinstance(self.content, Kept):
            return tuple(part.decode("utf-8") for part in self.content.read())
        return (self.content,) if isinstance(self.content, str) else self.content

    @property
    def text(self) -> str:
        """The text; of a pair A, a line feed, B. Empty for an image. What places of tokens count in."""
        return PAIR_JOINT.join(self.parts)

    @property
    def is_pair(self) -> bool:
        """Whether it has two texts."""
        return len(self.content.sizes) == 2 if isinstance(self.content, Kept) else isinstance(self.content, tuple)

    def picture(self) -> Any:
        """The image as RGB (PIL.Image)."""
        return open_image(self.image.read()[0] if isinstance(self.image, Kept) else self.image, self.source)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the text (of a pair: with A's length in front), or of the image's size and RGB pixels."""
        for kept in (self.content, self.image):
            if isinstance(kept, Kept):
                return kept.digest
        if self.image is not None:
            picture = self.picture()
            return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).digest()
        return digest_of([part.encode("utf-8") for part in self.parts])


def digest_of(parts: Sequence[bytes]) -> bytes:
    """SHA-256 of a text, or of a pair: two different pairs never feed it the same bytes."""
    front = len(parts[0]).to_bytes(8, "little") if len(parts) == 2 else b""
    return hashlib.sha256(front + b"".join(parts)).digest()


class Corpus(Sequence[Document]):
    """Documents that are read from their source once, checked, and kept by place.

    Iterating goes on reading the source; ``len`` and ``[i]`` speak of what has been read so far. Of a document stay
    its source, bytes, label and digest (some hundred bytes); its text goes to a temporary file and is read back when
    asked for. Blank documents are left out and counted in ``n_blank``; ``n_ignored`` counts files of unknown kind.

    Raises CorpusError for a source without documents, for text that is not Unicode, for lines longer than
    ``longest_line`` characters (0: no limit), and if kinds (text, pairs, images) are mixed. The first document is read
    at once, so that a wrong path or column shows before a model is loaded.
    """

    def __init__(
        self, source: Iterable[Document], name: str, *, longest_line: int = LONGEST_LINE, n_ignored: int = 0
    ) -> None:
        self.name, self.longest_line, self.n_ignored = name, longest_line, n_ignored
        self._spool = Spool()
        self._sources: list[str] = []
        self._labels: list[str | None] = []
        self._images: list[Any] = []
        self._places = array("q")  # byte_start, byte_end, begin in the spool, size of A, size of B or -1, blanks before
        self._digests = bytearray()
        self._blank = 0
        self._cut = False
        self._incoming = self._reading(iter(source))
        self._first = next(self._incoming, None)
        if self._first is None:
            raise CorpusError(f"corpus {name!r} is empty: expected at least one document with text in it")
        self.kind = _kind(self._first)

    @property
    def n_blank(self) -> int:
        """Blank documents that were left out, up to the last one kept; all of them once the source has ended."""
        return self._places[-1] if self._cut else self._blank

    @property
    def left_out(self) -> dict[str, int]:
        """What the run does not see, counted, for the manifest."""
        return {"blank_documents": self.n_blank, "ignored_files": self.n_ignored}

    @property
    def is_image(self) -> bool:
        """Whether its documents are images."""
        return self.kind == "images"

    def __len__(self) -> int:
        return len(self._sources)

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> Corpus: ...
    def __getitem__(self, index: int | slice) -> Document | Corpus:
        """The document as it was kept; of a slice [:n], the corpus of the first n."""
        if isinstance(index, slice):
            return self._head(index)
        index = range(len(self))[index]
        start, end, begin, first, second, _ = self._places[6 * index : 6 * index + 6]
        digest = bytes(self._digests[32 * index : 32 * index + 32])
        kept = Kept(self._spool, begin, (first,) if second < 0 else (first, second), digest)
        if not self.is_image:
            return Document(self._sources[index], start, end, kept, self._labels[index])
        image = kept if self._images[index] is None else self._images[index]
        return Document(self._sources[index], start, end, replace(kept, sizes=(0,)), self._labels[index], image)

    def __iter__(self) -> Iterator[Document]:
        """What has been read, then the rest of the source as it is read."""
        first, self._first = self._first, None
        for index in itertools.count():
            if index < len(self):
                yield first if first is not None and index == 0 else self[index]
            elif (document := next(self._incoming, None)) is not None:
                yield document
            else:
                return

    def __getstate__(self) -> dict[str, Any]:
        """For a worker process: what has been read, of text without what it says, which only tables need."""
        state = vars(self) | {"_incoming": iter(()), "_first": None}
        return state if self.is_image else state | {"_spool": Spool()}

    def read(self, documents: int | None = None) -> Corpus:
        """Read the source to its end, or until so many documents are in; itself."""
        for _ in itertools.islice(self, documents):
            pass
        return self

    def _head(self, which: slice) -> Corpus:
        if which.start or which.step not in (None, 1):
            raise ValueError(f"a corpus is cut as [:n], got {which}")
        n = len(range(*which.indices(len(self))))
        head = object.__new__(Corpus)  # not copy.copy(): a pickle of us, which it would be, has no texts
        vars(head).update(vars(self))
        head._sources, head._labels, head._images = self._sources[:n], self._labels[:n], self._images[:n]
        head._places, head._digests = self._places[: 6 * n], self._digests[: 32 * n]
        head._incoming, head._first, head._cut = iter(()), None, True
        return head

    def _reading(self, source: Iterator[Document]) -> Iterator[Document]:
        for document in source:
            if document.image is None and not any(part.strip() for part in document.parts):
                self._blank += 1
                continue
            if self._sources and _kind(document) != self.kind:
                raise CorpusError(
                    f"{document.source}: corpus {self.name!r} mixes {self.kind} and {_kind(document)}; "
                    "run them separately"
                )
            self._keep(document)
            yield document

    def _keep(self, document: Document) -> None:
        _encoded(document.label or "", f"{document.source}: the label")
        if document.image is None:
            parts = [self._checked(part, document) for part in document.parts]
            digest = digest_of(parts)
        else:
            parts = [document.image] if isinstance(document.image, bytes) else [b""]
            digest = document.digest
        begin = self._spool.append(b"".join(parts))
        second = len(parts[1]) if len(parts) == 2 else -1
        places = (document.byte_start, document.byte_end, begin, len(parts[0]), second, self._blank)
        self._places.extend(places)
        self._digests += digest
        self._sources.append(document.source)
        self._labels.append(document.label)
        self._images.append(None if isinstance(document.image, bytes) else document.image)

    def _checked(self, text: str, document: Document) -> bytes:
        """The text in UTF-8, if it is one that a tokenizer can be given."""
        data = _encoded(text, document.source)
        if len(text) > LONGEST_DOCUMENT:
            raise CorpusError(
                f"{document.source}: one document has {len(text):,} characters, more than {LONGEST_DOCUMENT:,}; "
                "split it with --documents blank or line"
            )
        if self.longest_line and len(text) > self.longest_line:
            longest = max(map(len, text.splitlines()))
            if longest > self.longest_line:
                raise CorpusError(
                    f"{document.source}: one line has {longest:,} characters, more than {self.longest_line:,}; that is "
                    "rarely text. Break the lines, or allow it with --longest-line 0"
                )
        return data


def _kind(document: Document) -> str:
    if document.image is not None:
        return "images"
    return "pairs" if document.is_pair else "text"


def _encoded(text: str, where: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError(f"{where}: lone surrogate characters; expected valid Unicode text") from error
