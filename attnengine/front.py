"""What ``import attnengine as ae`` offers: ``ae.analyze`` for models in memory, and what ``attnengine run`` calls."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from attnengine.corpus.documents import Corpus, Document
from attnengine.corpus.sources import documents_of
from attnengine.errors import ModelError, PlanError
from attnengine.model.load import LoadedModel, wrap_model
from attnengine.opened import Run, open_run
from attnengine.run.engine import Job
from attnengine.run.execute import Crewing, execute
from attnengine.run.folder import adopted, begin
from attnengine.run.prepare import choose_device, disk_estimate, make_job, site_summary, time_estimate
from attnengine.run.progress import Reporter, duration
from attnengine.run.settings import RunSettings
from attnengine.run.threads import using_threads


def analyze(
    model: Any,
    tokenizer: Any,
    texts: Iterable[Any],
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    quiet: bool = True,
    **settings: Any,
) -> Run:
    """Run a model in memory over texts, pairs of texts or PIL images and return the finished run.

    model: a transformers PreTrainedModel, on the device it shall run on. tokenizer: its fast tokenizer, or image
    processor. texts: strings, pairs (A, B) of strings, or images, one document each. output: the run's folder; None
    makes a temporary one, which stays until you delete it. settings: fields of RunSettings (stats, window, seed,
    token_class={"digit": "[0-9]+"}, …).

    Raises ModelError and its kin for a model that cannot be captured, CorpusError for texts without tokens.
    """
    loaded = wrap_model(model, tokenizer)
    documents = documents_of(texts)
    folder = Path(output) if output is not None else Path(tempfile.mkdtemp(prefix="attnengine-run-"))
    run = run_documents(
        loaded,
        documents,
        folder,
        RunSettings(**settings),
        device=str(next(model.parameters()).device),
        source=f"{len(documents)} documents in memory",
        overwrite=overwrite,
        reporter=Reporter(quiet=quiet),
    )
    assert run is not None  # only a dry run gives none
    return run


def run_documents(
    loaded: LoadedModel,
    documents: Iterable[Document],
    folder: Path,
    settings: RunSettings,
    *,
    device: str,
    source: str,
    reporter: Reporter,
    crewing: Crewing | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Run | None:
    """Plan, run and finish, the one path for every way of starting a run; ``dry_run`` stops after the plan."""
    crewing, device = crewing or Crewing(), choose_device(device)
    documents = documents if isinstance(documents, Corpus) else Corpus(documents, source)
    if crewing.joins and overwrite:
        raise PlanError("--overwrite with --shards: each process would delete what the others made; delete the folder")
    chosen = _settled(folder, settings, device, crewing, overwrite)
    with using_threads(chosen.threads), _within_memory():
        job, manifest = _planned(loaded, documents, chosen, device, source, reporter)
        if dry_run:
            reporter.say(
                f"{folder} would take about {disk_estimate(job) / 1e6:,.0f} MB and {duration(time_estimate(job))}; "
                "nothing was written"
            )
            return None
        try:
            complete = begin(folder, job, manifest, resume=resume, overwrite=overwrite, join=crewing.joins)
        except PlanError:
            theirs = _settled(folder, settings, device, crewing, overwrite)
            if theirs == chosen:
                raise
        else:
            if complete:
                reporter.say(f"{folder} is already complete")
            else:
                execute(job, folder, crewing, reporter)
            return open_run(folder)
    # Another process began meanwhile and chose other sizes where we were free to choose: go on with its plan.
    return run_documents(
        loaded, documents, folder, theirs, device=device, source=source, reporter=reporter, crewing=crewing,
        resume=resume, overwrite=overwrite,
    )  # fmt: skip


@contextmanager
def _within_memory() -> Iterator[None]:
    """Planning needs room for one window; what runs out of memory later runs in pieces."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        told = f"not even one window fits into memory beside the model ({error})"
        raise ModelError(f"{told}; ask for a shorter --window") from error


def _settled(folder: Path, settings: RunSettings, device: str, crewing: Crewing, overwrite: bool) -> RunSettings:
    """The settings with what was left open as the run in the folder has it, and the CPU threads chosen."""
    settings = settings if overwrite else adopted(folder, settings)
    if settings.threads is not None or not device.startswith("cpu"):
        return settings
    here = crewing.workers if crewing.ray in (None, "local") else 1
    return replace(settings, threads=max(torch.get_num_threads() // max(here, 1), 1))


def _planned(
    loaded: LoadedModel, documents: Corpus, settings: RunSettings, device: str, source: str,
    reporter: Reporter,
) -> tuple[Job, dict[str, Any]]:  # fmt: skip
    job, manifest = make_job(loaded, documents, settings, device, reporter)
    manifest["corpus"]["source"] = source
    corpus = manifest["corpus"]
    reporter.say(
        f"{loaded.model_id}: {site_summary(job)} · {corpus['documents']:,} documents, "
        f"{corpus['windows']:,} windows, {corpus['tokens']:,} tokens · {settings.stats} statistics"
    )
    return job, manifest
