"""Files that are whole or not there: atomic writes, checksums, sealed JSON, and one writer at a time.

What lies in a run directory may come from a stranger or from a disk that lost bits, so whatever is read back was
sealed when it was written: tables and arrays by the SHA-256 in the manifest, the manifest by its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from attnengine.errors import PlanError, RunFormatError

LOCK = ".lock"
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp", re.DOTALL)  # names that write_atomic makes


def inside(run: Path, relative: str) -> Path:
    """``run / relative``, refused with RunFormatError if that leaves the folder."""
    path = (run / relative).resolve()
    if not path.is_relative_to(run.resolve()):
        raise RunFormatError(f"{run} names the file {relative!r} outside itself; do not trust this run")
    return path


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write under a temporary name, sync, rename, sync the folder: a reader sees the old file or the new one.

    The temporary name is random: containers on one shared disk have the same process numbers.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        commit(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Remove what writers that were killed left below ``folder``; nobody may be writing there."""
    for path in folder.rglob(".*.tmp"):
        if TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def commit(temporary: Path, path: Path) -> None:
    """Rename a synced temporary file into place and sync the folder that names it."""
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run's lock: those who begin, merge or replace the run do it one after the other.

    The operating system lets go of it when the process ends, however it ends. Raises PlanError where the file system
    has no locks.
    """
    import fcntl

    with (run / LOCK).open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise PlanError(
                f"{run} lies on a file system without file locks ({error.strerror}), on which two processes could "
                "mix their files; put the run on another one"
            ) from error
        yield


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object atomically with a checksum of itself; NaN is written as null, since JSON has no NaN."""
    plain = json_safe({name: item for name, item in value.items() if name != "checksum"})
    text = json.dumps(plain | {"checksum": _checksum(plain)}, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text.encode("utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """What :func:`write_json` wrote, the checksum left out.

    Raises FileNotFoundError, or RunFormatError naming the file if it is not such an object or was changed.
    """
    return unsealed(path, parse_json(path))


def parse_json(path: Path) -> dict[str, Any]:
    """The object in a file, checksum and all; errors as for :func:`read_json`."""
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise RunFormatError(f"{path} is not readable JSON ({error}); the run is damaged, make it again") from error
    if not isinstance(value, dict):
        raise RunFormatError(f"{path} holds no JSON object; the run is damaged, make it again")
    return value


def unsealed(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """``value`` without its checksum; RunFormatError if it does not match."""
    plain = {name: item for name, item in value.items() if name != "checksum"}
    if value.get("checksum") != _checksum(plain):
        raise RunFormatError(f"{path} does not match its own checksum; the run is damaged, make it again")
    return plain


def _checksum(value: dict[str, Any]) -> str:
    """SHA-256 of the object as compact JSON with sorted names; the same before and after a round trip."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def json_safe(value: Any) -> Any:
    """``value`` as JSON can hold it: NumPy scalars as Python's, NaN and infinities as None."""
    if isinstance(value, dict):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
