"""The folder a run goes into: made by whoever comes first, joined by who has the same plan, never taken from others.

The manifest is the first file, so that a full disk leaves an empty folder or a run; what else a run needs to go on is
made if it is not there, by the same plan with the same content.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from attnengine import disk, store
from attnengine.errors import PlanError, RunFormatError
from attnengine.opened import open_run
from attnengine.run import provenance, shards
from attnengine.run.engine import Job, make_pilots
from attnengine.run.settings import RunSettings

#: Settings that a user may leave to us: a run that goes on takes what it began with.
CHOSEN_FOR_YOU = ("batch_tokens", "threads")


def adopted(run: Path, settings: RunSettings) -> RunSettings:
    """``settings`` with what was left open as the run in the folder has it; as they are if there is none."""
    try:
        before = store.read_manifest(run).get("settings")
    except RunFormatError:
        return settings
    known = before if isinstance(before, dict) else {}
    left_open = [name for name in CHOSEN_FOR_YOU if getattr(settings, name) is None]
    return replace(settings, **{name: known[name] for name in left_open if isinstance(known.get(name), int)})


def begin(run: Path, job: Job, manifest: dict[str, Any], *, resume: bool, overwrite: bool, join: bool = False) -> bool:
    """Make the run's folder ready to work in; True if everything of this plan is done already.

    ``join`` goes on with a run of the same plan without being asked to, as one of many processes that start together.
    A folder with something else in it is never touched: PlanError says what to do.
    """
    _refuse_foreign(run)
    run.mkdir(parents=True, exist_ok=True)
    with disk.locked(run):
        if overwrite:
            _empty(run)
        existing = _existing(run)
        if existing is None:
            store.write_manifest(run, manifest)
            existing = manifest
        elif not resume and not join:
            raise PlanError(
                f"{run} already holds a {existing['status']} run; "
                "go on with it by --resume or replace it by --overwrite"
            )
        elif existing.get("plan") != manifest["plan"]:
            raise PlanError(f"{run} holds {_difference(existing, manifest)}; use --overwrite, or another folder")
        elif existing["status"] == "complete" and _is_whole(run):
            return True
        _write_plan(run, job, manifest)
    return False


def _refuse_foreign(run: Path) -> None:
    """PlanError if the path is a file, or a folder with something in it that is no run."""
    if run.exists() and not run.is_dir():
        raise PlanError(f"{run} is a file; give a folder for the run")
    if not run.is_dir() or not any(not path.name.startswith(".") for path in run.iterdir()):
        return
    try:
        ours = disk.parse_json(run / "manifest.json").get("format") == store.FORMAT
        reason = "its manifest.json is not ours"
    except FileNotFoundError:
        ours, reason = False, "no manifest.json"
    except RunFormatError as error:
        ours, reason = False, str(error)
    if not ours:
        raise PlanError(f"{run} exists and is not a run ({reason}); give an empty or a new folder")


def _existing(run: Path) -> dict[str, Any] | None:
    """The manifest of the run in the folder, None if it has none yet."""
    if not (run / "manifest.json").exists():
        return None
    try:
        return store.read_manifest(run)
    except RunFormatError as error:
        raise PlanError(f"{error}; or replace it by --overwrite") from error


def _is_whole(run: Path) -> bool:
    """Whether a complete run holds all its shards' numbers, undamaged; if not, it is merged again."""
    opened = open_run(run)
    return opened.coverage["shards"] == opened.coverage["shards_planned"] and not opened.verify()


def _empty(run: Path) -> None:
    for path in run.iterdir():
        if path.name == disk.LOCK:  # held by us, waited for by others
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write_plan(run: Path, job: Job, manifest: dict[str, Any]) -> None:
    """What working on the run and merging it need, where it is not there yet: ``shards/plan.json`` last."""
    text = bool(manifest["settings"]["keep_text"])
    start: dict[str, Callable[[], pd.DataFrame]] = {  # made only where they are not there yet
        "sites": lambda: provenance.sites_frame(job.sites),
        "windows": lambda: provenance.windows_frame(job.feed),
        "documents": lambda: provenance.documents_frame(job.feed),
        "shards/plan": lambda: provenance.shards_frame(job.feed, job.plan),
        "shards/vocabulary": lambda: provenance.vocabulary_frame(job.loaded.tokenizer),
        "shards/tokens": lambda: provenance.tokens_frame(job.feed, job.plan, text=text),
    }
    for name, make in start.items():
        if not (run / f"{name}.parquet").exists():
            store.write_table(run, name, make())
    pilot = run / "shards" / "pilot.safetensors"
    if not pilot.exists():
        shards.write_tensors(pilot, shards.pack_pilots(make_pilots(job)), job.plan.digest)
    plan = run / "shards" / "plan.json"
    if not plan.exists():
        files = [{"path": f"{name}.parquet", "sha256": disk.sha256_file(run / f"{name}.parquet")} for name in start]
        disk.write_json(plan, manifest | {"planned": files})


def _difference(existing: dict[str, Any], manifest: dict[str, Any]) -> str:
    """In words, what makes two plans different."""

    def identity(found: dict[str, Any]) -> dict[str, Any]:
        return {
            "model": found.get("model", {}).get("weights_sha256"),
            "corpus": found.get("corpus", {}).get("fingerprint"),
            "settings": found.get("settings"),
        }

    theirs, mine = identity(existing), identity(manifest)
    parts = [part for part in mine if theirs[part] != mine[part]]
    if "settings" in parts:
        before = theirs["settings"] or {}
        changed = [name for name, value in mine["settings"].items() if before.get(name) != value]
        parts[-1] = f"settings ({', '.join(changed)})"
    return f"a run with another {' and '.join(parts) or 'plan (other versions or device)'}"
