"""From shards on disk to tables: needs the run folder and nothing else, no model and no corpus.

Shards are folded in the order of their numbers, in fp64, so the tables have the same bits whoever made the shards,
in whatever order, after however many kills. A merge that is not the last writes into a folder of its own, to which
the manifest then points: a reader sees one merge or the next, never a mixture.
"""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from attnengine import disk, store
from attnengine.errors import PlanError, RunFormatError
from attnengine.opened import open_run
from attnengine.records import Site, head_name
from attnengine.run import failures, sampling, shards, types
from attnengine.run.choice import narrowed, renumbered, spread
from attnengine.run.describe import share_of
from attnengine.run.planned import Planned, planned
from attnengine.run.progress import Reporter
from attnengine.run.sampling import Sample
from attnengine.run.shards import About
from attnengine.statistics import tables
from attnengine.statistics.accumulate import SiteSums
from attnengine.statistics.examples import examples_table
from attnengine.statistics.key_tokens import key_tokens_table
from attnengine_kernels.sums import profile_edges


def merge(run: Path, reporter: Reporter, *, partial: bool = False, allow_missing: bool = False) -> None:
    """Write the tables of every shard that is there; complete if that is all, or with ``allow_missing``.

    ``partial``: the run goes on; its tables so far are written. Otherwise PlanError if shards failed or are missing.
    """
    store.read_manifest(run)  # says what is wrong with a folder that is no run, before a lock is put there
    plan = planned(run)
    with disk.locked(run):
        done = plan.done()
        if _is_merged(run, plan, len(done)):
            reporter.say(f"{run} is already complete")
            return
        _refuse(plan, done, partial=partial, allow_missing=allow_missing)
        whole = len(done) == len(plan.shards)
        _Merge(plan, done, last=whole or not partial).write(reporter)


def _is_merged(run: Path, plan: Planned, done: int) -> bool:
    opened = open_run(run)
    complete = opened.manifest["status"] == "complete" and opened.manifest.get("plan") == plan.digest
    return complete and opened.coverage["shards"] == done and not opened.verify()


def _refuse(plan: Planned, done: Sequence[int], *, partial: bool, allow_missing: bool) -> None:
    if not done:
        raise PlanError(f"no shard of {plan.run} is finished yet, so there is nothing to merge")
    if len(done) == len(plan.shards) or partial or allow_missing:
        return
    failed = plan.failed()
    told = f"{len(plan.shards) - len(done)} of {len(plan.shards)} shards of {plan.run} are missing"
    if failed:
        shard, attempts = next(iter(failed.items()))
        path = failures.failed_path(plan.run, shard)
        told = f"{told}, {len(failed)} of them failed (the first: {attempts[-1]['error']}; {path} tells more)"
    raise PlanError(
        f"{told}; go on with `attnengine run … --resume` (delete .failed files to try those shards again), or finish "
        f"without them: `attnengine merge {plan.run} --allow-missing`"
    )


