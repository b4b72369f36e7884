"""All heads of a run: each laid out by a worker process, written at once, and never twice."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from attnengine.embedding import stored
from attnengine.embedding.head import Picture, embed_head
from attnengine.embedding.order import Order, opened, read, start
from attnengine.embedding.settings import EXACT_LIMIT, EmbedSettings, head_seed
from attnengine.errors import EmbeddingError, RunFormatError
from attnengine.opened import Run, open_run
from attnengine.run.progress import Reporter


def embed_run(
    path: str | os.PathLike[str],
    settings: EmbedSettings | None = None,
    *,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    like: str | os.PathLike[str] | None = None,
    jobs: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> pd.DataFrame:
    """Embed the heads of a finished run and return table ``clouds``; heads that are there already are kept.

    layers, heads: only these, all by default. like: a run of the same model and sample whose embedding each picture
    starts from and is turned onto. jobs: worker processes, one a core by default; they change no bit.

    Raises RunFormatError for a run without a sample, EmbeddingError where another embedding is in the way or ``like``
    does not fit, ValueError for layers or heads that the run does not have. A head that cannot be embedded is no
    error: its row says why.
    """
    run, settings = open_run(path), settings or EmbedSettings()
    device = check_device(device, settings)
    if device != "cpu" and 2 * len(run.tokens) > EXACT_LIMIT:
        settings = replace(settings, search="exact")
    reporter = reporter or Reporter(quiet=True)
    check_sample(run)
    other = None if like is None else Path(like)
    if other is not None:
        settings = replace(settings, like=check_like(run, open_run(other)))
    wanted = select(run, layers, heads)
    digest = stored.open_folder(run.path, settings, str(run.manifest.get("run_hash")), overwrite=overwrite)
    order = Order(run.path, settings, digest, other)
    todo = [key for key in wanted if not is_done(order, *key)]
    if len(todo) < len(wanted):
        reporter.say(f"{len(wanted) - len(todo)} of {len(wanted)} heads are already embedded")
    with reporter.track("embedding", len(wanted), "heads", len(wanted) - len(todo)) as bar:
        for _ in run_all(order, todo, jobs or available_cores(), device):
            bar.advance(bar.task_ids[0])
    clouds = stored.write_tables(
        run, settings, digest, [row for row in head_rows(run) if is_done(order, row["site"], row["head"])]
    )
    report(clouds, reporter)
    return clouds


def check_device(device: str, settings: EmbedSettings) -> str:
    """The device to lay out on; ModelError where this machine lacks it, ValueError for a method that has none."""
    if device == "cpu":
        return device
    from attnengine.run.prepare import choose_device

    device = choose_device(device)
    if device != "cpu" and settings.method != "umap":
        raise ValueError(f"method {settings.method} runs on the CPU only; leave --device out")
    return device


def check_sample(run: Run) -> None:
    """RunFormatError if the run is not finished or keeps no sampled vectors."""
    if run.manifest["status"] != "complete":
        raise RunFormatError(f"{run.path} is not finished; `attnengine run … --resume` goes on with it")
    if not len(run.tokens) or not all((run.path / "arrays" / f"site-{s:03d}").is_dir() for s in set(run.heads.site)):
        raise RunFormatError(
            f"{run.path} keeps no sampled queries and keys; make the run again with --sample above 0 (5000 by default)"
        )


def check_like(run: Run, other: Run) -> str:
    """The hash of the other run's embedding; EmbeddingError if it is not one of the same heads and tokens."""
    _, digest = stored.read_settings(other.path)
    for table, columns in (("sites", ["site", "n_heads"]), ("tokens", ["document", "position", "token_id"])):
        mine, theirs = getattr(run, table)[columns], getattr(other, table)[columns]
        if not mine.equals(theirs):
            raise EmbeddingError(
                f"{run.path} and {other.path} differ in table {table}: a warm start needs the same heads and the same "
                "sampled tokens (same corpus, tokenizer, --sample and --seed)"
            )
    return digest


