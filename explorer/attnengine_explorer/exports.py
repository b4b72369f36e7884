"""Files made for one download: a table as CSV or Parquet, offered under an address that works once and not for long.

The address is as hard to guess as a token, and still only who may see the page gets the file: the same rule is asked.
"""

from __future__ import annotations

import csv
import io
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tornado.web import HTTPError, RequestHandler

SECONDS = 60
#: Of all files that wait to be fetched.
MAX_BYTES = 256 * 2**20
FORMATS = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}


@dataclass(frozen=True)
class File:
    """A file to be fetched until ``end`` (time.monotonic)."""

    name: str
    content: bytes
    kind: str
    end: float


@dataclass
class Exports:
    """The files that wait, by their keys."""

    now: Callable[[], float] = time.monotonic
    waiting: dict[str, File] = field(default_factory=dict)

    def offer(self, name: str, content: bytes, kind: str) -> str:
        """Keep a file for :data:`SECONDS`; its path. ValueError if more waits than may."""
        self._forget()
        if sum(len(file.content) for file in self.waiting.values()) + len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES >> 20} MB wait to be downloaded; choose fewer rows, or wait")
        key = secrets.token_urlsafe(32)
        self.waiting[key] = File(name, content, kind, self.now() + SECONDS)
        return f"export/{key}/{quote(name)}"

    def take(self, key: str) -> File | None:
        """The file, once."""
        self._forget()
        return self.waiting.pop(key, None)

    def _forget(self) -> None:
        for key in [key for key, file in self.waiting.items() if file.end < self.now()]:
            del self.waiting[key]


class Download(RequestHandler):
    """``/export/KEY/NAME``: the file, to who may see the page."""

    def initialize(self, exports: Exports, may_look: Callable[[RequestHandler], bool]) -> None:
        """What tornado passes on."""
        self.exports = exports
        self.may_look = may_look

    def get(self, key: str) -> None:
        """Answer with the file; 403 to strangers, 404 where nothing waits."""
        if not self.may_look(self):
            raise HTTPError(403)
        file = self.exports.take(key)
        if file is None:
            raise HTTPError(404)
        self.set_header("Content-Type", file.kind)
        self.set_header("Content-Disposition", f"attachment; filename*=UTF-8''{quote(file.name)}")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")
        self.write(file.content)


def written(table: pd.DataFrame, form: str, caption: str) -> bytes:
    """A table as bytes; the caption is CSV's first line, after ``#``, and ``attnengine.caption`` in Parquet's metadata.

    Raises ValueError for another form.
    """
    if form == "csv":
        return _csv(table, caption)
    if form == "parquet":
        found = pa.Table.from_pandas(_utf8(table), preserve_index=False)
        metadata = {**(found.schema.metadata or {}), b"attnengine.caption": caption.encode("utf-8", "replace")}
        out = io.BytesIO()
        pq.write_table(found.replace_schema_metadata(metadata), out)
        return out.getvalue()
    raise ValueError(f"expected csv or parquet, got {form!r}")


def _csv(table: pd.DataFrame, caption: str) -> bytes:
    out = io.StringIO()
    out.write(f"# {' '.join(caption.split())}\n")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.columns)
    for row in table.itertuples(index=False, name=None):
        writer.writerow([_cell(value) for value in row])
    return out.getvalue().encode("utf-8", "replace")


def _cell(value: Any) -> Any:
    """A cell that a spreadsheet would run as a formula is text; what is missing is empty."""
    if isinstance(value, str):
        return "'" + value if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
    return "" if value is None or value is pd.NA or value != value else value


def _utf8(table: pd.DataFrame) -> pd.DataFrame:
    """Texts as Parquet can hold them: half a surrogate pair becomes a question mark."""
    texts = [name for name in table.columns if table[name].dtype == object or str(table[name].dtype).startswith("str")]
    clean = {name: [_whole(value) for value in table[name]] for name in texts}
    return table.assign(**clean)


def _whole(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def file_name(title: str, ending: str) -> str:
    """``L5H3-of-MiniLM.csv``: letters and digits, at most 80 of them."""
    letters = "".join(c if c.isalnum() and c.isascii() else " " for c in title)
    return "-".join(letters.split())[:80].strip("-") + f".{ending}"