class _Merge:
    """One merge: the sums of the shards that are there, and where their tables go."""

    def __init__(self, plan: Planned, done: Sequence[int], *, last: bool) -> None:
        self.plan, self.done, self.last = plan, done, last
        self.started = time.perf_counter()
        self.sums, self.sample = [SiteSums(pilot) for pilot in plan.pilots], Sample()
        self.sites = narrowed(plan.sites, plan.chosen)
        self.about: dict[int, About] = {}
        key = plan.key
        for shard in done:
            self._fold(shard, key)

    def _fold(self, shard: int, key: str) -> None:
        path = shards.shard_path(self.plan.run, shard)
        tensors, self.about[shard] = shards.read_tensors(path, key)
        try:
            n_groups = self.plan.manifest["corpus"]["groups"]
            for mine, other in zip(self.sums, shards.unpack_sums(tensors, self.plan.pilots, n_groups), strict=True):
                mine.merge(other)
            _collect(self.sample, tensors, len(self.plan.tokens))
        except (KeyError, IndexError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise RunFormatError(f"{path} does not fit the run ({error}); delete it and resume") from error

    def write(self, reporter: Reporter) -> None:
        """Tables, arrays, and last of all the manifest that lists them."""
        run = self.plan.run
        before = store.read_manifest(run)
        folder = "" if self.last else f"{store.SO_FAR}/{_next(run)}"
        if self.last and before["status"] == "complete":  # its tables are about to change under the old manifest
            store.write_manifest(run, self.plan.manifest)
        try:
            heads = self._write_tables(run / folder)
        except KeyError as error:
            raise RunFormatError(f"the files in {run}/shards hold no sums of {error}; make the run again") from error
        self._write_sample(run / folder)
        store.write_table(run / folder, "shards", self._shards_frame())
        stats = str(self.plan.manifest["settings"]["stats"])
        derived = types.write_tables(self.plan, folder, self.sums, stats, reporter)
        manifest = self._manifest(run, folder, heads, reporter) | {"derived": derived}
        store.write_manifest(run, manifest)
        _clear(run, keep=(folder, str(before.get("tables", ""))) if not self.last else ())
        if len(self.done) == len(self.plan.shards):  # nobody writes shards any more
            disk.remove_temporaries(run)

    def _write_tables(self, where: Path) -> pd.DataFrame:
        stats, chosen = str(self.plan.manifest["settings"]["stats"]), self.plan.chosen
        sites, sums = self.sites, [self.sums[site.site] for site in self.sites]
        made = {
            "heads": tables.heads_table(sites, sums, stats),
            "neurons": tables.neurons_table(sites, sums, stats),
        }
        if stats == "all":
            edges = profile_edges(self.plan.manifest["corpus"]["longest_window"])
            made["profiles"] = tables.profiles_table(sites, sums, edges)
            made["key_tokens"] = key_tokens_table(sites, [one.tokens for one in sums], self.plan.vocabulary)
            patterns = spread(tables.patterns_array(sites, sums), self.plan.sites, chosen)
            store.write_array(where, Path("patterns.npy"), patterns)
        made = {name: renumbered(table, chosen) for name, table in made.items()}
        for name, table in made.items():
            store.write_table(where, name, table)
        return made["heads"]

    def _write_sample(self, where: Path) -> None:
        """The sampled tokens that were seen, the arrays of every site in the same order, and examples from them."""
        fp32 = self.plan.manifest["model"]["dtype"] == "float32"
        rows = torch.cat(self.sample.rows) if self.sample.rows else torch.empty(0, dtype=torch.int64)
        order = torch.argsort(rows)
        tokens = self.plan.tokens.iloc[rows[order].numpy()].reset_index(drop=True)
        tokens = tokens.assign(token=range(len(tokens)))
        store.write_table(where, "tokens", tokens)
        values: dict[int, dict[str, np.ndarray]] = {}
        for site in self.plan.sites:
            pieces = self.sample.pieces[site.site]
            arrays = {name: torch.cat(parts)[order].numpy() for name, parts in pieces.items()}
            of_rows = [name for name in arrays if name.startswith(sampling.ROW)]
            values[site.site] = {name.removeprefix(sampling.ROW): arrays.pop(name) for name in of_rows}
            for name, array in arrays.items():
                kept = sampling.stored_dtype(array, source_fp32=fp32)
                store.write_array(where, store.array_path(site.site, name), kept)
        examples = examples_table(self.sites, values, tokens)
        store.write_table(where, "examples", renumbered(examples, self.plan.chosen))

    def _shards_frame(self) -> pd.DataFrame:
        """The plan's shards with what became of them."""
        frame, failed = self.plan.shards.copy(), self.plan.failed()
        given_up, none = set(self.plan.given_up()), About(seconds=float("nan"), attempts=0)
        about = [self.about.get(shard, none) for shard in range(len(frame))]
        tried = [len(failed.get(shard, ())) for shard in range(len(frame))]
        frame["status"] = [
            "done" if shard in self.about else "failed" if shard in given_up else "missing"
            for shard in range(len(frame))
        ]
        frame["attempts"] = [max(one.attempts, n) for one, n in zip(about, tried, strict=True)]
        frame["seconds"] = [one.seconds for one in about]
        frame["resplit"] = [one.resplit for one in about]
        return frame.astype({"attempts": "int32", "seconds": "float64", "resplit": "bool"})

    def _manifest(self, run: Path, folder: str, heads: pd.DataFrame, reporter: Reporter) -> dict[str, Any]:
        """The manifest as the run began, with what this merge found; warnings are said aloud, too."""
        bad = bad_heads(heads)
        coverage = self._coverage()
        told = [*self._warnings(coverage), *bad_heads_warning(self.plan.sites, bad, len(heads))]
        for warning in told:
            reporter.warn(warning)
        files = store.list_files(run, folder)
        return self.plan.manifest | {
            "status": "complete" if self.last else "running",
            "tables": folder,
            "coverage": coverage,
            "resplit": [shard for shard, about in self.about.items() if about.resplit],
            "nan_heads": [[int(site), int(head)] for site, head in zip(bad["site"], bad["head"], strict=True)],
            "warnings": [*self.plan.manifest["warnings"], *told],
            "timings": {
                "shard_seconds": round(sum(about.seconds for about in self.about.values()), 3),
                "merge_seconds": round(time.perf_counter() - self.started, 3),
            },
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "files": files,
            "run_hash": store.hash_files(files),
        }

    def _coverage(self) -> dict[str, int]:
        planned, done = self.plan.shards, self.plan.shards.iloc[self.done]
        held = {"shards": len(done), "windows": int(done.n_windows.sum()), "tokens": int(done.n_tokens.sum())}
        whole = {"shards": len(planned), "windows": int(planned.n_windows.sum())}
        whole["tokens"] = int(planned.n_tokens.sum())
        return held | {f"{name}_planned": value for name, value in whole.items()}

    def _warnings(self, coverage: dict[str, int]) -> list[str]:
        told = []
        if coverage["shards"] < coverage["shards_planned"]:
            told.append(f"the tables hold {share_of(coverage)}")
        resplit = [shard for shard, about in self.about.items() if about.resplit]
        if resplit:
            told.append(
                f"memory ran out in {len(resplit)} shards (the first: {resplit[0]}), whose batches ran in pieces: "
                "another run may differ in the last bits"
            )
        return told


def _collect(sample: Sample, tensors: dict[str, torch.Tensor], n_tokens: int) -> None:
    """Add the sampled vectors of one shard file; ValueError if they are not of rows of ``tokens``."""
    if "sample.rows" not in tensors:
        return
    rows = tensors["sample.rows"]
    lengths = {len(value) for name, value in tensors.items() if name.startswith("sample.")}
    if lengths != {len(rows)} or not bool(((rows >= 0) & (rows < n_tokens)).all()):
        raise ValueError("its sample is not of rows of the table tokens")
    sample.rows.append(rows)
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "sample" and rest != "rows":
            site, _, array = rest.partition(".")
            sample.pieces[int(site)][array].append(value)


def _next(run: Path) -> int:
    """A number for a merge's folder that is not in use."""
    folder = run / store.SO_FAR
    used = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
    return max(used, default=0) + 1


def _clear(run: Path, keep: Sequence[str]) -> None:
    """Remove earlier merges but those in ``keep``: who opened the last one may still read from it."""
    folder = run / store.SO_FAR
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.relative_to(run).as_posix() not in keep:
            shutil.rmtree(path)
    if folder.is_dir() and not keep:
        folder.rmdir()


def bad_heads(heads: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``heads`` whose numbers are not finite: they stay NaN in the tables, and the run says so."""
    telling = [name for name in ("entropy", "score_mean", "key_norm") if name in heads]
    return heads[(heads.n_queries > 0) & ~heads[telling].notna().all(axis=1)]


def bad_heads_warning(sites: list[Site], bad: pd.DataFrame, n_heads: int) -> list[str]:
    """One line that names the first of them, if there are any."""
    if not len(bad):
        return []
    first = bad.iloc[0]
    where = head_name(sites[int(first["site"])], int(first["head"]))
    told = f"{len(bad)} of {n_heads} heads have values that are not finite, the first is {where}; their cells are empty"
    return [f"{told}. Check the model's weights from there on"]
