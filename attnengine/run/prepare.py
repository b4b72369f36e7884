"""From a loaded model and documents to a job: windows, sites, self-check, plan."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import time
from dataclasses import replace
from importlib import metadata
from typing import Any

import torch

from attnengine import store
from attnengine.corpus.documents import Corpus
from attnengine.corpus.images import ImageWindows, patch_grid
from attnengine.corpus.plan import make_plan
from attnengine.corpus.token_classes import TokenClasses
from attnengine.corpus.tokenise import tokenise
from attnengine.corpus.windows import Feed, SpecialTokens, TextWindows, window_length
from attnengine.errors import ModelError, PlanError, UnsupportedModelError
from attnengine.model.capture import Capture, find_sites, inexact_reason
from attnengine.model.load import LoadedModel
from attnengine.model.self_check import self_check
from attnengine.run.batch_size import batch_tokens_for
from attnengine.run.choice import choose
from attnengine.run.engine import Job, make_pilots, run_batch
from attnengine.run.progress import Reporter
from attnengine.run.sampling import Sample
from attnengine.run.settings import RunSettings
from attnengine.statistics.accumulate import SiteSums
from attnengine.statistics.own import OWN
from attnengine_kernels import path_for

CHECK_TOKENS = 64  # length of the self-check's batch: eager attention is the one thing here that is L×L
VERSIONED = ("attnengine", "torch", "transformers", "tokenizers", "triton", "numba", "numpy", "pandas", "pyarrow")


def make_job(
    loaded: LoadedModel, documents: Corpus, settings: RunSettings, device: str, reporter: Reporter
) -> tuple[Job, dict[str, Any]]:
    """Everything decided before the first real forward, and the manifest that says so.

    Raises PlanError, UnsupportedModelError or CaptureError if the run cannot be trusted or made.
    """
    feed = make_feed(loaded, documents, settings, device, reporter)
    check = check_inputs(loaded, feed, device)
    reporter.say("finding attention sites and checking capture against the model itself")
    sites = find_sites(loaded.model, check)
    chosen = choose(sites, settings.layers, settings.heads)
    checked = self_check(loaded.model, sites, check)
    if settings.batch_tokens is None:
        settings = replace(settings, batch_tokens=batch_tokens_for(loaded, sites, feed, device, settings.stats))
    assert settings.batch_tokens is not None
    identity = {
        "model": loaded.weights_sha256,
        "sites": [vars(site) for site in sites],
        "settings": settings.as_dict(),
        "device": torch.device(device).type,
        "dtype": str(loaded.model.dtype),
        "own": [one.as_dict() for one in OWN.values()],
    }
    plan = make_plan(
        feed,
        batch_tokens=settings.batch_tokens,
        shard_tokens=settings.shard_tokens,
        sample=settings.sample,
        sample_by=settings.sample_by,
        seed=settings.seed,
        identity=identity,
    )
    job = Job(loaded, sites, feed, plan, device, chosen, settings.stats)
    return job, first_manifest(job, settings, checked.as_dict())


def make_feed(loaded: LoadedModel, documents: Corpus, settings: RunSettings, device: str, reporter: Reporter) -> Feed:
    """Windows over the documents, of the kind the model reads; reads the corpus as far as ``max_tokens`` asks."""
    if documents.is_image != (loaded.modality == "image"):
        raise PlanError(f"the corpus is {documents.kind}, but {loaded.class_name} reads {loaded.modality}")
    if documents.is_image:
        return image_feed(loaded, documents, settings, device)
    tokenizer = loaded.tokenizer
    length = window_length(settings.window, loaded.max_positions)
    special = SpecialTokens.of(tokenizer, settings.bos, pair=documents.kind == "pairs")
    with reporter.track("tokenising", None, "documents") as bar:
        stream = tokenise(
            documents,
            tokenizer,
            classes=TokenClasses(settings.token_class),
            max_tokens=settings.max_tokens,
            longest=length - special.count if documents.kind == "pairs" else None,
            on_progress=lambda done: bar.update(bar.task_ids[0], completed=done),
        )
    return TextWindows(
        documents,
        stream,
        special,
        length=length,
        stride=settings.stride,
        decoder_start=loaded.decoder_start_token_id if loaded.is_encoder_decoder else None,
        pad_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
        model_inputs=loaded.tokenizer_inputs,
        max_tokens=settings.max_tokens,
    )


def image_feed(loaded: LoadedModel, documents: Corpus, settings: RunSettings, device: str) -> ImageWindows:
    """Windows of patches; how many tokens an image is, the model itself is asked."""
    probe = ImageWindows(documents, loaded.tokenizer, grid=(1, 1), prefix=0)
    pixels = probe.pixels([0], device)
    seen: list[int] = []
    find_sites(loaded.model, {"pixel_values": pixels}, lambda _site, call: seen.append(call.query.shape[2]))
    try:
        grid, prefix = patch_grid(loaded.model.config, (pixels.shape[-2], pixels.shape[-1]), seen[0])
    except ValueError as error:
        raise UnsupportedModelError(f"{loaded.class_name}: {error}") from error
    if settings.max_tokens is not None:
        images = -(-settings.max_tokens // (prefix + grid[0] * grid[1]))
        documents = documents.read(images)[:images]
    return ImageWindows(documents.read(), loaded.tokenizer, grid=grid, prefix=prefix)


def check_inputs(loaded: LoadedModel, feed: Feed, device: str) -> dict[str, torch.Tensor]:
    """A small batch for the dry forward and the self-check: two windows, the second padded."""
    longest = sorted(range(len(feed.n_tokens)), key=lambda window: -int(feed.n_tokens[window]))[:2]
    inputs = feed.batch(longest, device).inputs
    if loaded.modality == "image":
        return inputs
    inputs = {name: value[:, :CHECK_TOKENS].clone() for name, value in inputs.items()}
    if len(longest) == 1:
        inputs = {name: value.expand(2, -1).clone() for name, value in inputs.items()}
    width = inputs["input_ids"].shape[1]
    for name in ("attention_mask", "decoder_attention_mask"):
        if name in inputs and width > 1:
            inputs[name][1, width - max(width // 4, 1) :] = 0
    return inputs


def first_manifest(job: Job, settings: RunSettings, checked: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a run that begins: what it is, what it is made from, what is already known."""
    loaded, feed = job.loaded, job.feed
    reason = inexact_reason(loaded.model)
    fingerprint = hashlib.sha256(b"".join(document.digest for document in feed.documents)).hexdigest()
    return {
        "format": store.FORMAT,
        "format_version": store.FORMAT_VERSION,
        "status": "running",
        "attnengine_version": metadata.version("attnengine") if _installed("attnengine") else "source tree",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "plan": job.plan.digest,
        "model": describe_model(loaded),
        "corpus": {
            "documents": len(feed.documents),
            "windows": len(feed.n_tokens),
            "tokens": int(feed.n_tokens.sum()),
            "longest_window": job.max_length,
            "groups": job.plan.n_groups,
            "fingerprint": fingerprint,
            "left_out": feed.left_out,
        },
        "sample": {
            "tokens": job.plan.n_samples,
            "by": settings.sample_by,
            "in_estimates": int(job.plan.sample_plain.sum()),
        },
        "settings": settings.as_dict(),
        "chosen_heads": [list(heads) for heads in job.chosen],
        "own_statistics": [one.as_dict() for one in OWN.values()],
        "kernels": path_for(torch.device(job.device).type, loaded.model.dtype),
        "self_check": checked,
        "output": "bit-identical to stock SDPA" if reason is None else reason,
        "versions": versions(),
        "device": {"name": device_name(job.device), "threads": torch.get_num_threads()},
        "warnings": [] if reason is None else [reason],
        "nan_heads": [],
        "timings": {},
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a number."""
    installed = {name: metadata.version(name) for name in VERSIONED if _installed(name)}
    return {"python": platform.python_version()} | installed


def describe_model(loaded: LoadedModel) -> dict[str, Any]:
    """What the manifest says of a model."""
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    known = loaded.as_dict()
    renamed = {"id": known.pop("model_id"), "class": known.pop("class_name")}
    return renamed | {"dtype": str(loaded.model.dtype).removeprefix("torch."), "n_parameters": parameters} | known


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def device_name(device: str) -> str:
    """The name of the hardware a run used."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(torch.device(device))
    return f"{device} ({platform.machine()}, {os.cpu_count()} cores)"


def choose_device(asked: str) -> str:
    """``auto`` means CUDA where there is one; ModelError for a device this machine lacks."""
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(asked).type
    except RuntimeError:
        raise ModelError(f"unknown device {asked!r}; expected cpu, cuda or cuda:N") from None
    if kind not in ("cpu", "cuda"):
        raise ModelError(f"device {asked!r} is not supported; expected cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError("device 'cuda' was asked for, but torch sees no CUDA device; use --device cpu")
    return asked


def site_summary(job: Job) -> str:
    """``6 attention sites, 72 heads``; ``2 of 72 heads`` where not all are looked at."""
    every, looked_at = sum(site.n_heads for site in job.sites), sum(map(len, job.chosen))
    return f"{len(job.sites)} attention sites, {'' if looked_at == every else f'{looked_at} of '}{every} heads"


def disk_estimate(job: Job) -> int:
    """Bytes the finished run will take, from above: the sample in fp32, and the grouped sums kept in its shards."""
    bytes_total = 0
    for site, heads in zip(job.sites, job.chosen, strict=True):
        vectors = site.n_heads * site.d_qk + site.n_kv_heads * (site.d_qk + site.d_v)
        bytes_total += bool(heads) * 2 * 4 * job.plan.n_samples * (vectors + site.n_heads * (1 + 2 * 16))
        per_head = 10 * site.d_qk + 60 + 300 if job.stats == "all" else 2 * site.d_qk + 40
        sums = len(heads) * per_head
        bytes_total += 8 * sums * min(job.plan.n_groups, len(job.feed.n_tokens)) * min(len(job.plan.shards), 4)
    return bytes_total


def time_estimate(job: Job) -> float:
    """Seconds the run will take, from one full batch through model and statistics, after one to warm up."""
    windows = job.plan.batches[0]
    pilots = make_pilots(job)
    group = torch.from_numpy(job.plan.group).long()[list(windows)]
    with Capture(job.loaded.model, job.sites) as capture:
        for _ in range(2):
            started = time.perf_counter()
            run_batch(job, capture, windows, group, [SiteSums(pilot) for pilot in pilots], Sample())
    seconds = time.perf_counter() - started
    return seconds * float(job.feed.n_tokens.sum()) / float(job.feed.n_tokens[list(windows)].sum())
