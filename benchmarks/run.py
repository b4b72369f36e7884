"""What the statistics cost end to end: a whole forward with every column of the contract, against the forward plain.

    attnengine bench run [--model minilm,gpt2-3-layers] [--length 128,512] [--repeats 15]

Everything is measured in one process, interleaved (plain, ours, rivals, plain, ours, …), and reported as a ratio of
medians to the plain SDPA forward of the same batch and as the share of plain tokens per second that is left; the ratio
of two plain series is the noise band. Rows:

    every column         what `attnengine run` does by default
    core                 `--stats core`
    eager                what `output_attentions=True` costs before any statistic is computed
    eager + 3 statistics entropy, largest weight and mean distance of the returned patterns, in plain torch

Memory is measured in a process of its own for each length, on a causal model of random weights with room for it:
peak memory of one captured window beyond that of the plain forward. If it grew with L², doubling L would multiply it
by four.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from attnengine.model.capture import Capture
from attnengine.run.engine import Job, make_pilots, run_batch
from attnengine.run.sampling import Sample
from attnengine.statistics.accumulate import SiteSums
from benchmarks import measure
from benchmarks.models import NAMES, job_of, load

EAGER_LIMIT = 2**33  # bytes of one layer's pattern in fp32, beyond which the eager rivals are left out


class Case(NamedTuple):
    """One model at one window length, with the issue's limits on the ratio of time."""

    model: str
    length: int
    every_column: float | None = None
    core: float | None = None


