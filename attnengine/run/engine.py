"""The loop: plan → batches through the model → kernel sums → shards → merged tables.

The model computes its own output with its own attention; every attention call passes through our function, which
hands q, k and v to the kernels while they are alive. Nothing of size L×L outlives a tile.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attnengine import store
from attnengine.corpus.plan import Plan
from attnengine.corpus.windows import Feed, WindowBatch
from attnengine.errors import CaptureError, UnsupportedModelError
from attnengine.model.capture import Capture
from attnengine.model.load import LoadedModel
from attnengine.records import Site, head_name
from attnengine.run import provenance, sampling, shards, types
from attnengine.run.progress import Reporter
from attnengine.run.sampling import Sample
from attnengine.statistics import tables
from attnengine.statistics.accumulate import Pilot, SiteSums
from attnengine_kernels import AttentionCall, Memory, TokenFacts, head_sums
from attnengine_kernels.sums import profile_edges

MASS_DEFECT_GATE = 1e-3  # above it, statistics and model used different masks (KERNELS.md section 4)


@dataclass(frozen=True)
class Job:
    """Everything a run needs once it is planned."""

    loaded: LoadedModel
    sites: list[Site]
    feed: Feed
    plan: Plan
    device: str
    stats: str = "all"

    @property
    def max_length(self) -> int:
        """Tokens of the longest window: fixes the offset bins for the whole run."""
        return int(self.feed.n_tokens.max())


def streams_of(site: Site, batch: WindowBatch) -> tuple[TokenFacts, TokenFacts]:
    """Token facts of a site's queries and keys: cross-attention asks from the decoder into the encoder."""
    if site.kind == "cross":
        return batch.streams["decoder"], batch.streams["encoder"]
    facts = batch.streams.get(site.stack) or next(iter(batch.streams.values()))
    return facts, facts


def site_sums(job: Job, site: Site, call: AttentionCall, batch: WindowBatch, memory: Memory) -> dict[str, torch.Tensor]:
    """Kernel sums of one attention call; UnsupportedModelError if it does not run over the window's tokens.

    ``memory`` keeps what depends on tokens and mask only, so that the layers of a forward share it.
    """
    queries, keys = streams_of(site, batch)
    seen = (call.query.shape[0], call.query.shape[2], call.key.shape[2])
    expected = (*queries.real.shape, keys.real.shape[1])
    if seen != expected:
        raise UnsupportedModelError(
            f"{site.name} ({site.module}) attends over (windows, queries, keys) = {seen}, the batch has {expected}; "
            "this model reshapes the sequence before attention, which attnengine cannot place in the text"
        )
    cross = site.kind == "cross"
    return head_sums(call, queries, keys, cross=cross, max_length=job.max_length, stats=job.stats, memory=memory)


