"""A run that is still going, as its folder looks between two merges: shards done, tables of some, a manifest last."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from attnengine import store
from tests.explorer.synthetic_run import site, write_run

PLANNED = 4
TOKENS = 1000  # of each shard


def growing(path: Path) -> Path:
    """Four shards of 1,000 tokens are planned, one is done, no tables are there yet."""
    write_run(path, [site(i, i, heads=4) for i in range(2)], n_tokens=50)
    (path / "kept").mkdir()  # what a merge of any number of shards would find
    for name in ("heads", "neurons", "profiles", "tokens"):
        shutil.move(path / f"{name}.parquet", path / "kept" / f"{name}.parquet")
    plan = pd.DataFrame({"shard": range(PLANNED), "n_tokens": TOKENS})
    (path / "shards").mkdir()
    store.write_table(path / "shards", "plan", plan)
    finish_shard(path, 0)
    write(path, "", 0)
    return path


def finish_shard(path: Path, shard: int) -> None:
    """The sums of a shard are there."""
    (path / "shards" / f"shard-{shard:05d}.safetensors").write_bytes(b"")


def merge(path: Path, number: int, shards: int) -> None:
    """Tables of so many shards, whose entropy is that number everywhere."""
    folder = path / "so-far" / str(number)
    folder.mkdir(parents=True)
    for name in ("neurons", "profiles", "tokens"):
        shutil.copy(path / "kept" / f"{name}.parquet", folder)
    store.write_table(folder, "heads", store.read_table(path / "kept", "heads").assign(entropy=float(shards)))
    for array in path.rglob("*.npy"):
        if "so-far" not in array.parts:
            kept = folder / array.relative_to(path)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(array, kept)
    write(path, f"so-far/{number}", shards)


def write(path: Path, tables: str, shards: int) -> None:
    """The manifest after a merge of so many shards."""
    coverage = {
        "shards": shards, "windows": shards, "tokens": shards * TOKENS,
        "shards_planned": PLANNED, "windows_planned": PLANNED, "tokens_planned": PLANNED * TOKENS,
    }  # fmt: skip
    files = [] if not tables else store.list_files(path, tables)
    if not tables:
        files = [one for one in store.list_files(path) if not one["path"].startswith(("kept/", "patterns", "arrays"))]
    changed = {"status": "running", "tables": tables, "coverage": coverage, "files": files}
    store.write_manifest(path, store.read_manifest(path) | changed)
