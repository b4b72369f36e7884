"""Everything that a GPU can show, in one command: `attnengine bench gpu`, or ``python -m benchmarks.gpu``.

In this order, each part written as soon as it is done, to ``benchmarks/results/gpu-<gpu>-<date>.json``, a plot beside
it:

    checks     every kernel against the fp64 reference (`benchmarks/verify.py`); nothing is timed if one fails
    sanitizer  the quick checks under compute-sanitizer (out-of-bounds and uninitialised reads, races), where present
    kernels    every pass and its rivals over L = 512 … 32768 (`benchmarks/kernels.py`)
    run        whole forwards of GPT-2 small and Llama-3-8B shapes with random weights (`benchmarks/run.py`)
    long       one sequence of 131,072 tokens: every column, time and peak memory, twice for its bits
    clouds     joint clouds of 144 × 20,000 and 1,024 × 50,000 points (`benchmarks/clouds.py`)

`--only checks,kernels` runs some of them, so that a machine lent for minutes can take them one call at a time; results
of the same day are added to the same file. Exit code 1 if a check fails, 2 without a CUDA device.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from attnengine_kernels import Memory, head_sums
from benchmarks import clouds, kernels, measure, run, verify
from benchmarks.calls import CUDA_SHAPES, Shape, make_call

PARTS = ("checks", "sanitizer", "kernels", "run", "long", "clouds")
TOOLS = ("memcheck", "racecheck", "initcheck")
LONG = Shape(1, 8, 2, 131072, 128)
QUICK_LONG = Shape(1, 2, 1, 16384, 128)


def checks(*, quick: bool) -> dict[str, Any]:
    """The gate."""
    return {"passed": verify.passed("cuda", quick=quick)}


def sanitizer(*, quick: bool) -> dict[str, Any]:
    """What compute-sanitizer says of the quick checks, tool by tool; absent tools and devices it refuses are named."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {"ran": False, "why": "compute-sanitizer is not on PATH"}
    found: dict[str, Any] = {"ran": True}
    for tool in TOOLS[: 1 if quick else None]:
        checked = [sys.executable, "-m", "benchmarks.verify", "--quick"]
        command = [program, "--tool", tool, "--error-exitcode", "9", *checked]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        text = done.stdout + done.stderr
        summary = [line for line in text.splitlines() if "ERROR SUMMARY" in line or "not supported" in line]
        found[tool] = {"exit": done.returncode, "summary": summary[-1:] or text.splitlines()[-3:]}
        print(f"compute-sanitizer {tool}: {found[tool]}")
    return found


def passes(*, quick: bool) -> dict[str, Any]:
    """Every pass and its rivals."""
    return kernels.measured("cuda", 5 if quick else 20, CUDA_SHAPES[: 1 if quick else None], quick=quick)


def forwards(*, quick: bool) -> dict[str, Any]:
    """Whole forwards."""
    cases = list(run.CUDA_CASES[: 1 if quick else None])
    return run.measured(cases, "cuda", 3 if quick else 7)


def long_sequence(*, quick: bool) -> dict[str, Any]:
    """Every column of one long sequence: seconds, peak memory beyond the inputs, and whether two runs agree in bits."""
    shape = QUICK_LONG if quick else LONG
    call, facts = make_call(shape, torch.bfloat16, "cuda")
    memory = Memory()
    head_sums(call, facts, facts, memory=memory)  # compiles
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    start = time.perf_counter()
    found = head_sums(call, facts, facts, memory=memory)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    again = head_sums(call, facts, facts, memory=memory)
    same = all(torch.equal(value, again[name]) for name, value in found.items())
    result = {"shape": shape._asdict(), "seconds": round(seconds, 3), "peak_mb_beyond_inputs": round(peak, 1),
              "inputs_mb": round(before / 2**20, 1), "same_bits": same}  # fmt: skip
    print(result)
    return result


RUNS: dict[str, Callable[..., dict[str, Any]]] = {
    "checks": checks, "sanitizer": sanitizer, "kernels": passes, "run": forwards, "long": long_sequence,
    "clouds": clouds.clouds,
}  # fmt: skip


def plot(result: dict[str, Any], path: Path) -> None:
    """Ratio to F of every pass over the shapes, ours filled, rivals open, goals in red."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    shapes = result["kernels"]["shapes"]
    figure, axes = pyplot.subplots(1, len(shapes), figsize=(4.2 * len(shapes), 7), sharex=True, squeeze=False)
    for axis, one in zip(axes[0], shapes, strict=True):
        rows = sorted(one["rows"], key=lambda row: -row["ratio"])
        names, ratios = [row["name"] for row in rows], [row["ratio"] for row in rows]
        rival = [name.startswith(("sdpa", "torch", "flex", "eager")) for name in names]
        colours = ["none" if other else "#3366aa" for other in rival]
        axis.barh(names, ratios, color=colours, edgecolor="#3366aa")
        for place, row in enumerate(rows):
            if row["target"] is not None:
                axis.plot([row["target"]] * 2, [place - 0.45, place + 0.45], color="#cc3311")
            axis.text(row["ratio"], place, f" {row['ratio']:.2f}", va="center", fontsize=7)
        axis.set_xscale("log")
        axis.axvline(1, color="grey", linewidth=0.8)
        axis.set_title(f"{Shape(**one['shape'])}\nF = {one['f_ms']:.2f} ms", fontsize=8)
        axis.set_xlabel("time / F (log); red: goal")
        axis.tick_params(labelsize=7)
    figure.suptitle(f"{result['device']}, {result['date'][:10]}, {result['commit'][:12]}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path)


def main(arguments: list[str] | None = None) -> int:
    """Check, then time, then write and plot."""
    parser = argparse.ArgumentParser(prog="attnengine bench gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one shape of each, few repeats: a few minutes")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}, comma separated")
    parser.add_argument("--output", type=Path, help="result file [benchmarks/results/gpu-<gpu>-<date>.json]")
    options = parser.parse_args(arguments)
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"--only: expected some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a CUDA device and found none; nothing was checked or timed.", file=sys.stderr)
        return 2
    result: dict[str, Any] = {"what": "every kernel on a GPU", "quick": options.quick} | measure.environment("cuda")
    path = options.output or measure.result_path("gpu", "cuda")
    if path.exists():
        result = json.loads(path.read_text()) | result
    for part in ["checks", *(part for part in PARTS if part in wanted and part != "checks")]:
        print(f"\n== {part}", flush=True)
        result[part] = RUNS[part](quick=options.quick)
        measure.write("gpu", "cuda", result, path)
        if part == "checks" and not result[part]["passed"]:
            return 1
    if "kernels" in result:
        try:
            plot(result, path.with_suffix(".svg"))
        except ImportError:
            print("no plot: matplotlib is missing (pip install 'attnengine[bench]')")
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
