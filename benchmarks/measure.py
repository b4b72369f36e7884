"""What every benchmark shares: interleaved timing, the machine's own ceilings, and what a result row must carry."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def interleave(parts: Mapping[str, Callable[[int], object]], repeats: int, device: str) -> dict[str, list[float]]:
    """Milliseconds of each part, one after the other, ``repeats`` times after two rounds of warming up.

    Interleaved, so that what changes on the machine meanwhile changes all of them. A part is given the number of the
    round, to choose among inputs that do not stay in a cache. CUDA parts are timed by events on their stream.
    """
    times: dict[str, list[float]] = {name: [] for name in parts}
    for round_ in range(repeats + 2):
        for name, part in parts.items():
            ms = _event_ms(part, round_) if device == "cuda" else _wall_ms(part, round_)
            if round_ >= 2:
                times[name].append(ms)
    return times


def _wall_ms(part: Callable[[int], object], round_: int) -> float:
    start = time.perf_counter()
    part(round_)
    return 1000 * (time.perf_counter() - start)


def _event_ms(part: Callable[[int], object], round_: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    part(round_)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each series."""
    return {name: statistics.median(series) for name, series in times.items()}


def quartiles(series: Sequence[float], base: float) -> list[float]:
    """First, second and third quartile over ``base``."""
    return [round(q / base, 3) for q in statistics.quantiles(series, n=4)] if len(series) > 1 else []


def peak_mb(part: Callable[[int], object]) -> float | None:
    """Peak CUDA memory of one run beyond what was held before it, in MB; None on the CPU."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    part(0)
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def peak_so_far_mb(device: str) -> float:
    """Peak memory so far in MB: of the CUDA device, or resident memory of this process (Linux).

    Not getrusage: its ru_maxrss survives exec, so that a child would report its parent's peak.
    """
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def ceilings(device: str, dtype: torch.dtype) -> dict[str, float]:
    """What this machine reaches: TFLOP/s of a large matrix product, GB/s of a copy (bytes read and written)."""
    n, count = (8192, 2**29) if device == "cuda" else (1536, 2**25)
    a = torch.randn(n, n, device=device, dtype=dtype)
    source = torch.randn(count, device=device, dtype=torch.float32)
    target = torch.empty_like(source)
    times = interleave({"product": lambda _: a @ a, "copy": lambda _: target.copy_(source)}, 9, device)
    ms = medians(times)
    return {"tflops": round(2 * n**3 / ms["product"] / 1e9, 2), "gbytes": round(8 * count / ms["copy"] / 1e6, 1)}


def environment(device: str, threads: int | None = None) -> dict[str, Any]:
    """What a result must carry: device, date, versions, commit."""
    root = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=root)
    changed = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=False, cwd=root)
    known = commit.stdout.strip() or "unknown"
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("triton", "transformers", "numba"):
        try:
            found[name] = __import__(name).__version__
        except ImportError:
            found[name] = "absent"
    machine = f"{processor()}, {os.cpu_count()} cores" + (f", {threads} threads" if threads else "")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": known + (" with changes" if changed.stdout.strip() else ""),
        "device": torch.cuda.get_device_name() if device == "cuda" else machine,
        "machine": machine,
        "versions": found | ({"cuda": str(torch.version.cuda)} if device == "cuda" else {}),
    }


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def result_path(name: str, device: str) -> Path:
    """``results/<name>-<device>-<date>.json``."""
    where = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return RESULTS / f"{name}-{re.sub(r'[^A-Za-z0-9_]+', '-', where)}-{today}.json"


def write(name: str, device: str, result: Mapping[str, Any], path: Path | None = None) -> Path:
    """Writes ``result`` to its place, or to ``path``; returns where."""
    path = path or result_path(name, device)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
