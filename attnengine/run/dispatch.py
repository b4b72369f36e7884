"""Shards to those who work on them, and what comes back to the disk: retries, poison, fatal errors.

One process, several, or a Ray cluster work alike: a crew takes shards and gives back shard files. Only this process
writes to the run folder, each file once, so a worker may be killed at any moment.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from attnengine import errors, store
from attnengine.run import failures, shards
from attnengine.run.engine import Job, run_shard
from attnengine.run.failures import ATTEMPTS, Failure
from attnengine.run.progress import Reporter
from attnengine.run.shards import About
from attnengine.statistics.accumulate import Pilot

HOPELESS = 3  # shards that failed before any worked: then it is not the data


@dataclass(frozen=True)
class Reply:
    """What became of one attempt at a shard: a shard file, a failure of this shard, or an error that ends the run."""

    shard: int
    data: bytes | None = None
    failure: Failure | None = None
    fatal: errors.AttnEngineError | None = None


class Crew(Protocol):
    """Those who work on shards."""

    def free(self) -> bool:
        """Whether someone waits for a shard."""
        ...

    def submit(self, shard: int, attempt: int) -> None:
        """Give out a shard; ``attempt`` counts from 1."""
        ...

    def busy(self) -> bool:
        """Whether a shard is being worked on."""
        ...

    def wait(self) -> Iterable[Reply]:
        """Wait until at least one shard is through."""
        ...


class Alone:
    """The crew of one process: this one."""

    def __init__(self, job: Job, pilots: list[Pilot], advance: Callable[[int], None]) -> None:
        self.job, self.pilots, self.advance = job, pilots, advance
        self.next: tuple[int, int] | None = None

    def free(self) -> bool:
        """Whether it has no shard."""
        return self.next is None

    def busy(self) -> bool:
        """Whether it has one."""
        return self.next is not None

    def submit(self, shard: int, attempt: int) -> None:
        """Remember the shard; :meth:`wait` does the work."""
        self.next = shard, attempt

    def wait(self) -> list[Reply]:
        """Work on the shard."""
        assert self.next is not None
        shard, attempt = self.next
        self.next = None
        return [attempt_at(self.job, shard, attempt, self.pilots, self.advance)]


def attempt_at(
    job: Job, shard: int, attempt: int, pilots: list[Pilot], advance: Callable[[int], None] = lambda _: None
) -> Reply:
    """Run a shard and catch what it raises.

    Errors of ours but CorpusError (an image that has gone bad) say that the model, the plan or the statistics are
    wrong, for every shard: they end the run. Anything else may be due to this shard's data.
    """
    started, told = time.perf_counter(), 0

    def count(tokens: int) -> None:
        nonlocal told
        told += tokens
        advance(tokens)

    try:
        tensors, resplit = run_shard(job, shard, pilots, count)
    except errors.AttnEngineError as error:
        if not isinstance(error, errors.CorpusError):
            return Reply(shard, fatal=plain(error))
        failure = Failure.of(error)
    except Exception as error:  # whatever a model raises on this data
        failure = Failure.of(error)
    else:
        about = About(round(time.perf_counter() - started, 3), attempt, resplit)
        return Reply(shard, data=shards.to_bytes(tensors, shards.key_of(job.plan.digest, pilots), about))
    advance(-told)
    return Reply(shard, failure=failure)


def plain(error: errors.AttnEngineError) -> errors.AttnEngineError:
    """The error as one of :mod:`attnengine.errors`, made of its message alone, so that it travels between processes."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    made: errors.AttnEngineError = kind(str(error))
    return made


def work_off(crew: Crew, todo: Sequence[int], run: Path, plan: str, n_shards: int, reporter: Reporter) -> None:
    """Have every shard of ``todo`` done, or given up after ATTEMPTS attempts, told in its ``.failed`` file.

    Raises what ends the run; PlanError if the first shards all fail, which no data explains.
    """
    queue, worked, fell = deque(todo), 0, set()
    while queue or crew.busy():
        while queue and crew.free():
            shard = queue.popleft()
            crew.submit(shard, len(failures.attempts(run, shard, plan)) + 1)
        for reply in crew.wait():
            if reply.fatal is not None:
                raise reply.fatal
            if reply.data is not None:
                store.write_atomic(shards.shard_path(run, reply.shard), reply.data)
                failures.forget(run, reply.shard)
                worked += 1
                continue
            assert reply.failure is not None
            fell.add(reply.shard)
            tries = failures.record(run, reply.shard, plan, reply.failure)
            _say(run, reply, tries, reporter)
            if not worked and len(fell) >= min(HOPELESS, n_shards):
                raise errors.PlanError(
                    f"{len(fell)} shards failed and none worked, so it is not their data: {reply.failure.error}; "
                    f"{failures.failed_path(run, reply.shard)} has the traceback"
                )
            if tries < ATTEMPTS:
                queue.append(reply.shard)


def _say(run: Path, reply: Reply, tries: int, reporter: Reporter) -> None:
    assert reply.failure is not None
    what = "it is given up" if tries >= ATTEMPTS else "it will be tried again"
    where = failures.failed_path(run, reply.shard)
    reporter.warn(f"shard {reply.shard} failed, attempt {tries} of {ATTEMPTS}: {reply.failure.error}; {what} ({where})")
