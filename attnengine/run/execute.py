"""Working a planned run off: which shards are this process's, who works on them, and the merge at the end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from attnengine.errors import PlanError
from attnengine.model.load import LoadedModel
from attnengine.run.describe import on_disk, share_of
from attnengine.run.dispatch import Alone, Crew, work_off
from attnengine.run.engine import Job
from attnengine.run.merge import merge
from attnengine.run.planned import Planned, planned
from attnengine.run.progress import Reporter


@dataclass(frozen=True)
class Crewing:
    """Who works on a run: this process by default."""

    workers: int = 0  # processes, on this machine or on Ray; 0: this one
    ray: str | None = None  # address of a Ray cluster, or "local"
    share: tuple[int, int] = (0, 1)  # (i, n): only the shards whose number leaves i when divided by n
    load: Callable[..., LoadedModel] | None = None  # load(device=…): how a worker loads the model

    @property
    def joins(self) -> bool:
        """Whether others may work on the same run at the same time."""
        return self.share[1] > 1


def parse_share(text: str) -> tuple[int, int]:
    """``i/n`` as two numbers, i from 0 to n - 1; ValueError otherwise."""
    i, slash, n = text.partition("/")
    if not slash or not i.isdecimal() or not n.isdecimal() or not 0 <= int(i) < int(n):
        raise ValueError(
            f"--shards must be i/n with i from 0 to n - 1, such as $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT "
            f"with --array=0-9; got {text!r}"
        )
    return int(i), int(n)


def execute(job: Job, run: Path, crewing: Crewing, reporter: Reporter) -> None:
    """Run every shard of this process's share that is not on disk yet; the last process merges."""
    plan = planned(run)
    done, given_up = set(plan.done()), set(plan.given_up())
    i, n = crewing.share
    mine = range(i, len(plan.shards), n)
    todo = [shard for shard in mine if shard not in done | given_up]
    tokens = plan.shards.n_tokens
    if done:
        reporter.say(f"resuming: {len(done)} of {len(plan.shards)} shards are already done")
    if todo:
        first = "the first run of an installation compiles its CPU kernels"
        reporter.say(f"running {len(todo)} shards ({first})")
    total, before = int(tokens[list(mine)].sum()), int(tokens[[shard for shard in mine if shard not in todo]].sum())
    with ExitStack() as stack:
        bar = stack.enter_context(reporter.track("running", total, "tokens", before))
        crew = _crew(job, plan, crewing, lambda n: bar.advance(bar.task_ids[0], n), stack, len(todo))
        work_off(crew, todo, run, plan.digest, len(plan.shards), reporter)
    _end(run, plan, crewing, reporter)


def _crew(
    job: Job, plan: Planned, crewing: Crewing, advance: Callable[[int], None], stack: ExitStack, todo: int
) -> Crew:
    if not crewing.workers or not todo:
        return Alone(job, plan.pilots, advance)
    if crewing.load is None:
        raise PlanError("a model in memory cannot be given to workers; save it to a folder and run that")
    from attnengine.run.workers import Orders, Processes

    orders = Orders.of(job, plan, crewing.load)
    workers = min(crewing.workers, todo)
    if crewing.ray is None:
        return stack.enter_context(Processes(orders, workers, advance))
    from attnengine.run.ray_cluster import OnRay

    return stack.enter_context(OnRay(orders, workers, crewing.ray, advance, plan.shards.n_tokens.tolist()))


def _end(run: Path, plan: Planned, crewing: Crewing, reporter: Reporter) -> None:
    """Merge if nothing is left to do; else others are still at it."""
    if not plan.settled() and crewing.joins:
        done = share_of(on_disk(run, {}))
        reporter.say(f"this share is done; {done} are on disk, and who comes last merges them")
        return
    reporter.say("merging shards and writing tables")
    merge(run, reporter)
