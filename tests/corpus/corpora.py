"""One small corpus written in every format that is read, for tests that must hold for all of them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from PIL import Image

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from attnengine.corpus.windows import TextWindows

TEXTS = ["One two.", "Zwei Wörter, drei!", "第三 「文書」", 'quoted "text", with\nlines']
LABELS = ["a", "b", "a", None]
ROWS = [
    {"text": text, "second": f"B of {n}", "y": label} for n, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True))
]


def jsonl() -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS)


def text() -> bytes:
    return "\n\n".join(TEXTS).encode()


def zst(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(data)
    return sink.getvalue().to_pybytes()


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink, row_group_size=2, write_page_checksum=True)
    return sink.getvalue()


def csv() -> bytes:
    sink = io.BytesIO()
    pyarrow.csv.write_csv(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


def tar(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def text_tar() -> bytes:
    files = {}
    for number, row in enumerate(ROWS):
        files[f"shard/{number:03}.json"] = json.dumps(row).encode()
    return tar(files)


def picture(size: tuple[int, int] = (9, 7), mode: str = "RGB", kind: str = "PNG", **options: object) -> bytes:
    n_bytes = len(Image.new(mode, size).tobytes())
    sink = io.BytesIO()
    Image.frombytes(mode, size, bytes(i * 37 % 256 for i in range(n_bytes))).save(sink, kind, **options)
    return sink.getvalue()


def image_tar() -> bytes:
    files = {}
    for n in range(3):
        files |= {f"{n:03}.png": picture((9 + n, 7)), f"{n:03}.cls": b"%d\n" % n}
    return tar(files)


#: file name -> how it is made; the texts are TEXTS in all but plain text, where they are one document.
FORMATS: dict[str, Callable[[], bytes]] = {
    "a.txt": text,
    "a.txt.gz": lambda: gzip.compress(text(), mtime=0),
    "a.txt.zst": lambda: zst(text()),
    "a.jsonl": jsonl,
    "a.jsonl.gz": lambda: gzip.compress(jsonl(), mtime=0),
    "a.jsonl.zst": lambda: zst(jsonl()),
    "a.parquet": parquet,
    "a.csv": csv,
    "a.tar": text_tar,
    "a.tar.gz": lambda: gzip.compress(text_tar(), mtime=0),
    "a.tgz": lambda: gzip.compress(text_tar(), mtime=0),
    "images.tar": image_tar,
    "a.png": picture,
    "a.jpg": lambda: picture(kind="JPEG"),
}


def written(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(FORMATS[name]())
    return path


def first_ids(feed: TextWindows, reply: Connection) -> None:
    """What a spawned process finds in the first window. Here, because such a process imports this file."""
    reply.send((feed.tokens([0])["id"].tolist(), feed.documents[0].digest))
