"""Where the time of the CPU path goes, one thread, beside the least that arithmetic and memory allow: ``bench parts``.

Each part of :func:`attnengine_kernels.cpu.head_sums.head_sums` is timed by itself while the whole runs, less the parts
it calls; "the rest" is Python between them. The floor of the products is their FLOPs over what a large matrix product
reaches on one thread, that of the operands their bytes, read once, over what a copy reads (half of what it moves), that
of scores to pattern the exponentials and sums of attention received alone, in the cache; a part without such a bound
has none. Shapes are those of ``bench kernels``; milliseconds are of one call, so of a layer.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit
from rich.console import Console
from rich.table import Table

from attnengine_kernels import AttentionCall, Memory, TokenFacts
from attnengine_kernels.cpu import head_sums as cpu
from attnengine_kernels.cpu._row import _exponentiate_only
from benchmarks import measure
from benchmarks.calls import CPU_SHAPES, Shape, make_call, visible_pairs

#: Part -> the names in the CPU path's module that are it; torch.bmm counts where none of the others called it.
PARTS = {
    "products": ("bmm",),
    "scores to pattern": ("tile_pass",),
    "operands": ("operands_pass",),
    "sums that factor": ("totals_pass", "scan_pass", "sum_pass"),
    "variance shares": ("uniform_shares", "interval_squares"),
    "A K into neurons": ("attend_pass",),
    "mean pattern": ("grid_pass",),
    "finish": ("finish",),
}


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Seconds by part of what runs meanwhile, each without the parts that it calls. For one thread."""
    spent: dict[str, float] = defaultdict(float)
    inner: list[float] = []  # of the parts that are running: seconds of the parts within
    kept: list[tuple[Any, str, Any]] = []

    def wrapped(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if inner and part == "products":  # the share's own
                return function(*args, **kwargs)
            inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = time.perf_counter() - start
                spent[part] += elapsed - inner.pop()
                if inner:
                    inner[-1] += elapsed

        return run

    for part, names in PARTS.items():
        for name in names:
            room = torch if name == "bmm" else cpu
            kept.append((room, name, getattr(room, name)))
            setattr(room, name, wrapped(part, getattr(room, name)))
    try:
        yield spent
    finally:
        for room, name, function in kept:
            setattr(room, name, function)


def parts_of(call: AttentionCall, facts: TokenFacts, stats: str, repeats: int) -> dict[str, float]:
    """Median milliseconds of each part, of "the rest" and of "all"; the facts are prepared before."""
    memory = Memory()
    runs: list[dict[str, float]] = []
    for _ in range(repeats + 2):
        with timed() as spent:
            start = time.perf_counter()
            cpu.head_sums(call, facts, facts, memory=memory, stats=stats)
            total = time.perf_counter() - start
        runs.append(dict(spent) | {"the rest": total - sum(spent.values()), "all": total})
    names = [*PARTS, "the rest", "all"]
    return {name: round(1e3 * statistics.median(run.get(name, 0.0) for run in runs[2:]), 2) for name in names}


@njit
def _exponentials(tile, received):  # type: ignore[no-untyped-def]
    for i in range(tile.shape[0]):
        _exponentiate_only(tile[i], 1.0, -1.0, received)


def exponential_ns(length: int) -> float:
    """Nanoseconds of one score's exponential in rows of ``length`` that stay in the cache."""
    tile, received = np.zeros((64, length), np.float32), np.zeros(length, np.float32)
    ms = measure.medians(measure.interleave({"all": lambda _: _exponentials(tile, received)}, 200, "cpu"))["all"]
    return 1e6 * ms / tile.size


def floors_of(call: AttentionCall, stats: str, reached: dict[str, float]) -> dict[str, float]:
    """Least milliseconds of the parts that have a bound: products of a pair with a key are 2, or with squares 3."""
    _, h, _, d = call.query.shape
    flops = 2 * d * h * visible_pairs(call) * (2 if stats == "core" else 3)
    read = 4 * (call.query.numel() + call.key.numel() + (0 if stats == "core" else call.value.numel()))
    exponentials = 1e-6 * exponential_ns(call.key.shape[2]) * h * visible_pairs(call)
    bounds = {"products": flops / reached["tflops"] / 1e9, "operands": 2 * read / reached["gbytes"] / 1e6,
              "scores to pattern": exponentials}  # fmt: skip
    return {name: round(ms, 2) for name, ms in (bounds | {"all": sum(bounds.values())}).items()}


def show(console: Console, row: dict[str, Any]) -> None:
    """One shape's table."""
    table = Table(title=f"{Shape(**row['shape'])}: ms a call, one thread", title_justify="left")
    for name in ("", "core", "floor", "every column", "floor"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for name in row["core"]["ms"]:
        cells = []
        for stats in ("core", "all"):
            floor = row[stats]["floor"].get(name)
            cells += [f"{row[stats]['ms'][name]:.2f}", "" if floor is None else f"{floor:.2f}"]
        table.add_row(name, *cells, end_section=name == "the rest")
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(prog="attnengine bench parts", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--length", help="only shapes of these lengths, comma separated")
    parser.add_argument("--output", type=Path, help="result file [benchmarks/results/parts-<machine>-<date>.json]")
    options = parser.parse_args(arguments)
    shapes = [shape for shape in CPU_SHAPES if not options.length or str(shape.length) in options.length.split(",")]
    if not shapes:
        parser.error(f"--length: expected some of {sorted({shape.length for shape in CPU_SHAPES})}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        reached = measure.ceilings("cpu", torch.float32)
        console = Console(width=max(Console().width, 90))
        console.print(f"one thread of this machine reaches {reached['tflops']} TFLOP/s and {reached['gbytes']} GB/s")
        rows = []
        for shape in shapes:
            call, facts = make_call(shape, torch.float32, "cpu")
            row: dict[str, Any] = {"shape": shape._asdict()}
            for stats in ("core", "all"):
                row[stats] = {"ms": parts_of(call, facts, stats, options.repeats),
                              "floor": floors_of(call, stats, reached)}  # fmt: skip
            show(console, row)
            rows.append(row)
    finally:
        torch.set_num_threads(threads)
    about = {"what": "parts of the CPU path"} | measure.environment("cpu", 1)
    print(f"written: {measure.write('parts', 'cpu', about | {'ceilings': reached, 'shapes': rows}, options.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
