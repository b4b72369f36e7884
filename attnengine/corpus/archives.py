"""WebDataset archives: tar files whose members share a key, ``dog.jpg`` and ``dog.cls``, read in their order.

An archive may come from a stranger. Nothing is ever unpacked to the disk and no name is ever opened: members are read
in memory, each up to a limit, and a link or a device is refused.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from tarfile import EOFHeaderError, HeaderError, ReadError  # type: ignore[attr-defined]
from typing import IO, TYPE_CHECKING, Any, cast

from attnengine.corpus import files
from attnengine.corpus.documents import Document
from attnengine.corpus.pictures import IMAGE_SUFFIXES
from attnengine.corpus.rows import columns_found, json_object, row_document
from attnengine.corpus.wording import printable
from attnengine.errors import CorpusError

if TYPE_CHECKING:
    from attnengine.corpus.sources import SourceOptions

MEMBER_LIMIT = 1 << 28  # bytes of a member, and of a header
IMAGES = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)
TEXTS = ("txt", "text", "md")
READ = (*IMAGES, *TEXTS, "json", "cls")


class _Member(tarfile.TarInfo):
    """A header that must be one: tarfile itself takes a damaged header for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> Any:
        try:
            return super().fromtarfile(tarfile)
        except EOFHeaderError:  # the zeros that end an archive
            raise
        except HeaderError as error:
            raise ReadError(f"damaged or cut off at byte {tarfile.offset} ({error})") from error


class _Bounded:
    """A stream that refuses to give more than ``left`` bytes: a header may claim any length."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.left = stream, MEMBER_LIMIT

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise ReadError(f"a header is longer than {MEMBER_LIMIT:,} bytes")
        return data


def tar_documents(stream: IO[bytes], name: str, options: SourceOptions) -> Iterator[Document]:
    """One document a key: what the text column names, else its image, else its .txt.

    ``--text-column`` and ``--label-column`` name a member's ending ("txt", "jpg", "cls") or a field of the .json; a
    .cls is the label where none is asked for.
    """
    key: str | None = None
    fields: dict[str, bytes] = {}
    for member, data in members(stream, name):
        stem, ending = split_key(member)
        if stem != key and fields:
            yield _sample(fields, f"{name} member {key}", options)
            fields = {}
        key = stem
        if ending in fields:
            raise CorpusError(f"{name}: member {member} is there twice; expected one of each kind for a key")
        fields[ending] = data
    if fields:
        yield _sample(fields, f"{name} member {key}", options)


def split_key(member: str) -> tuple[str, str]:
    """("a/b", "seg.png") of "a/b.seg.png": a key ends at the first dot of the file's name."""
    folder, slash, base = member.rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, ending.lower()


def members(stream: IO[bytes], name: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every plain member in order, b"" for kinds that are not read; hidden ones are left out.

    CorpusError for a link, a device, a member over the limit, a damaged header, an archive without its end mark, or
    data behind that.
    """
    bounded = _Bounded(stream)
    with (
        files.named(name),
        _tar_errors(name),
        tarfile.open(
            fileobj=cast("IO[bytes]", bounded), mode="r|", tarinfo=_Member, encoding="utf-8", errors="backslashreplace"
        ) as archive,
    ):
        while (info := archive.next()) is not None:
            hidden = info.name.rpartition("/")[2].startswith(".")
            if not info.isdir() and not hidden:
                yield printable(info.name), _content(archive, info)
            archive.members = []  # type: ignore[attr-defined]  # else it remembers every member
            bounded.left = MEMBER_LIMIT + info.size
        _expect_zeros(archive.fileobj, bounded)


@contextmanager
def _tar_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, RecursionError, OverflowError) as error:
        raise CorpusError(f"{name}: {error}; expected a whole tar archive") from error


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    name = printable(info.name)
    if not info.isreg() or info.issparse():
        raise ReadError(f"member {name} is a link, a device or sparse, and will not be followed")
    if split_key(info.name)[1] not in READ:
        return b""
    if info.size > MEMBER_LIMIT:
        raise ReadError(f"member {name} has {info.size:,} bytes, more than {MEMBER_LIMIT:,}")
    file = archive.extractfile(info)  # a reader of the stream: nothing goes to the disk
    data = b"" if file is None else file.read()
    if len(data) < info.size:
        raise ReadError(f"member {name} is cut off")
    return data


def _expect_zeros(stream: Any, bounded: _Bounded) -> None:
    """Read the stream to its end, which also checks a .gz file's checksum; behind the end mark only zeros may stand."""
    while data := stream.read(files.BLOCK):
        bounded.left = MEMBER_LIMIT
        if data.count(0) < len(data):
            raise ReadError("there is data behind the end of the archive")


def _sample(fields: dict[str, bytes], where: str, options: SourceOptions) -> Document:
    row: dict[str, Any] = json_object(_text(fields["json"], where), where) if "json" in fields else {}
    row |= {ending: {"bytes": fields[ending]} for ending in IMAGES if ending in fields}
    row |= {ending: _text(fields[ending], where) for ending in (*TEXTS, "cls") if ending in fields}
    if options.text_column not in row:
        chosen = next((ending for ending in (*IMAGES, *TEXTS) if ending in fields), None)
        if chosen is None:
            raise CorpusError(
                f"{where}: expected an image, a .txt or {options.text_column!r} in a .json, found "
                f"{columns_found(fields)}; name another member or field with --text-column"
            )
        row[options.text_column] = row[chosen]
    document = row_document(row, where, options)
    return replace(document, label=row["cls"].strip()) if options.label_column is None and "cls" in row else document


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{where}: byte {error.start} of a member is not UTF-8 ({error.reason})") from error
