"""Worker processes on this machine: each loads the model once and runs the shards it is given.

Processes are spawned, not forked (CUDA and OpenMP do not survive a fork), and give shard files back through a pipe: a
worker never writes to the run folder. One that dies is replaced, and its shard counts as failed once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

import torch
from safetensors.torch import load, save

from attnengine.corpus.plan import Plan
from attnengine.corpus.windows import Feed
from attnengine.errors import AttnEngineError, PlanError
from attnengine.model.load import LoadedModel
from attnengine.records import Site
from attnengine.run.choice import Chosen
from attnengine.run.dispatch import Reply, attempt_at, plain
from attnengine.run.engine import Job
from attnengine.run.failures import Failure
from attnengine.run.planned import Planned
from attnengine.run.shards import pack_pilots, unpack_pilots
from attnengine.statistics.accumulate import Pilot
from attnengine.statistics.own import OWN


@dataclass(frozen=True)
class Orders:
    """What a process needs to work on shards of a run; it can be pickled."""

    load: Callable[..., LoadedModel]  # load(device=…)
    weights_sha256: str
    sites: list[Site]
    feed: Feed
    plan: Plan
    device: str
    chosen: Chosen
    stats: str
    packed_pilots: bytes
    threads: int

    @classmethod
    def of(cls, job: Job, plan: Planned, load_model: Callable[..., LoadedModel]) -> Orders:
        """The orders for a job of this process; CPU threads are part of the plan.

        PlanError if it has statistics of one's own, whose functions other processes do not know.
        """
        if OWN:
            raise PlanError(f"statistics of your own ({', '.join(OWN)}) run in this process only; use no --workers")
        pilots = save(pack_pilots(plan.pilots))
        threads = torch.get_num_threads()
        known = job.loaded.weights_sha256
        return cls(load_model, known, job.sites, job.feed, job.plan, job.device, job.chosen, job.stats, pilots, threads)

    def job(self, device: str) -> Job:
        """The job in a worker; PlanError if its model has other weights."""
        torch.set_num_threads(self.threads)
        loaded = self.load(device=device)
        if loaded.weights_sha256 != self.weights_sha256:
            raise PlanError(f"a worker found other weights for {loaded.model_id} than the plan was made with")
        return Job(loaded, self.sites, self.feed, self.plan, device, self.chosen, self.stats)

    def pilots(self) -> list[Pilot]:
        """The plan's centres of second moments."""
        return unpack_pilots(load(self.packed_pilots))

    def device_of(self, worker: int) -> str:
        """One worker per GPU, in turn."""
        if torch.device(self.device).type != "cuda":
            return self.device
        return f"cuda:{worker % torch.cuda.device_count()}"


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    device: str
    shard: int | None = None


class Processes:
    """A crew of ``n`` processes; ``with Processes(orders, n, advance) as crew`` ends them whatever happens."""

    def __init__(self, orders: Orders, n: int, advance: Callable[[int], None]) -> None:
        self.orders, self.advance = orders, advance
        self.context = multiprocessing.get_context("spawn")
        self.workers = [self._start(orders.device_of(k)) for k in range(n)]

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join()
            worker.pipe.close()

    def _start(self, device: str) -> _Worker:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(self.orders, device, theirs), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, device)

    def free(self) -> bool:
        """Whether a worker has no shard."""
        return any(worker.shard is None for worker in self.workers)

    def busy(self) -> bool:
        """Whether a worker has one."""
        return any(worker.shard is not None for worker in self.workers)

    def submit(self, shard: int, attempt: int) -> None:
        """Give a shard to a free worker."""
        worker = next(worker for worker in self.workers if worker.shard is None)
        worker.shard = shard
        try:
            worker.pipe.send((shard, attempt))
        except OSError:  # it died while it waited; wait() will notice
            return

    def wait(self) -> list[Reply]:
        """Wait for workers that are through or dead, advancing the progress meanwhile."""
        replies: list[Reply] = []
        while not replies:
            ready = wait([worker.pipe for worker in self.workers if worker.shard is not None])
            for k, worker in enumerate(self.workers):
                if worker.pipe in ready:
                    replies += self._hear(k, worker)
        return replies

    def _hear(self, k: int, worker: _Worker) -> list[Reply]:
        assert worker.shard is not None
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            worker.pipe.close()
            self.workers[k] = self._start(worker.device)
            return [Reply(worker.shard, failure=Failure.now(_death(worker.process.exitcode)))]
        if isinstance(message, int):
            self.advance(message)
            return []
        worker.shard = None
        return [message]


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return f"the worker process was ended by signal {-code} (9 may mean that memory ran out)"
    return f"the worker process ended with exit code {code}"


def _serve(orders: Orders, device: str, pipe: Connection) -> None:
    """A worker's life: load the model, then shard after shard until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow, args=(multiprocessing.parent_process(),), daemon=True).start()
    job: Job | None = None
    while True:
        try:
            shard, attempt = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            job = job or orders.job(device)
            reply = attempt_at(job, shard, attempt, orders.pilots(), pipe.send)
        except AttnEngineError as error:  # the model does not load here
            reply = Reply(shard, fatal=plain(error))
        pipe.send(reply)


def _follow(parent: Any) -> None:
    """End this process when its parent has ended: nobody would take what it makes."""
    parent.join()
    os._exit(1)
