"""One head of many points, embedded as `attnengine embed` does it, on one thread: seconds and peak memory.

    python -m benchmarks.large_cloud [--points 1000000] [--width 32]

The head is made up: queries and keys around the same 500 directions, in documents of 512 tokens. Everything is measured
in one process: gauges, search graph, layout, quality, faithfulness, clusters.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from threadpoolctl import threadpool_limits

from attnengine.embedding import head as one_head
from attnengine.embedding.faithfulness import EVERYWHERE, Sight
from attnengine.embedding.methods import place
from attnengine.embedding.settings import EmbedSettings
from benchmarks import measure

DIRECTIONS, SPREAD, WINDOW = 500, 0.6, 512


def made_up(tokens: int, width: int) -> one_head.Head:
    """A head of ``tokens`` queries and as many keys (tokens, width), seed 0."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(DIRECTIONS, width)).astype(np.float32)
    which = draw.integers(DIRECTIONS, size=tokens)
    queries, keys = (centres[which] + SPREAD * draw.normal(size=(tokens, width)).astype(np.float32) for _ in range(2))
    row = np.arange(tokens)
    seen = Sight(row, np.append(row[::WINDOW], tokens), row % WINDOW, row // WINDOW, EVERYWHERE, EVERYWHERE)
    return one_head.Head(queries, keys, seen, which)


def measured(points: int, width: int) -> dict[str, Any]:
    """Seconds of each step, the figures of the picture, and the peak of resident memory."""
    head, settings, seconds = made_up(points // 2, width), EmbedSettings(), {}
    begun = mark = time.perf_counter()

    def step(name: str) -> None:
        nonlocal mark
        seconds[name], mark = round(time.perf_counter() - mark, 1), time.perf_counter()
        print(f"{name}: {seconds[name]:.1f} s, peak {peak_gb():.2f} GB", flush=True)

    prepared = one_head.prepare(head, settings)
    step("gauge")
    screen = place(prepared.task(settings, 0, None))
    step("neighbours, graph, layout")
    picture = one_head.judge(prepared, screen, settings)
    step("quality, faithfulness, clusters")
    figures = ("gauge", "faithfulness_2d", "trustworthiness", "knn_preservation", "n_clusters")
    return {
        "points": len(picture.points), "width": width, "seconds": seconds,
        "total_s": round(time.perf_counter() - begun, 1), "peak_gb": round(peak_gb(), 2),
        "figures": {name: picture.figures.get(name) for name in figures},
    }  # fmt: skip


def peak_gb() -> float:
    """Most resident memory so far."""
    return measure.peak_so_far_mb("cpu") / 1024


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--output", type=Path, help="result file [benchmarks/results/large-cloud-<device>-<date>.json]")
    options = parser.parse_args()
    with threadpool_limits(1):
        row = measured(options.points, options.width)
    about = {"what": "one head of many points"} | measure.environment("cpu", 1)
    about["load"] = [round(x, 2) for x in os.getloadavg()]
    print(row)
    print(f"written: {measure.write('large-cloud', 'cpu', about | row, options.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
