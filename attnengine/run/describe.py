"""``attnengine info``: a manifest in a form a person reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnengine.errors import RunFormatError
from attnengine.opened import open_run
from attnengine.store import read_table

UNBROKEN = 10_000  # columns of a pipe or file: a path stays in one piece, for grep


def describe_run(run: Path, manifest: dict[str, Any]) -> None:
    """Print what a run is. Every value is printed as plain text: a manifest may come from a stranger."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts(run, manifest):
        table.add_row(name, Text(value))
    console = Console(highlight=False)
    console.width = console.width if console.is_terminal else UNBROKEN
    console.print(table)


def facts(run: Path, manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(what, value) lines, leaving out what the manifest does not say."""
    model, corpus, timings = (_section(manifest, name) for name in ("model", "corpus", "timings"))
    yield "run", f"{run} ({manifest.get('status')}, format {manifest.get('format_version')})"
    yield from shares(run, manifest)
    yield "model", f"{model.get('id')} · {model.get('class')} · {model.get('dtype')} · weights {_short(model)}"
    yield (
        "corpus",
        (
            f"{corpus.get('source')} · {_count(corpus, 'documents')} documents, {_count(corpus, 'windows')} windows, "
            f"{_count(corpus, 'tokens')} tokens"
        ),
    )
    left_out = {name: count for name, count in _section(corpus, "left_out").items() if count}
    if left_out:
        yield "left out", ", ".join(f"{_count(left_out, name)} {name.replace('_', ' ')}" for name in left_out)
    yield "statistics", str(_section(manifest, "settings").get("stats", "all"))
    yield "errors", f"clustered over {_count(corpus, 'groups')} document groups"
    yield "sample", f"{_count(_section(manifest, 'sample'), 'tokens')} tokens with queries, keys and values"
    for name in ("output", "kernels", "self_check", "device", "versions"):
        if manifest.get(name):
            yield name.replace("_", "-"), _plain(manifest[name])
    if timings:
        yield "time", ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in timings.items())
    yield "run hash", str(manifest.get("run_hash"))
    listed = manifest.get("warnings")
    for warning in listed if isinstance(listed, list) and listed else ["none"]:
        yield "warning" if warning != "none" else "warnings", str(warning)


def shares(run: Path, manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What share of the plan is on disk and in the tables, which shards failed, which ran in pieces."""
    coverage = open_run(run).coverage
    held = share_of(coverage)
    if manifest["status"] == "running":
        yield "done", share_of(on_disk(run, coverage))
        yield "tables", f"of {held}" if coverage["shards"] else "none yet: `attnengine merge --partial` makes them"
    elif manifest.get("coverage"):
        yield "tables", f"of {held}"
    failed = sorted((run / "shards").glob("shard-*.failed"))
    if failed:
        yield "failed", f"{len(failed)} shards, the first: {failed[0]} tells why"
    if manifest.get("resplit"):
        yield "resplit", f"shards {_plain(manifest['resplit'])} ran out of memory and in pieces: last bits may differ"


def on_disk(run: Path, coverage: dict[str, int]) -> dict[str, int]:
    """``coverage`` of the shards that are on disk now, merged or not."""
    try:
        plan = read_table(run / "shards", "plan")
        there = [(run / "shards" / f"shard-{shard:05d}.safetensors").exists() for shard in plan["shard"]]
        whole = {"shards": len(plan), "tokens": int(plan["n_tokens"].sum())}
        done = {"shards": sum(there), "tokens": int(plan["n_tokens"][there].sum())}
    except (RunFormatError, KeyError, TypeError, ValueError):  # not written yet: the run is just beginning
        return coverage
    return done | {f"{name}_planned": value for name, value in whole.items()}


def share_of(coverage: dict[str, int]) -> str:
    """``12 of 40 shards, 31.0 % of the tokens``."""
    share = 100 * coverage["tokens"] / max(coverage["tokens_planned"], 1)
    return f"{coverage['shards']} of {coverage['shards_planned']} shards, {share:.1f} % of the tokens"


def _section(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    value = manifest.get(name)
    return value if isinstance(value, dict) else {}


def _short(model: dict[str, Any]) -> str:
    return str(model.get("weights_sha256"))[:12]


def _count(mapping: dict[str, Any], key: str) -> str:
    value = mapping.get(key)
    return f"{value:,}" if isinstance(value, int) else "?"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