CPU_CASES = (
    Case("minilm", 128, 1.4, 1.2), Case("minilm", 512, 1.7, 1.3), Case("gpt2-3-layers", 1024, 1.6),
    Case("llama-small", 1024),
)  # fmt: skip
CUDA_CASES = (
    Case("gpt2-small", 1024, 1 / 0.70), Case("gpt2-small", 4096), Case("llama-3-8b", 1024, 1 / 0.93),
    Case("llama-3-8b", 4096, 1 / 0.85),
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the tables, write the result file."""
    parser = argparse.ArgumentParser(prog="attnengine bench run", description=__doc__.splitlines()[0])
    parser.add_argument("--model", help=f"of {', '.join(NAMES)}; comma separated [those of the device's table]")
    parser.add_argument("--length", "--lengths", help="window lengths, comma separated")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--memory", default="512,1024,2048,4096", help="lengths for peak memory; empty: none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, help="padded tokens a batch [4096; on CUDA 32768]")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="result file [benchmarks/results/run-<device>-<date>.json]")
    parser.add_argument("--measure-memory", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()  # the bundled checkpoint has a pooler that is not loaded
    transformers.utils.logging.disable_progress_bar()
    if options.measure_memory:
        print(json.dumps(peak_memory(options.measure_memory, options.device)))
        return 0
    cases = chosen(parser, options)
    result = measured(cases, options.device, options.repeats, options.tokens)
    result["memory"] = [memory_of(int(length), options.device) for length in options.memory.split(",") if length]
    print_memory(result["memory"])
    about = {"what": "cost of the statistics, end to end"} | measure.environment(options.device, options.threads)
    print(f"\nwritten: {measure.write('run', options.device, about | result, options.output)}")
    return 0


def chosen(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Case]:
    """The cases asked for; known ones keep their limits."""
    table = CUDA_CASES if options.device == "cuda" else CPU_CASES
    names = options.model.split(",") if options.model else list(dict.fromkeys(case.model for case in table))
    if unknown := set(names) - set(NAMES):
        parser.error(f"--model: expected some of {', '.join(NAMES)}, got {', '.join(sorted(unknown))}")
    known = {(case.model, case.length): case for case in CPU_CASES + CUDA_CASES}
    found = []
    for name in names:
        lengths = {case.length for case in table if case.model == name} or {512}
        if options.length:
            if not all(part.isdigit() and int(part) > 1 for part in options.length.split(",")):
                parser.error(f"--length: expected numbers above 1, comma separated, got {options.length}")
            lengths = {int(part) for part in options.length.split(",")}
        found += [known.get((name, length), Case(name, length)) for length in sorted(lengths)]
    return found


def measured(cases: list[Case], device: str, repeats: int, tokens: int | None = None) -> dict[str, Any]:
    """One row a case, printed as it comes."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    tokens = tokens or (32768 if device == "cuda" else 4096)
    print(
        f"{'model':<14}{'L':>6}{'plain ms':>10}{'noise':>7}{'every column':>22}{'core':>22}{'eager':>8}{'eager+3':>9}"
    )
    rows = []
    for case in cases:
        rows.append(time_case(case, device, dtype, tokens, repeats))
        print_row(rows[-1])
        if device == "cuda":
            torch.cuda.empty_cache()
    return {"dtype": str(dtype).removeprefix("torch."), "times": rows}


def time_case(case: Case, device: str, dtype: torch.dtype, tokens: int, repeats: int) -> dict[str, Any]:
    """Medians of interleaved forwards at one window length."""
    job, windows = job_of(case.model, case.length, tokens, device, dtype)
    inputs = job.feed.batch(windows, device).inputs
    group = torch.from_numpy(job.plan.group).long()[list(windows)]
    plain_model = job.loaded.model

    def plain(_: int) -> None:
        with torch.inference_mode():
            plain_model(**inputs, use_cache=False)

    def ours(job: Job) -> Callable[[int], None]:
        pilots = make_pilots(job)

        def run(_: int) -> None:
            sums = [SiteSums(pilot) for pilot in pilots]
            with Capture(job.loaded.model, job.sites) as capture:
                run_batch(job, capture, windows, group, sums, Sample())

        return run

    parts = {"plain": plain, "plain again": plain, "every column": ours(job), "core": ours(replace(job, stats="core"))}
    heads = max(site.n_heads for site in job.sites)
    if 4 * len(windows) * heads * case.length**2 * len(job.sites) < EAGER_LIMIT:
        eager = load(case.model, "eager", case.length, device, dtype)

        def rival(_: int) -> Any:
            with torch.inference_mode():
                return eager(**inputs, output_attentions=True, use_cache=False)

        parts["eager"] = rival
        parts["eager + 3 statistics"] = lambda n: three_statistics(rival(n).attentions, inputs["attention_mask"])
    times = measure.interleave(parts, repeats, device)
    ms = measure.medians(times)
    base = ms["plain"]
    n_tokens = int(inputs["attention_mask"].sum())
    return {
        "model": case.model,
        "length": case.length,
        "windows": len(windows),
        "tokens": n_tokens,
        "plain_ms": round(base, 2),
        "plain_tokens_per_second": round(1000 * n_tokens / base),
        "ratio": {name: round(value / base, 3) for name, value in ms.items()},
        "tokens_per_second_share": {name: round(base / value, 3) for name, value in ms.items()},
        "quartiles": {name: measure.quartiles(series, base) for name, series in times.items()},
        "limits": {"every column": case.every_column, "core": case.core},
    }


def three_statistics(patterns: tuple[torch.Tensor, ...], mask: torch.Tensor) -> None:
    """Entropy, largest weight and mean distance a head, as one writes them with the returned patterns."""
    position = torch.arange(mask.shape[1], device=mask.device)
    distance = (position[:, None] - position[None, :]).abs().float()
    rows = mask[:, None, :].float()
    for pattern in patterns:  # (b, h, l, l)
        found = pattern.float()
        entropy = torch.special.entr(found).sum(-1)
        largest = found.amax(-1)
        far = (found * distance).sum(-1)
        for row in (entropy, largest, far):
            ((row * rows).sum((0, 2)) / rows.sum()).tolist()


def memory_of(length: int, device: str) -> dict[str, Any]:
    """Peak memory at one length, measured in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.run", "--measure-memory", str(length), "--device", device]
    path = {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | path)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_memory(length: int, device: str) -> dict[str, Any]:
    """Peak MB of one window of ``length``: plain, then captured with every statistic."""
    from benchmarks import models

    models.SHAPES["probe"] = lambda n: transformers.GPT2Model(
        transformers.GPT2Config(n_layer=2, n_head=4, n_embd=128, n_positions=n, vocab_size=models.VOCABULARY)
    )
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    job, _ = job_of("probe", length, length, device, dtype)
    with torch.inference_mode():
        job.loaded.model(**job.feed.batch([0], device).inputs, use_cache=False)
    plain = measure.peak_so_far_mb(device)
    sums = [SiteSums(pilot) for pilot in make_pilots(job)]
    with Capture(job.loaded.model, job.sites) as capture:
        run_batch(job, capture, (0,), torch.zeros(1, dtype=torch.long), sums, Sample())
    beyond = measure.peak_so_far_mb(device) - plain
    return {"length": length, "plain_peak_mb": round(plain), "beyond_plain_mb": round(beyond, 1)}


def print_row(row: dict[str, Any]) -> None:
    """One line of the table."""
    ratio, limits = row["ratio"], row["limits"]

    def cell(name: str) -> str:
        limit = f"(≤ {limits[name]:.2f})" if limits[name] else ""
        return f"{ratio[name]:.2f}x {limit} {row['tokens_per_second_share'][name]:.2f}"

    rivals = [f"{ratio[name]:.2f}x" if name in ratio else "–" for name in ("eager", "eager + 3 statistics")]
    print(
        f"{row['model']:<14}{row['length']:>6}{row['plain_ms']:>10.1f}{ratio['plain again']:>6.2f}x"
        f"{cell('every column'):>22}{cell('core'):>22}{rivals[0]:>8}{rivals[1]:>9}",
        flush=True,
    )


def print_memory(rows: list[dict[str, Any]]) -> None:
    """The table of peak memory."""
    if rows:
        print(f"\n{'L':>5} {'plain peak MB':>14} {'beyond it MB':>13}")
    for row in rows:
        print(f"{row['length']:>5} {row['plain_peak_mb']:>14} {row['beyond_plain_mb']:>13}")


if __name__ == "__main__":
    sys.exit(main())
