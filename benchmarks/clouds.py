"""Joint clouds on a GPU: part ``clouds`` of `attnengine bench gpu`. Seconds by step, and whose bits they are.

Heads are mixtures of directions as wide as a real head's; each is searched, graphed (on the CPU's threads meanwhile)
and laid out in batches, as ``attnengine embed --device cuda`` does. "layout" is 200 epochs of all heads of a batch in
one launch a step. Beside it the same heads, alone and on the CPU, for their bits and the CPU's seconds; and the first
head's neighbours by either proposer, for their seconds and for the CPU's bits.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from attnengine.embedding.batches import BYTES_A_POINT, MOST_BYTES
from attnengine.embedding.layout_compiled import lay_out
from attnengine.embedding.methods import Planned, Task, planned
from attnengine.embedding.neighbours import exact
from attnengine.embedding.on_device import lay_out_heads
from attnengine.embedding.settings import EmbedSettings, head_seed
from attnengine_kernels.neighbours import nearest
from benchmarks import measure, umap_rivals

D, CENTRES, SPREAD = 64, 200, 0.5


@dataclass(frozen=True)
class Heads:
    """How many heads, of how many points each (queries and keys together); ``target`` in seconds, from issue 5."""

    heads: int
    points: int
    target: float | None = None


SHAPES = (Heads(144, 20_000, 10.0), Heads(1024, 50_000, 180.0))


def directions(head: int, n: int, device: str) -> torch.Tensor:
    """(n, D) fp32 rows of length 1 around CENTRES directions."""
    draw = torch.Generator(device).manual_seed(head)
    centres = torch.randn(CENTRES, D, generator=draw, device=device)
    which = torch.randint(CENTRES, (n,), generator=draw, device=device)
    rows = centres[which] + SPREAD * torch.randn(n, D, generator=draw, device=device)
    return torch.nn.functional.normalize(rows, dim=1)


def measured(shape: Heads, device: str) -> dict[str, Any]:
    """Seconds of each step over all heads, and whether the first head's bits are those of it alone and of the CPU."""
    settings, seconds = EmbedSettings(), dict.fromkeys(("neighbours", "graph and start", "layout"), 0.0)
    batch = max(MOST_BYTES // (shape.points * BYTES_A_POINT), 1)
    first: tuple[Planned, np.ndarray] | None = None
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for begin in range(0, shape.heads, batch):
            heads = range(begin, min(begin + batch, shape.heads))
            found = []
            for head in heads:
                points = directions(head, shape.points, device)
                with timed(seconds, "neighbours"):
                    near, squares = nearest(points, settings.neighbours)
                task = Task(points.cpu().numpy(), settings, head_seed(0, 0, head))
                found.append((task, (near.cpu().numpy(), (squares / 2).float().cpu().numpy())))
            with timed(seconds, "graph and start"):
                plans = list(pool.map(lambda one: planned(*one), found))
            with timed(seconds, "layout"):
                pictures = lay_out_heads(plans, device)
            first = first or (plans[0], pictures[0])
    assert first is not None
    plan, picture = first
    points_of_one = directions(0, shape.points, device).cpu().numpy()
    start = time.perf_counter()
    on_cpu = lay_out(plan.start, plan.plan, plan.descent)
    cpu_seconds = time.perf_counter() - start
    near_seconds, near_same = neighbours_of_one(points_of_one, device)
    installed = umap_rivals.installed(device)
    rivals = dict.fromkeys(installed, 0.0)
    for name, rival in installed.items():
        rival(points_of_one[:1000], 0)  # loads, compiles
        with timed(rivals, name):
            rival(points_of_one, 0)
    return {
        "heads": shape.heads, "points": shape.points, "batch": batch, "target_s": shape.target,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "total_s": round(sum(seconds.values()), 3), "cpu_layout_of_one_head_s": round(cpu_seconds, 3),
        "rivals_all_of_one_head_s": {name: round(value, 3) for name, value in rivals.items()},
        "neighbours_of_one_head_s": near_seconds, "same_neighbours_as_cpu": near_same,
        "same_bits_alone": np.array_equal(picture, lay_out_heads([plan], device)[0]),
        "same_bits_as_cpu": np.array_equal(picture, on_cpu),
    }  # fmt: skip


def neighbours_of_one(points: np.ndarray, device: str) -> tuple[dict[str, float], dict[str, bool]]:
    """Seconds of each proposer and of the CPU for one head's neighbours, and whether they find the CPU's bits."""
    start = time.perf_counter()
    wanted = exact(points, np.arange(len(points)), 15)
    seconds = {"cpu": time.perf_counter() - start}
    there = torch.from_numpy(points).to(device)
    parts = {by: partial(nearest, there, 15, by=by) for by in ("torch", "triton")}
    timings = measure.interleave({by: lambda _round, part=part: part() for by, part in parts.items()}, 5, device)
    seconds |= {by: ms / 1000 for by, ms in measure.medians(timings).items()}
    same = {
        by: all(np.array_equal(a.cpu().numpy(), b) for a, b in zip(part(), wanted, strict=True))
        for by, part in parts.items()
    }
    return {name: round(value, 4) for name, value in seconds.items()}, same


class timed:  # noqa: N801  reads as a word
    """Add the seconds of a block, the device's work included, to an entry."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self.seconds, self.name = seconds, name

    def __enter__(self) -> None:
        torch.cuda.synchronize()
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        torch.cuda.synchronize()
        self.seconds[self.name] += time.perf_counter() - self.start


def clouds(*, quick: bool) -> dict[str, Any]:
    """Both shapes, or a small one; the first launch compiles, and is left out."""
    measured(Heads(2, 1000), "cuda")
    rows = [measured(shape, "cuda") for shape in ([Heads(16, 10_000)] if quick else SHAPES)]
    for row in rows:
        print(row)
    return {"rows": rows}
