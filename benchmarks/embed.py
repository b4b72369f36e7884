"""Joint clouds of real heads: seconds and quality, ours beside umap-learn and t-SNE: ``attnengine bench embed``.

Heads of the bundled models (MiniLM and the causal one on Python's documentation, the ViT on digits), or of the runs
given, evenly drawn, one after the other; for each head every method in turn, on one thread, with the same gauge, points
and start, so that whatever else the machine does meets all of them alike. A method's time is neighbours + graph +
layout. "umap-learn" finds its own neighbours and takes its own epochs; TorchDR, where it is installed, finds its own
neighbours; the others share ours and 200 epochs. `--points 5000,20000,…` draws that many of each head's points evenly
(a run with `--sample 100000` has 200,000). Compilation is left out here and measured by itself: the seconds from the
start of a fresh process to its first finished picture, once with Numba's cache and once (``--cold``) without.
``--whole`` embeds one head, one layer and all heads of each run instead, as `attnengine embed` does by its workers
(gauge, neighbours, layout, quality), ours and umap-learn in turn.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded: a head is the work of one thread

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

import attnengine as ae
from attnengine.bundled import bundled_digits, bundled_model
from attnengine.embedding.faithfulness import clustered_mean, rank_correlations
from attnengine.embedding.gauge import attentionviz
from attnengine.embedding.head import Head
from attnengine.embedding.init import first_positions
from attnengine.embedding.methods import Task, place
from attnengine.embedding.neighbours import by_descent, distinct
from attnengine.embedding.order import read
from attnengine.embedding.pipeline import embed_run, head_rows
from attnengine.embedding.quality import quality
from attnengine.embedding.settings import EXACT_LIMIT, EmbedSettings, head_seed
from benchmarks import measure, umap_rivals

CONSOLE = Console(width=max(Console().width, 118))
TARGET = 0.6  # of umap-learn's time on the same neighbours
BASE = "umap-learn, our neighbours"
#: What ours may lose against BASE in the mean (EMBEDDING.md, gates); the third is a ratio.
GATES = {"trustworthiness": -0.005, "continuity": -0.01, "knn_preservation": 0.97, "triplet_accuracy": -0.02}
METHODS = {"ours": "umap", BASE: "umap-learn"}  # of --whole
FIGURES = ("trustworthiness", "continuity", "knn_preservation", "triplet_accuracy", "faithfulness_2d")
FRESH = """
import time; start = time.perf_counter()
import numpy as np
from attnengine.embedding.methods import Task, place
from attnengine.embedding.settings import EmbedSettings
rows = np.random.default_rng(0).normal(size=(500, 32)).astype(np.float32)
place(Task(rows, EmbedSettings(epochs=10), 0))
print(time.perf_counter() - start)
"""


@dataclass(frozen=True)
class Case:
    """A head to lay out: its distinct points, and what is needed to judge a picture of them."""

    name: str
    head: Head
    task: Task
    which: np.ndarray
    is_key: np.ndarray

    def judged(self, screen: np.ndarray) -> dict[str, float]:
        """Quality and faithfulness of a picture (n, 2)."""
        points, n = screen[self.which], len(self.head.queries)
        found = rank_correlations(self.head.queries, self.head.keys, points[:n], points[n:], self.head.seen)
        value = clustered_mean(found, self.head.seen.document)[0]
        radius = float(np.abs(screen - np.median(screen, axis=0)).max())
        figures = quality(self.task.points, screen, self.is_key)
        return {name: round(x, 5) for name, x in {**figures, "faithfulness_2d": value, "radius": radius}.items()}


def make_case(run: ae.Run, site: int, head: int, seed: int, points: int | None = None) -> Case:
    """A head of a run in AttentionViz's gauge, so that every method is given the same; ``points`` of it, or all."""
    data = read(run, site, head)
    if points is not None and points < 2 * len(data.queries):
        data = some(data, np.linspace(0, len(data.queries) - 1, points // 2).astype(np.int64))
    gauge = attentionviz(data.queries, data.keys)
    everything = np.concatenate([gauge.queries(data.queries), gauge.keys(data.keys)])
    first, which = distinct(everything)
    task = Task(everything[first], EmbedSettings(), head_seed(seed, site, head))
    name = f"{Path(str(run.manifest['model']['id'])).name} L{site}H{head}"
    return Case(name, data, task, which, first >= len(data.queries))


def some(data: Head, rows: np.ndarray) -> Head:
    """The tokens ``rows``, ascending, of a head."""
    place = np.full(len(data.queries), -1)
    place[rows] = np.arange(len(rows))
    window = np.zeros(len(place), np.int64)
    window[data.seen.order] = np.searchsorted(data.seen.starts, np.arange(len(place)), side="right")
    order = place[data.seen.order]
    order = order[order >= 0]
    starts = np.flatnonzero(np.diff(window[rows][order], prepend=-1, append=-1))
    kept = {"position": data.seen.position[rows], "document": data.seen.document[rows]}
    seen = replace(data.seen, order=order, starts=starts, **kept)
    return replace(data, queries=data.queries[rows], keys=data.keys[rows], seen=seen, token_ids=data.token_ids[rows])


def umap_learn_alone(task: Task) -> np.ndarray:
    """umap-learn as it comes, but seeded (so on one thread) and from the same start."""
    import umap

    start = first_positions(task.points, 2, task.seed)
    return umap.UMAP(metric="cosine", init=start, random_state=task.seed, n_jobs=1).fit_transform(task.points)


def methods(*, quick: bool, t_sne: bool) -> dict[str, Callable[[Task], np.ndarray]]:
    """What is compared, ours first."""

    def by(method: str) -> Callable[[Task], np.ndarray]:
        return lambda task: place(Task(task.points, EmbedSettings(method), task.seed))

    found = {"ours": by("umap"), BASE: by("umap-learn")} | ({} if quick else {"umap-learn": umap_learn_alone})
    for name, rival in {} if quick else umap_rivals.installed("cpu").items():
        found[name] = lambda task, rival=rival: rival(task.points, task.seed)
    return found | ({"t-SNE": by("t-sne")} if t_sne else {})


def measure_case(case: Case, parts: dict[str, Callable[[Task], np.ndarray]], repeats: int) -> dict[str, Any]:
    """Seconds of each method in turn, and the quality of its last picture."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    rows: dict[str, Any] = {}
    for _ in range(repeats):
        for name, part in parts.items():
            start = time.perf_counter()
            screen = part(case.task)
            seconds[name].append(time.perf_counter() - start)
            rows[name] = case.judged(np.asarray(screen, np.float32))
    return {name: {"seconds": [round(s, 3) for s in seconds[name]], **rows[name]} for name in parts}


def summary(cases: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Means over heads; seconds are the sum over heads of each head's median."""
    found: dict[str, dict[str, float]] = {}
    for name in next(iter(cases.values())):
        rows = [case[name] for case in cases.values()]
        found[name] = {
            figure: round(float(np.mean([row[figure] for row in rows])), 4) for figure in rows[0] if figure != "seconds"
        }
        found[name]["seconds"] = round(sum(statistics.median(row["seconds"]) for row in rows), 3)
    for row in found.values():
        row["ratio"] = round(row["seconds"] / found[BASE]["seconds"], 3)
    return found


def gates(found: dict[str, dict[str, float]]) -> dict[str, bool]:
    """Which gates ours passes against umap-learn on the same neighbours."""
    ours, base = found["ours"], found[BASE]
    passed = {name: ours[name] >= base[name] + most for name, most in GATES.items() if most < 0}
    passed["knn_preservation"] = ours["knn_preservation"] >= GATES["knn_preservation"] * base["knn_preservation"]
    passed["radius"] = ours["radius"] <= 1.5 * base["radius"]
    passed["time"] = ours["ratio"] <= TARGET
    return passed


def fresh_process(*, cold: bool) -> float:
    """Seconds from the start of Python code to the first picture in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        changed = {"NUMBA_CACHE_DIR": folder} if cold else {}
        paths = os.pathsep.join([str(Path(ae.__file__).parents[1]), *sys.path])
        environment = os.environ | changed | {"PYTHONPATH": paths}
        done = subprocess.run(
            [sys.executable, "-c", FRESH], capture_output=True, text=True, check=True, env=environment
        )
    return round(float(done.stdout), 2)


def bundled_runs() -> Iterator[Path]:
    """Runs of the bundled models, in a temporary folder: MiniLM, the causal one, the ViT on every digit."""
    folder = Path(tempfile.mkdtemp(prefix="attnengine-bench-"))
    program = [sys.executable, "-m", "attnengine.cli"]
    for model in ("minilm", "causal"):
        made = folder / model
        subprocess.run([*program, "demo", "--model", model, "--no-embed", "--no-serve", "-o", str(made)], check=True)
        yield made
    (folder / "images").mkdir()
    for name, picture in bundled_digits():
        picture.save(folder / "images" / f"{name}.png")
    command = ["run", str(bundled_model("digits")), str(folder / "images"), "-o", str(folder / "digits")]
    subprocess.run([*program, *command], check=True)
    yield folder / "digits"


def drawn(runs: list[ae.Run], heads: int) -> list[tuple[ae.Run, int, int]]:
    """``heads`` heads, as many of each run, evenly over its layers."""
    found = []
    for i, run in enumerate(runs):
        every = [(row["site"], row["head"]) for row in head_rows(run)]
        share = heads // len(runs) + (i < heads % len(runs))
        step = max(len(every) // max(share, 1), 1)
        found += [(run, site, head) for site, head in every[step // 2 :: step][:share]]
    return found


def whole(run: ae.Run, jobs: int) -> dict[str, dict[str, Any]]:
    """By number of heads, for one head, one layer and all of a copy of ``run``: seconds of embedding them, ours and
    umap-learn in turn, workers warm, medians of five, three and one; and means of quality.
    """
    layer = max(row["layer"] for row in head_rows(run)) // 2
    one, of_layer = {"layers": [layer], "heads": [0]}, {"layers": [layer]}
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="attnengine-bench-") as folder:
        copy = Path(shutil.copytree(run.path, Path(folder) / "run", ignore=shutil.ignore_patterns("embedding")))

        def timed(settings: EmbedSettings, part: dict[str, list[int]]) -> tuple[float, pd.DataFrame]:
            start = time.perf_counter()
            clouds = embed_run(copy, settings, **part, jobs=jobs, overwrite=True)
            return time.perf_counter() - start, clouds

        settings = {name: EmbedSettings(method, clusters=False) for name, method in METHODS.items()}
        for part, repeats in ((one, 5), (of_layer, 3), ({}, 1)):
            taken: dict[str, list[float]] = {name: [] for name in METHODS}
            rows: dict[str, Any] = {}
            for name in METHODS:
                timed(settings[name], one if part is one else {**of_layer, "heads": [0, 1]})  # loads, compiles
            for _ in range(repeats):
                for name in METHODS:
                    seconds, clouds = timed(settings[name], part)
                    taken[name].append(round(seconds, 2))
                    rows[name] = {"heads": len(clouds), "seconds": taken[name]}
                    rows[name] |= {figure: round(float(clouds[figure].mean()), 4) for figure in FIGURES}
            medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
            rows["ratio"] = round(medians["ours"] / medians[BASE], 3)
            found[str(len(clouds))] = rows
            CONSOLE.print(f"{len(clouds)} heads of {2 * len(run.tokens):,} points: {rows} (goal {TARGET})")
    return found


def show(found: dict[str, dict[str, float]], n: int, size: int | None) -> None:
    """One table."""
    of = f" of {size:,} points" if size else ""
    names = ("seconds", "ratio", "trustworthiness", "continuity", "knn_preservation", "triplet_accuracy",
             "faithfulness_2d", "cross_share_2d", "radius")  # fmt: skip
    table = Table(title=f"means over {n} heads{of}; seconds are sums", title_justify="left")
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for method, row in found.items():
        table.add_row(method, *(f"{row[name]:.3f}" for name in names))
    CONSOLE.print(table)


def main(arguments: list[str] | None = None) -> int:
    """Measure, compare, write."""
    parser = argparse.ArgumentParser(prog="attnengine bench embed", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--run", type=Path, action="append", help="a finished run with a sample, several times for several [runs of "
        "the bundled models, made first]",
    )  # fmt: skip
    parser.add_argument("--heads", type=int, default=6, help="how many, evenly drawn over runs and layers [6]")
    parser.add_argument("--seeds", type=int, default=1, help="pictures of each head by different seeds [1]")
    parser.add_argument("--points", help="points of a head, comma separated [all]")
    parser.add_argument("--repeats", type=int, default=1, help="timings of each picture [1]")
    parser.add_argument("--quick", action="store_true", help="leave out those with neighbours of their own")
    parser.add_argument("--t-sne", action="store_true", help="scikit-learn's t-SNE, too: a minute a head")
    parser.add_argument("--cold", action="store_true", help="also time a first use that has to compile")
    parser.add_argument("--whole", action="store_true", help="one head, one layer, all heads of each run by workers")
    parser.add_argument("--jobs", type=int, default=2, help="workers of --whole [2]")
    parser.add_argument("--output", type=Path, help="result file [benchmarks/results/embed-<device>-<date>.json]")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # umap-learn warns of its seed and its neighbours on every fit
    runs = map(ae.open_run, options.run or bundled_runs())  # made as they are asked for
    if options.whole:
        about = {"what": "joint clouds of one head, one layer and all heads, by workers", "target": TARGET}
        found_of = {run.path.name: whole(run, options.jobs) for run in runs}
        result = about | measure.environment("cpu", 1) | {"jobs": options.jobs, "runs": found_of}
        CONSOLE.print(f"written: {measure.write('embed-whole', 'cpu', result, options.output)}")
        return 0 if all(list(rows.values())[-1]["ratio"] <= TARGET for rows in found_of.values()) else 1
    chosen = drawn(list(runs), options.heads)
    parts = methods(quick=options.quick, t_sne=options.t_sne)
    cases: dict[str, dict[str, Any]] = {}
    by_points: dict[str, dict[str, dict[str, float]]] = {}
    with threadpool_limits(1):
        warm = make_case(*chosen[0], 0)
        small = Task(warm.task.points[:4200], warm.task.settings, 0)  # below 4,096 umap-learn takes another path
        for part in parts.values():
            part(small)
        sizes = [int(size) for size in options.points.split(",")] if options.points else [None]
        if any(size is not None and size > EXACT_LIMIT for size in sizes):
            by_descent(small.points, small.settings.neighbours, 0)  # a search graph compiles for half a minute
        for size in sizes:
            here: dict[str, dict[str, Any]] = {}
            for seed, head in itertools.product(range(options.seeds), chosen):
                case = make_case(*head, seed, size)
                label = f"{case.name} seed {seed}" + (f" {size:,} points" if size else "")
                here[label] = measure_case(case, parts, options.repeats)
                times = ", ".join(f"{name} {row['seconds'][0]:.1f} s" for name, row in here[label].items())
                CONSOLE.print(f"{label}: {len(case.task.points):,} distinct · {times}")
            by_points[str(size or "all")] = summary(here)
            show(by_points[str(size or "all")], len(here), size)
            cases |= here
    found = summary(cases)
    first = {"cached": fresh_process(cold=False)} | ({"compiling": fresh_process(cold=True)} if options.cold else {})
    passed = gates(found)
    CONSOLE.print(f"first picture in a fresh process: {first} s · gates: {passed}")
    about = {"what": "joint clouds of real heads, one thread each", "target": TARGET, "quick": options.quick}
    about |= measure.environment("cpu", 1) | {"load": [round(x, 2) for x in os.getloadavg()]}
    result = about | {
        "summary": found,
        "by_points": by_points,
        "gates": passed,
        "first_picture_s": first,
        "heads": cases,
    }
    CONSOLE.print(f"written: {measure.write('embed', 'cpu', result, options.output)}")
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
