"""Shards that failed: what was raised, on disk, so that every process knows how often a shard was tried.

``shards/shard-00003.failed`` is JSON: each attempt's error in one line, its traceback, host and time. A shard is given
up after :data:`ATTEMPTS`; deleting the file lets it be tried again.
"""

from __future__ import annotations

import datetime
import platform
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attnengine import disk
from attnengine.errors import RunFormatError

ATTEMPTS = 3


@dataclass(frozen=True)
class Failure:
    """One attempt at a shard that raised."""

    error: str  # one line
    traceback: str
    host: str
    at: str  # UTC, ISO 8601

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """What ``error`` was, here and now."""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return cls.now(text, "".join(traceback.format_exception(error)))

    @classmethod
    def now(cls, error: str, traceback: str = "") -> Failure:
        """A failure seen from outside, of a process that died."""
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls(error, traceback, platform.node(), at)


def failed_path(run: Path, shard: int) -> Path:
    """Where the failed attempts at a shard are told."""
    return run / "shards" / f"shard-{shard:05d}.failed"


def attempts(run: Path, shard: int, plan: str) -> list[dict[str, Any]]:
    """The failed attempts at a shard of this plan, oldest first; RunFormatError if the file is damaged."""
    path = failed_path(run, shard)
    try:
        told = disk.read_json(path)
    except FileNotFoundError:
        return []
    except RunFormatError as error:
        raise RunFormatError(f"{error}: or delete this file, and the shard is tried again") from error
    found = told.get("attempts")
    fits = isinstance(found, list) and all(isinstance(one, dict) and "error" in one for one in found)
    if told.get("plan") != plan or not fits:
        raise RunFormatError(f"{path} does not belong to this run; delete it and resume")
    return list(found or [])


def record(run: Path, shard: int, plan: str, failure: Failure) -> int:
    """Add a failed attempt; how many there are now."""
    told = [*attempts(run, shard, plan), asdict(failure)]
    disk.write_json(failed_path(run, shard), {"plan": plan, "shard": shard, "attempts": told})
    return len(told)


def forget(run: Path, shard: int) -> None:
    """A shard that worked after all has not failed."""
    failed_path(run, shard).unlink(missing_ok=True)
