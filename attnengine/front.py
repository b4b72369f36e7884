"""What ``import attnengine as ae`` offers: ``ae.analyze`` for models in memory, and what ``attnengine run`` calls."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attnengine.corpus.documents import Corpus, Document
from attnengine.corpus.sources import documents_of
from attnengine.model.load import LoadedModel, wrap_model
from attnengine.run.engine import execute
from attnengine.run.prepare import choose_device, disk_estimate, make_job, open_folder, site_summary, time_estimate
from attnengine.run.progress import Reporter, duration
from attnengine.run.settings import RunSettings
from attnengine.store import Run, open_run


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
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Run | None:
    """Plan, run and finish, the one path for every way of starting a run; ``dry_run`` stops after the plan."""
    corpus_read = documents if isinstance(documents, Corpus) else Corpus(documents, source)
    job, manifest = make_job(loaded, corpus_read, settings, choose_device(device), reporter)
    manifest["corpus"]["source"] = source
    corpus = manifest["corpus"]
    reporter.say(
        f"{loaded.model_id}: {site_summary(job.sites)} · {corpus['documents']:,} documents, "
        f"{corpus['windows']:,} windows, {corpus['tokens']:,} tokens · {settings.stats} statistics"
    )
    if dry_run:
        reporter.say(
            f"{folder} would take about {disk_estimate(job) / 1e6:,.0f} MB and {duration(time_estimate(job))}; "
            "nothing was written"
        )
        return None
    if open_folder(folder, manifest, resume=resume, overwrite=overwrite):
        reporter.say(f"{folder} is already complete")
    else:
        execute(job, folder, manifest, reporter)
    return open_run(folder)
