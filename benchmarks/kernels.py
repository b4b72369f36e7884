"""Each pass against plain attention and the strongest rivals, in one run: ``attnengine bench kernels``.

F is the fastest plain attention forward of the shape (on CUDA both SDPA backends are tried). Every part is timed in
turn with all others, rotating over inputs that do not stay in the cache, and reported as the ratio of medians to F,
with milliseconds per million tokens, and the FLOPs and bytes its formula needs over its time against what the machine
reaches in a plain matrix product and a copy. "sdpa again" is the noise band. Nothing is timed unless all checks pass.

Without a CUDA device the CPU path and its rivals are timed; no Triton figure can be had there, and none is given.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import measure, verify
from benchmarks.calls import CPU_SHAPES, CUDA_SHAPES, Shape, make_call
from benchmarks.passes import floors, ours, rivals, work

CONSOLE = Console(width=max(Console().width, 118))  # a table that wraps is no table
EAGER_LIMIT = 2**33  # bytes of a materialised pattern, beyond which that rival does not fit


def time_shape(shape: Shape, device: str, repeats: int, *, quick: bool = False) -> dict[str, Any]:
    """All parts on one shape."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    made = [make_call(shape, dtype, device, seed) for seed in range(3 if device == "cuda" else 2)]
    calls, facts = [call for call, _ in made], made[0][1]
    parts = floors(shape, device) | ours(device, facts) | ({} if quick else rivals(shape))
    pattern_bytes = 4 * shape.b * shape.h * shape.length**2
    failed: dict[str, str] = {}
    if pattern_bytes > EAGER_LIMIT and parts.pop("eager pattern, three statistics", None):
        failed["eager pattern, three statistics"] = f"its pattern takes {pattern_bytes / 2**30:.0f} GB"
    for name, part in list(parts.items()):
        try:
            part.run(calls[0])
        except Exception as error:  # a rival that does not run here is reported, not hidden; ours must run
            if name in ours(device, facts):
                raise
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
            del parts[name]
    runs = {name: lambda n, part=part: part.run(calls[n % len(calls)]) for name, part in parts.items()}  # type: ignore[misc]
    times = measure.interleave(runs, repeats, device)
    ms = measure.medians(times)
    base = min(ms[name] for name in floors(shape, device) if name in ms)
    rows = []
    for name, part in parts.items():
        flops, size = work(part, calls[0])
        rows.append({
            "name": name,
            "ratio": round(ms[name] / base, 3),
            "quartiles": measure.quartiles(times[name], base),
            "ms": round(ms[name], 4),
            "ms_per_million_tokens": round(1e6 * ms[name] / (shape.b * shape.length), 2),
            "tflops": round(flops / ms[name] / 1e9, 3) or None,
            "gbytes": round(size / ms[name] / 1e6, 2),
            "peak_mb": measure.peak_mb(runs[name]),
            "target": part.target,
        })  # fmt: skip
    return {"shape": shape._asdict(), "dtype": str(dtype).removeprefix("torch."), "f_ms": base, "rows": rows,
            "not_run": failed}  # fmt: skip


def show(result: dict[str, Any]) -> None:
    """One table."""
    title = f"{Shape(**result['shape'])}  {result['dtype']}  F = {result['f_ms']:.2f} ms"
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for name in ("× F", "quartiles", "target", "ms / M tokens", "TFLOP/s", "GB/s", "peak MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result["rows"]:
        spread = "–".join(f"{q:.2f}" for q in (row["quartiles"] or [0, 0, 0])[::2])
        target = "" if row["target"] is None else f"≤ {row['target']}"
        cells = [f"{row['ratio']:.2f}", spread, target, f"{row['ms_per_million_tokens']:.1f}"]
        cells += ["–" if row[name] is None else str(row[name]) for name in ("tflops", "gbytes", "peak_mb")]
        table.add_row(row["name"], *cells)
    CONSOLE.print(table)
    for name, why in result["not_run"].items():
        CONSOLE.print(f"  not run: {name} ({why})", markup=False)


def measured(device: str, repeats: int, shapes: tuple[Shape, ...], *, quick: bool = False) -> dict[str, Any]:
    """All shapes, shown as they come."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    reached = measure.ceilings(device, dtype)
    CONSOLE.print(f"this machine reaches {reached['tflops']} TFLOP/s ({dtype}) and {reached['gbytes']} GB/s")
    results = []
    for shape in shapes:
        results.append(time_shape(shape, device, repeats, quick=quick))
        show(results[-1])
    return {"ceilings": reached, "shapes": results}


def main(arguments: list[str] | None = None) -> int:
    """Check, time, write."""
    parser = argparse.ArgumentParser(prog="attnengine bench kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="one shape, few repeats, no rivals")
    parser.add_argument("--threads", type=int, default=2, help="of torch, on the CPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--length", help="only shapes of these lengths, comma separated")
    parser.add_argument("--output", type=Path, help="result file [benchmarks/results/kernels-<device>-<date>.json]")
    options = parser.parse_args(arguments)
    device = options.device
    if device == "cpu":
        torch.set_num_threads(options.threads)
        print("on the CPU: the compiled path and its rivals; Triton's passes need a CUDA device and are not timed")
    shapes = CUDA_SHAPES if device == "cuda" else CPU_SHAPES
    if options.length:
        wanted = {int(n) for n in options.length.split(",")}
        shapes = tuple(shape for shape in shapes if shape.length in wanted)
        if not shapes:
            parser.error(f"--length: expected some of {sorted({s.length for s in CPU_SHAPES + CUDA_SHAPES})}")
    if not verify.passed(device, quick=options.quick):
        return 1
    found = measured(device, 3 if options.quick else options.repeats, shapes[: 1 if options.quick else None],
                     quick=options.quick)  # fmt: skip
    about = {"what": "passes against plain attention", "quick": options.quick}
    about |= measure.environment(device, options.threads if device == "cpu" else None)
    print(f"written: {measure.write('kernels', device, about | found, options.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
