"""Workers on a Ray cluster: actors that hold the model, shard numbers out, shard files back.

Only the driver writes to the run folder, so the nodes need no common disk beyond a model they can load. Ray neither
retries our errors nor restarts our actors: a worker that dies is replaced here, and its shard counts as failed once.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch

from attnengine.errors import AttnEngineError, PlanError
from attnengine.run.dispatch import Reply, attempt_at, plain
from attnengine.run.engine import Job
from attnengine.run.failures import Failure
from attnengine.run.workers import Orders


class OnRay:
    """A crew of ``n`` Ray actors; ``address`` "local" starts a cluster of this machine and stops it at the end."""

    def __init__(
        self, orders: Orders, n: int, address: str, advance: Callable[[int], None], n_tokens: Sequence[int]
    ) -> None:
        ray = _ray()
        self.advance, self.n_tokens = advance, n_tokens
        on_term = signal.getsignal(signal.SIGTERM)
        _connect(ray, address)
        signal.signal(signal.SIGTERM, on_term)  # Ray put its own there, which ends the process at once
        self.on_gpu = torch.device(orders.device).type == "cuda"
        self.cpus = _share_of(ray.cluster_resources(), n, self.on_gpu)
        self.orders = ray.put(orders)
        self.actor = ray.remote(max_restarts=0, max_task_retries=0)(Hand)
        self.hands = [self._start() for _ in range(n)]
        self.pending: dict[Any, tuple[int, int]] = {}  # reference -> (worker, shard)

    def __enter__(self) -> OnRay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _ray().shutdown()

    def _start(self) -> Any:
        made = self.actor.options(num_cpus=self.cpus, num_gpus=int(self.on_gpu))
        return made.remote(self.orders)

    def free(self) -> bool:
        """Whether a worker has no shard."""
        return len(self.pending) < len(self.hands)

    def busy(self) -> bool:
        """Whether a worker has one."""
        return bool(self.pending)

    def submit(self, shard: int, attempt: int) -> None:
        """Give a shard to a free worker."""
        taken = {k for k, _ in self.pending.values()}
        k = next(k for k in range(len(self.hands)) if k not in taken)
        self.pending[self.hands[k].work.remote(shard, attempt)] = k, shard

    def wait(self) -> list[Reply]:
        """Wait for a worker that is through or dead."""
        ray = _ray()
        (ready, *_), _ = ray.wait(list(self.pending), num_returns=1)
        k, shard = self.pending.pop(ready)
        try:
            reply: Reply = ray.get(ready)
        except ray.exceptions.RayActorError as error:
            self.hands[k] = self._start()
            told = " ".join(str(error).split())[:300]
            return [Reply(shard, failure=Failure.now(f"the Ray worker died: {told}"))]
        if reply.data is not None:
            self.advance(self.n_tokens[shard])
        return [reply]


class Hand:
    """A worker on the cluster: loads the model when it gets its first shard."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.job: Job | None = None

    def work(self, shard: int, attempt: int) -> Reply:
        """One attempt at a shard."""
        try:
            device = "cuda:0" if torch.device(self.orders.device).type == "cuda" else self.orders.device
            self.job = self.job or self.orders.job(device)  # Ray shows an actor only the GPU it was given
            return attempt_at(self.job, shard, attempt, self.orders.pilots())
        except AttnEngineError as error:  # the model does not load there
            return Reply(shard, fatal=plain(error))


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise PlanError("--ray needs Ray; install it with pip install 'attnengine[ray]'") from None
    return ray


def _connect(ray: Any, address: str) -> None:
    options = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address == "local":
            ray.init(address="local", include_dashboard=False, **options)
        else:
            ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise PlanError(f"no Ray cluster at {address!r} ({error}); start one with ray start, or use local") from error


def _share_of(resources: dict[str, float], n: int, on_gpu: bool) -> float:
    """CPUs that each of ``n`` actors asks for: one is left free, without which Ray can wait for ever.

    PlanError if there are fewer GPUs than workers.
    """
    gpus = int(resources.get("GPU", 0))
    if on_gpu and gpus < n:
        raise PlanError(f"the Ray cluster has {gpus} GPUs for {n} workers; ask for at most as many")
    spare = max(resources.get("CPU", 1.0) - 1, 0.5)
    return max(min(1.0, int(1000 * spare / n) / 1000), 0.001)
