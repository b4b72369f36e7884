"""What the statistics cost: a whole model forward with every column of the contract, against the same forward plain.

    attnengine bench run [--lengths 128,512] [--repeats 15]

Everything is measured in one process, interleaved (plain, ours, rivals, plain, ours, …), and reported as a ratio of
medians to the plain SDPA forward of the same batch, with the ratio of two plain series as the noise band. Rivals:

    eager                what `output_attentions=True` costs before any statistic is computed
    eager + 3 statistics entropy, largest weight and mean distance of the returned patterns, in plain torch

Memory is measured in a process of its own for each length, on a causal model of random weights with room for it:
peak resident memory of one captured window beyond that of the plain forward. If it grew with L², doubling L would
multiply it by four.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModel, AutoTokenizer, GPT2Config, GPT2Model

from attnengine.bundled import bundled_documents, bundled_model
from attnengine.corpus.plan import make_plan
from attnengine.corpus.sources import documents_of
from attnengine.corpus.tokenise import tokenise
from attnengine.corpus.windows import SpecialTokens, TextWindows
from attnengine.model.capture import Capture, find_sites
from attnengine.model.load import wrap_model
from attnengine.run.engine import Job, make_pilots, run_batch
from attnengine.run.sampling import Sample
from attnengine.statistics.accumulate import SiteSums

TOKENS = 4096  # padded tokens a batch, the engine's default
TARGETS = {128: 1.7, 512: 2.1}
RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, write the result file."""
    parser = argparse.ArgumentParser(prog="attnengine bench run", description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", default="128,512", help="window lengths, comma separated")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--memory", default="512,1024,2048,4096", help="lengths for peak memory; empty: none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="result file [benchmarks/results/run-<machine>-<date>.json]")
    parser.add_argument("--measure-memory", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()  # the bundled checkpoint has a pooler that is not loaded
    transformers.utils.logging.disable_progress_bar()
    if options.measure_memory:
        print(json.dumps(peak_memory(options.measure_memory)))
        return
    rows = [time_length(int(length), options.repeats) for length in options.lengths.split(",")]
    print_times(rows)
    memory = [memory_of(int(length)) for length in options.memory.split(",") if length]
    print_memory(memory)
    result = {"what": "cost of every statistic", "times": rows, "memory": memory} | environment(options.threads)
    name = f"run-{platform.machine()}-{datetime.date.today():%Y-%m-%d}.json"
    path = options.output or RESULTS / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwritten: {path}")


def time_length(length: int, repeats: int) -> dict[str, Any]:
    """Medians of interleaved forwards of MiniLM on real text at one window length."""
    job, windows = minilm_job(length)
    inputs = job.feed.batch(windows, "cpu").inputs
    pilots = make_pilots(job)
    group = torch.from_numpy(job.plan.group).long()[list(windows)]
    eager = AutoModel.from_pretrained(bundled_model(), attn_implementation="eager", add_pooling_layer=False).eval()
    plain_model = AutoModel.from_pretrained(bundled_model(), attn_implementation="sdpa", add_pooling_layer=False).eval()

    def plain() -> None:
        with torch.inference_mode():
            plain_model(**inputs)

    def ours() -> None:
        sums = [SiteSums(pilot) for pilot in pilots]
        with Capture(job.loaded.model, job.sites) as capture:
            run_batch(job, capture, windows, group, sums, Sample())

    def rival() -> None:
        with torch.inference_mode():
            eager(**inputs, output_attentions=True)

    def rival_statistics() -> None:
        with torch.inference_mode():
            three_statistics(eager(**inputs, output_attentions=True).attentions, inputs["attention_mask"])

    times = interleave({"plain": plain, "plain again": plain, "ours": ours, "eager": rival,
                        "eager + 3 statistics": rival_statistics}, repeats)  # fmt: skip
    base = statistics.median(times["plain"])
    return {
        "length": length,
        "windows": len(windows),
        "tokens": int(inputs["attention_mask"].sum()),
        "plain_ms": round(1000 * base, 2),
        "ratio": {name: round(statistics.median(series) / base, 3) for name, series in times.items()},
        "quartiles": {
            name: [round(q / base, 3) for q in statistics.quantiles(series, n=4)] for name, series in times.items()
        },
        "target": TARGETS.get(length),
    }


def minilm_job(length: int) -> tuple[Job, tuple[int, ...]]:
    """MiniLM over Python's documentation in full windows of ``length``, and the windows of one full batch."""
    model = AutoModel.from_pretrained(bundled_model(), attn_implementation="sdpa", add_pooling_layer=False)
    tokenizer = AutoTokenizer.from_pretrained(bundled_model())
    loaded = wrap_model(model, tokenizer)
    documents = documents_of([text for _, text in bundled_documents()])
    feed = TextWindows(documents, tokenise(documents, tokenizer), SpecialTokens.of(tokenizer), length=length,
                       model_inputs=frozenset({"input_ids", "attention_mask", "token_type_ids"}))  # fmt: skip
    plan = make_plan(feed, batch_tokens=TOKENS, shard_tokens=10**9, sample=0, seed=0, identity={})
    sites = find_sites(loaded.model, feed.batch(plan.batches[-1][:2], "cpu").inputs)
    return Job(loaded, sites, feed, plan, "cpu"), plan.batches[0]


def three_statistics(patterns: tuple[torch.Tensor, ...], mask: torch.Tensor) -> None:
    """Entropy, largest weight and mean distance a head, as one writes them with the returned patterns."""
    position = torch.arange(mask.shape[1])
    distance = (position[:, None] - position[None, :]).abs().float()
    rows = mask[:, None, :].float()
    for pattern in patterns:  # (b, h, l, l)
        entropy = torch.special.entr(pattern).sum(-1)
        largest = pattern.amax(-1)
        far = (pattern * distance).sum(-1)
        for row in (entropy, largest, far):
            ((row * rows).sum((0, 2)) / rows.sum()).tolist()


def interleave(parts: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each part, one after the other, ``repeats`` times after two rounds of warming up."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for round_ in range(repeats + 2):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            if round_ >= 2:
                times[name].append(time.perf_counter() - start)
    return times


def memory_of(length: int) -> dict[str, Any]:
    """Peak memory at one length, measured in a fresh process."""
    command = [sys.executable, __file__, "--measure-memory", str(length)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | python_path())
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def python_path() -> dict[str, str]:
    """The same import path for a child, in a checkout that is not installed."""
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def peak_memory(length: int) -> dict[str, Any]:
    """Peak resident MB of one window of ``length``: plain, then captured with every statistic."""
    config = GPT2Config(n_layer=2, n_head=4, n_embd=128, n_positions=length, vocab_size=512)
    model = GPT2Model(config).eval()
    model.set_attn_implementation("sdpa")
    tokenizer = AutoTokenizer.from_pretrained(bundled_model())
    loaded = wrap_model(model, tokenizer)
    ids = torch.arange(length).remainder(500)[None]
    documents = documents_of(["a " * length])
    stream = tokenise(documents, tokenizer)
    stream.ids[:] = ids[0].numpy()
    feed = TextWindows(documents, stream, SpecialTokens.of(tokenizer, "never"), length=length)
    sites = find_sites(loaded.model, {"input_ids": ids[:, :8], "attention_mask": torch.ones(1, 8, dtype=torch.long)})
    plan = make_plan(feed, batch_tokens=length, shard_tokens=length, sample=0, seed=0, identity={})
    job = Job(loaded, sites, feed, plan, "cpu")
    with torch.inference_mode():
        model(**feed.batch([0], "cpu").inputs)
    plain = peak_rss()
    sums = [SiteSums(pilot) for pilot in make_pilots(job)]
    with Capture(loaded.model, sites) as capture:
        run_batch(job, capture, (0,), torch.zeros(1, dtype=torch.long), sums, Sample())
    return {"length": length, "plain_peak_mb": round(plain), "beyond_plain_mb": round(peak_rss() - plain, 1)}


def peak_rss() -> float:
    """Peak resident memory of this process in MB (Linux).

    Not getrusage: its ru_maxrss survives exec, so that a child would report its parent's peak.
    """
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def environment(threads: int) -> dict[str, Any]:
    """What a result row must carry: machine, versions, commit, date."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False,
                            cwd=Path(__file__).parent).stdout.strip()  # fmt: skip
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit or "unknown",
        "machine": f"{processor()}, {os.cpu_count()} cores, {threads} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "transformers": transformers.__version__},
    }  # fmt: skip


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def print_times(rows: list[dict[str, Any]]) -> None:
    """The table of times."""
    print(f"{'L':>5} {'windows':>8} {'plain ms':>9} {'noise':>7} {'ours':>7} {'target':>7} {'eager':>7} {'eager+3':>8}")
    for row in rows:
        ratio = row["ratio"]
        print(
            f"{row['length']:>5} {row['windows']:>8} {row['plain_ms']:>9.1f} {ratio['plain again']:>6.2f}x "
            f"{ratio['ours']:>6.2f}x {'≤ ' + str(row['target']) if row['target'] else '-':>7} {ratio['eager']:>6.2f}x "
            f"{ratio['eager + 3 statistics']:>7.2f}x"
        )


def print_memory(rows: list[dict[str, Any]]) -> None:
    """The table of peak memory."""
    if rows:
        print(f"\n{'L':>5} {'plain peak MB':>14} {'beyond it MB':>13}")
    for row in rows:
        print(f"{row['length']:>5} {row['plain_peak_mb']:>14} {row['beyond_plain_mb']:>13}")


if __name__ == "__main__":
    main()
