"""A run that is still going: how far it is, how old the numbers on the page are, and tables of what is there.

Only looks at the folder: shards are done when their file is there. Tables change with a merge, which is another
process' work (`attnengine merge --partial`); a page asks for one, and is told when newer tables lie there.
"""

from __future__ import annotations

import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from attnengine.errors import RunFormatError
from attnengine.store import read_manifest, read_table
from attnengine_explorer.desk import Desk
from attnengine_explorer.jobs import JOBS, Ticket
from attnengine_explorer.run_data import RunData

#: How often a page looks at its run's folder.
LOOK_MS = 2_000


def look(run: RunData) -> dict[str, Any]:
    """What the page says: ``newer`` numbers are there, or the run is ``going`` and how far; empty if neither.

    ``at`` is when the numbers on the page were made, in seconds since 1970.
    """
    if run.outdated:
        return {"newer": True}
    if run.manifest["status"] != "running":
        return {}
    done, planned, tokens = how_far(run.path)
    merged = run.run.coverage
    return {
        "going": True, "shards": done, "shards_planned": planned, "tokens": tokens,
        "tokens_planned": merged["tokens_planned"], "merged_shards": merged["shards"],
        "merged_tokens": merged["tokens"], "at": 0 if run.stamp is None else run.stamp[0] / 1e9,
    }  # fmt: skip


def how_far(path: Path) -> tuple[int, int, int]:
    """Shards done, shards planned and tokens in those done; zeros for a folder without a plan."""
    plan = path / "shards" / "plan.parquet"
    try:
        tokens = _planned(path, plan.stat().st_mtime_ns)
    except (OSError, RunFormatError):
        return 0, 0, 0
    done = [n for shard, n in tokens.items() if (path / "shards" / f"shard-{shard:05d}.safetensors").exists()]
    return len(done), len(tokens), sum(done)


@lru_cache(maxsize=64)
def _planned(path: Path, _written: int) -> dict[int, int]:
    """Shard → tokens of a plan, read again when it was written again."""
    table = read_table(path / "shards", "plan")
    if not {"shard", "n_tokens"} <= set(table.columns):
        raise RunFormatError(f"{path}/shards/plan.parquet lacks the columns shard and n_tokens; make the run again")
    return {int(shard): int(n) for shard, n in zip(table["shard"], table["n_tokens"], strict=True)}


def waiting(path: Path) -> str:
    """How far a run is that has no tables yet, for the page that waits for them; empty if it is not going."""
    try:
        if read_manifest(path)["status"] != "running":
            return ""
    except RunFormatError:
        return ""
    done, planned, tokens = how_far(path)
    return f"{done} of {planned} shards are done, {tokens:,} tokens. This page looks again every five seconds."


class Watch:
    """Tells the room ``run`` of the script what :func:`look` found, whenever it changed."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._told: dict[str, Any] = {}
        self._merging: Ticket | None = None
        desk.document.add_periodic_callback(self.tick, LOOK_MS)

    def tick(self) -> None:
        """Look once."""
        found = look(self._desk.run)
        if found != self._told:
            self._told = found
            self._tell(found)

    def merge(self) -> None:
        """Have tables made of the shards that are there; the page learns of them like anybody."""
        if self._merging is None:
            path = self._desk.run.path
            self._tell(self._told | {"merging": True})
            self._merging = JOBS.start(
                self._desk.document, lambda ticket: merged(path, ticket), self._done, self._failed
            )

    def _done(self, problem: str) -> None:
        self._merging = None
        self._tell(look(self._desk.run) | ({"problem": problem} if problem else {}))

    def _failed(self, error: Exception) -> None:
        self._done(str(error))

    def _tell(self, found: dict[str, Any]) -> None:
        self._desk.say("run", found | ({"now": time.time()} if "at" in found else {}))


def merged(path: Path, ticket: Ticket) -> str:
    """Run `attnengine merge --partial` in a process of its own, which needs torch; empty, or its one-line error."""
    code = "import sys; from attnengine.cli import main; sys.argv[0] = 'attnengine'; main()"
    command = [sys.executable, "-c", code, "merge", str(path), "--partial", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            while process.poll() is None:
                ticket.reach("making tables of what is there", 0.0)
                time.sleep(0.1)
        except BaseException:
            process.terminate()
            raise
        assert process.stderr is not None
        lines = process.stderr.read().strip().splitlines()
    return "" if process.returncode == 0 else (lines[-1] if lines else f"the merge ended with {process.returncode}")
