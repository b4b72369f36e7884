"""What a whole run costs beside its forwards and statistics, and how cost and memory grow with the corpus.

    attnengine bench scale [--model minilm,tiny] [--topics 1,8] [--tokens 100000,1000000,10000000]

Each run is a process of its own: planning, tokenising, shards, merging, all that `attnengine run` does but loading the
model. ``share`` is the part of its time that was spent in forwards and statistics; ``peak_mb`` the most memory the
process held. MiniLM reads all of Python's documentation topics (128,655 tokens), ``--topics`` times over: what a run
pays once weighs less the longer it is. The tiny model (causal, one head of width 8) reads made-up text of as many
tokens as asked for, so that what is not forward weighs as much as it can.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import measure

WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "saw", "dogs", "run", "home", ".")
DOCUMENT = 400  # words, of one token each


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, write the result file."""
    parser = argparse.ArgumentParser(prog="attnengine bench scale", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="minilm,tiny", help="minilm, tiny or both")
    parser.add_argument("--topics", default="1,8", help="how often MiniLM reads the topics, comma separated")
    parser.add_argument("--tokens", default="100000,1000000", help="corpora of the tiny model, comma separated")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="result file [benchmarks/results/scale-<device>-<date>.json]")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(one_run(**options.one)))
        return 0
    sizes = {"minilm": options.topics, "tiny": options.tokens}
    cases = [(model, int(n)) for model in sizes if model in options.model for n in sizes[model].split(",")]
    print(f"{'model':<8}{'tokens':>12}{'seconds':>10}{'CPU s':>10}{'tokens/s':>11}{'share':>8}{'peak MB':>9}")
    rows = []
    for model, size in cases:
        rows.append(in_its_own_process(model, size, options.threads))
        print("{model:<8}{tokens:>12,}{seconds:>10.1f}{cpu_seconds:>10.1f}{tokens_per_second:>11,.0f}{share:>8.3f}"
              "{peak_mb:>9.0f}".format(**rows[-1]), flush=True)  # fmt: skip
    about = {"what": "whole runs"} | measure.environment("cpu", options.threads)
    print(f"\nwritten: {measure.write('scale', 'cpu', about | {'runs': rows}, options.output)}")
    return 0


def in_its_own_process(model: str, size: int, threads: int) -> dict[str, Any]:
    """:func:`one_run` in a fresh process, whose peak of memory is its own."""
    asked = json.dumps({"model": model, "size": size, "threads": threads})
    command = [sys.executable, "-m", "benchmarks.scale", "--one", asked]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def one_run(model: str, size: int, threads: int) -> dict[str, Any]:
    """Make a run in a temporary folder and say what it took; ``size``: of :func:`minilm` or :func:`tiny`."""
    from attnengine.front import run_documents
    from attnengine.model.load import load_model
    from attnengine.run.progress import Reporter
    from attnengine.run.settings import RunSettings

    with tempfile.TemporaryDirectory(prefix="attnengine-scale-") as name:
        folder = Path(name)
        loaded, documents = (minilm if model == "minilm" else tiny)(folder, size, load_model)
        settings = RunSettings(threads=threads)
        with forwards_timed() as forwards:
            started, cpu = time.perf_counter(), time.process_time()
            run = run_documents(
                loaded, documents, folder / "run", settings, device="cpu", source=model, reporter=Reporter(quiet=True)
            )
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        assert run is not None
        done = run.coverage["tokens"]
        sizes = [path.stat().st_size for path in (folder / "run").rglob("*") if path.is_file()]
    return {
        "model": model,
        "tokens": done,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "tokens_per_second": round(done / seconds, 1),
        "share": round(sum(forwards) / seconds, 4),
        "merge_seconds": run.manifest["timings"]["merge_seconds"],
        "peak_mb": round(measure.peak_so_far_mb("cpu")),
        "disk_mb": round(sum(sizes) / 2**20, 1),
    }


@contextmanager
def forwards_timed() -> Iterator[list[float]]:
    """Seconds of each batch's forward with its statistics, appended as they end."""
    from attnengine.run import engine

    spent, plain = [], engine.run_batch

    def timed(*arguments: Any) -> None:
        started = time.perf_counter()
        plain(*arguments)
        spent.append(time.perf_counter() - started)

    engine.run_batch = timed
    try:
        yield spent
    finally:
        engine.run_batch = plain


def minilm(_folder: Path, times: int, load: Callable[..., Any]) -> tuple[Any, Any]:
    """The bundled MiniLM, and all topics of Python's documentation, ``times`` times."""
    from attnengine.bundled import bundled_documents, bundled_model
    from attnengine.corpus.sources import documents_of

    return load(str(bundled_model("minilm"))), documents_of([text for _, text in bundled_documents()] * times)


def tiny(folder: Path, tokens: int, load: Callable[..., Any]) -> tuple[Any, Any]:
    """One causal head of width 8, and at least ``tokens`` tokens of made-up text in a file."""
    from attnengine.corpus.sources import SourceOptions, read_corpus

    save_tiny(folder / "model")
    write_corpus(folder / "corpus.jsonl", tokens)
    return load(str(folder / "model")), read_corpus(str(folder / "corpus.jsonl"), SourceOptions())


def save_tiny(folder: Path) -> None:
    """The tiny model with MiniLM's tokenizer, 256 positions, random weights (seed 0)."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2Model

    from attnengine.bundled import bundled_model

    torch.manual_seed(0)
    GPT2Model(GPT2Config(n_layer=1, n_head=1, n_embd=8, n_positions=256, vocab_size=30522)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(bundled_model("minilm")).save_pretrained(folder)


def write_corpus(path: Path, tokens: int) -> None:
    """Documents of 400 words from a list of twelve (seed 0)."""
    chance = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(-(-tokens // DOCUMENT)):
            file.write(json.dumps({"text": " ".join(chance.choices(WORDS, k=DOCUMENT))}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