def make_pilots(job: Job) -> list[Pilot]:
    """The centres of second moments: the means of up to four windows spread over the corpus; zeros for a core run."""
    if job.stats == "core":  # it has no second moments
        return [Pilot.zero(site.n_heads, site.d_qk) for site in job.sites]
    n = len(job.feed.n_tokens)
    batch = job.feed.batch(sorted({n * i // 4 for i in range(4)}), job.device)
    found: dict[int, Pilot] = {}
    memory = Memory()

    def on_call(site: Site, call: AttentionCall) -> None:
        found[site.site] = Pilot.of(site_sums(job, site, call, batch, memory))

    with Capture(job.loaded.model, job.sites) as capture:
        capture.forward(batch.inputs, on_call)
    return [found[site.site] for site in job.sites]


def run_shard(job: Job, shard: int, pilots: list[Pilot], advance: Callable[[int], None]) -> dict[str, torch.Tensor]:
    """All batches of a shard through the model: packed sums and samples, ready for the disk."""
    plan, sums, sample = job.plan, [SiteSums(pilot) for pilot in pilots], Sample()
    group_of = torch.from_numpy(plan.group).long()
    seen: list[int] = []
    with Capture(job.loaded.model, job.sites) as capture:
        for index in plan.shards[shard]:
            windows = plan.batches[index]
            run_batch(job, capture, windows, group_of[list(windows)], sums, sample)
            seen += windows
            advance(int(job.feed.n_tokens[list(windows)].sum()))
    groups = torch.unique(group_of[seen])
    return shards.pack_sums(sums, groups) | sample.tensors()


def run_batch(
    job: Job, capture: Capture, windows: tuple[int, ...], group: torch.Tensor, sums: list[SiteSums], sample: Sample
) -> None:
    """One batch through the model, its attention calls into ``sums`` and ``sample``."""
    batch = job.feed.batch(windows, job.device)
    rows, where = sampling.batch_sample(job.plan, windows)
    memory = Memory()

    def on_call(site: Site, call: AttentionCall) -> None:
        found = site_sums(job, site, call, batch, memory)
        check_mass(site, found)
        sums[site.site].add(found, group, job.plan.n_groups)
        if len(rows):
            sample.take(site.site, call, where)
            facts, length = streams_of(site, batch), job.max_length
            types.add_rows(sums[site.site], site, call, facts, where, group, job.plan.n_groups, length)

    capture.forward(batch.inputs, on_call)
    if len(rows):
        sample.rows.append(rows)


def check_mass(site: Site, sums: dict[str, torch.Tensor]) -> None:
    """CaptureError if a pattern does not sum to 1: the statistics and the model used different masks."""
    worst = sums["mass_defect_max"].nan_to_num(0.0).amax(0)  # (h,); NaN heads are reported as such, at the end
    if float(worst.max()) > MASS_DEFECT_GATE:
        head = int(worst.argmax())
        raise CaptureError(
            f"{head_name(site, head)}: attention sums to 1 ± {float(worst.max()):.2g}, more than {MASS_DEFECT_GATE:g}; "
            "statistics and model saw different masks. Please report the model; its numbers would be wrong"
        )


def execute(job: Job, run: Path, manifest: dict[str, Any], reporter: Reporter) -> None:
    """Run every shard that is not on disk yet, then write the tables and mark the run complete."""
    plan, started = job.plan, time.perf_counter()
    first = "measuring the centres of second moments" if job.stats == "all" else "starting"
    reporter.say(f"{first} (the first run of an installation compiles its CPU kernels)")
    pilots = kept_pilots(job, run)
    todo = [shard for shard in range(len(plan.shards)) if not shards.shard_path(run, shard).exists()]
    total = int(job.feed.n_tokens.sum())
    done = total - sum(shard_tokens(job, shard) for shard in todo)
    if done:
        reporter.say(f"resuming: {len(plan.shards) - len(todo)} of {len(plan.shards)} shards are already done")
    with reporter.track("running", total, "tokens", done) as bar:
        for shard in todo:
            packed = run_shard(job, shard, pilots, lambda n: bar.advance(bar.task_ids[0], n))
            shards.write_tensors(shards.shard_path(run, shard), packed, plan.digest)
    manifest["timings"]["forward_seconds"] = round(time.perf_counter() - started, 3)
    reporter.say("merging shards and writing tables")
    finish(job, run, manifest, pilots, reporter)


def shard_tokens(job: Job, shard: int) -> int:
    """Real tokens of a shard."""
    windows = [window for index in job.plan.shards[shard] for window in job.plan.batches[index]]
    return int(job.feed.n_tokens[windows].sum())


def kept_pilots(job: Job, run: Path) -> list[Pilot]:
    """The pilots of this plan: from disk if the run goes on, else made and kept."""
    path = run / "shards" / "pilot.safetensors"
    if not path.exists():
        shards.write_tensors(path, shards.pack_pilots(make_pilots(job)), job.plan.digest)
    return shards.unpack_pilots(shards.read_tensors(path, job.plan.digest))


def finish(job: Job, run: Path, manifest: dict[str, Any], pilots: list[Pilot], reporter: Reporter) -> None:
    """Fold the shards in order, write every table and array, and only then call the run complete."""
    started = time.perf_counter()
    sums, sample = [SiteSums(pilot) for pilot in pilots], Sample()
    for shard in range(len(job.plan.shards)):
        tensors = shards.read_tensors(shards.shard_path(run, shard), job.plan.digest)
        for mine, other in zip(sums, shards.unpack_sums(tensors, pilots, job.plan.n_groups), strict=True):
            mine.merge(other)
        collect_sample(sample, tensors)
    write_tables(job, run, sums, keep_text=manifest["settings"]["keep_text"])
    write_sample(job, run, sample)
    types.write_table(run, manifest, job.sites, sums, reporter)
    note_bad_heads(job.sites, run, manifest, reporter)
    manifest["timings"]["merge_seconds"] = round(time.perf_counter() - started, 3)
    manifest["finished"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    manifest["files"] = store.list_files(run)
    manifest["run_hash"] = store.hash_files(manifest["files"])
    manifest["status"] = "complete"
    store.write_manifest(run, manifest)


def collect_sample(sample: Sample, tensors: dict[str, torch.Tensor]) -> None:
    """Add the sampled vectors of one shard file."""
    if "sample.rows" not in tensors:
        return
    sample.rows.append(tensors["sample.rows"])
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "sample" and rest != "rows":
            site, _, array = rest.partition(".")
            sample.pieces[int(site)][array].append(value)


def write_tables(job: Job, run: Path, sums: list[SiteSums], *, keep_text: bool) -> None:
    """Every Parquet table and the mean patterns that the run's statistics fill."""
    store.write_table(run, "sites", provenance.sites_frame(job.sites))
    store.write_table(run, "heads", tables.heads_table(job.sites, sums, job.stats))
    store.write_table(run, "neurons", tables.neurons_table(job.sites, sums, job.stats))
    if job.stats == "all":
        store.write_table(run, "profiles", tables.profiles_table(job.sites, sums, profile_edges(job.max_length)))
        store.write_array(run, Path("patterns.npy"), tables.patterns_array(job.sites, sums))
    store.write_table(run, "windows", provenance.windows_frame(job.feed))
    store.write_table(run, "documents", provenance.documents_frame(job.feed))
    described = job.feed.describe(job.plan.sample_window, job.plan.sample_position, text=keep_text)
    store.write_table(run, "tokens", described)


def write_sample(job: Job, run: Path, sample: Sample) -> None:
    """The sampled arrays of every site, in the row order of ``tokens``."""
    fp32 = str(job.loaded.model.dtype) == "torch.float32"
    order = torch.argsort(torch.cat(sample.rows)) if sample.rows else None
    for site in job.sites:
        for name, parts in sample.pieces[site.site].items():
            array = torch.cat(parts)[order].numpy()
            store.write_array(run, store.array_path(site.site, name), sampling.stored_dtype(array, source_fp32=fp32))


def note_bad_heads(sites: list[Site], run: Path, manifest: dict[str, Any], reporter: Reporter) -> None:
    """Name the heads whose numbers are not finite: they stay NaN in the tables, and the run says so."""
    heads = store.read_table(run, "heads")
    telling = [name for name in ("entropy", "score_mean", "key_norm") if name in heads]
    bad = heads[(heads.n_queries > 0) & ~heads[telling].notna().all(axis=1)]
    manifest["nan_heads"] = [[int(site), int(head)] for site, head in zip(bad["site"], bad["head"], strict=True)]
    if len(bad):
        first = bad.iloc[0]
        where = head_name(sites[int(first["site"])], int(first["head"]))
        message = f"{len(bad)} of {len(heads)} heads have values that are not finite, the first is {where}"
        manifest["warnings"].append(message)
        reporter.warn(message + "; their cells are empty. Check the model's weights from there on")
