"""Bytes kept outside memory: what a corpus says and its tokens, written once and read back by place."""

from __future__ import annotations

import errno
import multiprocessing.context
import os
import tempfile
import weakref
from multiprocessing.reduction import DupFd
from typing import IO, Any

from attnengine.errors import CorpusError

BUFFER = 1 << 20


class Spool:
    """An unnamed temporary file that only grows; the system deletes it with the process, however that ends.

    Reading is by position (``pread``), so that a thread may read while another does. Raises CorpusError if the disk
    for temporary files is full. Its pages are cached by the system as memory allows: memory does not grow with it.

    A process spawned here is given the open file itself; pickled for anywhere else, the content travels.
    """

    def __init__(self, file: IO[bytes] | None = None) -> None:
        self._file = file or tempfile.TemporaryFile(buffering=BUFFER, prefix="attnengine-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._written = self._flushed = os.fstat(self._file.fileno()).st_size

    def __len__(self) -> int:
        return self._written

    def append(self, data: bytes) -> int:
        """Write at the end; the position it begins at."""
        begin = self._written
        try:
            self._file.write(data)
        except OSError as error:
            raise _full(error) from error
        self._written += len(data)
        return begin

    def read(self, begin: int, size: int) -> bytes:
        """``size`` bytes from ``begin``."""
        if begin + size > self._flushed:
            self._flush()
        data = os.pread(self._file.fileno(), size, begin)
        while len(data) < size:  # a read of over 2 GB comes in pieces
            more = os.pread(self._file.fileno(), size - len(data), begin + len(data))
            if not more:
                raise CorpusError(f"the temporary file in {tempfile.gettempdir()} was cut while it was in use")
            data += more
        return data

    def __reduce__(self) -> tuple[Any, ...]:
        self._flush()
        if multiprocessing.context.get_spawning_popen() is not None:
            return _inherited, (DupFd(self._file.fileno()),)
        return _copied, (self.read(0, self._written),)

    def _flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            raise _full(error) from error
        self._flushed = self._written


def _inherited(file: Any) -> Spool:
    return Spool(os.fdopen(file.detach(), "rb"))


def _copied(content: bytes) -> Spool:
    spool = Spool()
    spool.append(content)
    return spool


def _full(error: OSError) -> Exception:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error
    return CorpusError(
        f"{error.strerror}: the tokenised corpus does not fit into {tempfile.gettempdir()}; "
        "make room there, or let the variable TMPDIR name a larger folder"
    )
