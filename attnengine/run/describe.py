"""``attnengine info``: a manifest in a form a person reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def describe_run(run: Path, manifest: dict[str, Any]) -> None:
    """Print what a run is. Every value is printed as plain text: a manifest may come from a stranger."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts(run, manifest):
        table.add_row(name, Text(value))
    Console(highlight=False).print(table)


def facts(run: Path, manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(what, value) lines, leaving out what the manifest does not say."""
    model, corpus = manifest.get("model") or {}, manifest.get("corpus") or {}
    timings = manifest.get("timings") or {}
    yield "run", f"{run} ({manifest.get('status')}, format {manifest.get('format_version')})"
    yield "model", f"{model.get('id')} · {model.get('class')} · {model.get('dtype')} · weights {_short(model)}"
    yield (
        "corpus",
        (
            f"{corpus.get('source')} · {_count(corpus, 'documents')} documents, {_count(corpus, 'windows')} windows, "
            f"{_count(corpus, 'tokens')} tokens"
        ),
    )
    left_out = {name: count for name, count in (corpus.get("left_out") or {}).items() if count}
    if left_out:
        yield "left out", ", ".join(f"{_count(left_out, name)} {name.replace('_', ' ')}" for name in left_out)
    yield "statistics", str((manifest.get("settings") or {}).get("stats", "all"))
    yield "errors", f"clustered over {_count(corpus, 'groups')} document groups"
    yield "sample", f"{_count(manifest.get('sample') or {}, 'tokens')} tokens with queries, keys and values"
    for name in ("output", "kernels", "self_check", "device", "versions"):
        if manifest.get(name):
            yield name.replace("_", "-"), _plain(manifest[name])
    if timings:
        yield "time", ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in timings.items())
    yield "run hash", str(manifest.get("run_hash"))
    for warning in manifest.get("warnings") or ["none"]:
        yield "warning" if warning != "none" else "warnings", str(warning)


def _short(model: dict[str, Any]) -> str:
    return str(model.get("weights_sha256"))[:12]


def _count(mapping: dict[str, Any], key: str) -> str:
    value = mapping.get(key)
    return f"{value:,}" if isinstance(value, int) else "?"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)