def head_rows(run: Run) -> list[dict[str, Any]]:
    """The keys of every head that the run looked at: site, head, layer, kind."""
    table = run.heads[["site", "head", "layer", "kind"]].sort_values(["site", "head"])
    return [
        {"site": int(site), "head": int(head), "layer": int(layer), "kind": str(kind)}
        for site, head, layer, kind in table.itertuples(index=False)
    ]


def select(run: Run, layers: Iterable[int] | None, heads: Iterable[int] | None) -> list[tuple[int, int]]:
    """(site, head) of the wanted layers and heads; ValueError names one that the run does not have."""
    rows = head_rows(run)
    for name, column, wanted in (("layer", "layer", layers), ("head", "head", heads)):
        if wanted is None:
            continue
        chosen, known = set(wanted), {row[column] for row in rows}
        if chosen - known:
            raise ValueError(f"this run has no {name} {min(chosen - known)}; it has {min(known)} to {max(known)}")
        rows = [row for row in rows if row[column] in chosen]
    return [(row["site"], row["head"]) for row in rows]


def is_done(order: Order, site: int, head: int) -> bool:
    """Whether a head's file is there, whole, and of these settings; a damaged one is made again."""
    path = stored.head_path(order.run, site, head)
    if not path.exists():
        return False
    try:
        stored.read_head(path, order.digest)
    except RunFormatError:
        return False
    return True


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(order: Order, todo: list[tuple[int, int]], jobs: int, device: str) -> Iterator[None]:
    """Embed every head of ``todo``, in this process, by workers that stay or on a GPU; yields as heads are finished."""
    if device != "cpu":
        from attnengine.embedding.batches import embed_on

        yield from embed_on(device, order, todo, jobs)
        return
    if jobs == 1 or len(todo) < 2:
        for site, head in todo:
            embed_one(order, site, head)
            yield
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config("loky", n_jobs=min(jobs, len(todo)), inner_max_num_threads=1), stopping_workers():
        results = Parallel(return_as="generator_unordered")(delayed(embed_one)(order, *key) for key in todo)
        yield from results


@contextmanager
def stopping_workers() -> Iterator[None]:
    """Where the work is interrupted, end the workers instead of waiting for the heads they are at."""
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True, kill_workers=True)
        raise


def embed_one(order: Order, site: int, head: int) -> None:
    """Lay one head out and write it, or the reason why it has no cloud."""
    from threadpoolctl import threadpool_limits

    seed = head_seed(order.settings.seed, site, head)
    with threadpool_limits(1):  # a product's last bits may depend on the threads that share it
        try:
            picture: Picture | str = embed_head(
                read(opened(order.run), site, head), order.settings, seed, start=start(order, site, head)
            )
        except EmbeddingError as problem:
            picture = str(problem)
    stored.write_head(stored.head_path(order.run, site, head), order.digest, picture)


def report(clouds: pd.DataFrame, reporter: Reporter) -> None:
    """Say what came out, and name the heads without a cloud."""
    missing = clouds[clouds.problem.notna()]
    made = len(clouds) - len(missing)
    if made:
        grey = int((clouds.grey & clouds.problem.isna()).sum())
        faithful = clouds.faithfulness_2d.median()
        reporter.say(
            f"{made} heads embedded · median faithfulness on screen {faithful:.2f} · {grey} too unfaithful to read"
        )
    biased = int((clouds.leaves_out_bias & clouds.problem.isna()).sum())
    if biased:
        reporter.say(
            f"{biased} heads add a score bias, which is in no vector: their faithfulness judges q·k without it"
        )
    for row in missing.head(5).itertuples():
        reporter.warn(f"no cloud of L{row.layer}H{row.head}: {row.problem}")
    if len(missing) > 5:
        reporter.warn(f"and {len(missing) - 5} more heads have none; table clouds says why")
