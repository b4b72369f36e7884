"""The one place that knows the disk: the run directory, what lies where and how it is written.

Reading a run is :mod:`attnengine.opened`.

    RUN/
      manifest.json      format and version, status, model, corpus, settings, versions, figures, list of files
      sites.parquet      one row per attention call of the model
      heads.parquet      (site, head): every head statistic and its standard error
      neurons.parquet    (site, head, neuron): q⊙k statistics
      profiles.parquet   (site, head, offset_lo, offset_hi): mass by signed offset; not with --stats core
      key_tokens.parquet (site, head, rank): the tokens with most attention above what an even head gives them;
                         not with --stats core
      examples.parquet   (site, head, statistic, rank or decile): sampled rows in which it can be seen, and their key
      patterns.npy       (site, head, 32, 32) fp32 mean pattern on relative positions; NaN where a site has fewer heads;
                         not with --stats core
      windows.parquet documents.parquet tokens.parquet      provenance; ``tokens`` is the sample
      shards.parquet     one row per piece of work: what it holds, whether it is in the tables, attempts, seconds
      arrays/site-000/queries.npy (n, H, D)  keys.npy (n, Hkv, D)  values.npy (n, Hkv, Dv)  row_entropy.npy (n, H)
                      top_keys.npy top_weights.npy (n, H, 16)      row = row of ``tokens``
      clouds.parquet cluster_tokens.parquet embedding/      after `attnengine embed`: attnengine/embedding/stored.py
      head_types.parquet (site, head): scores, nulls, intervals and q-values of head types; derived from the sample,
                         so not with --sample 0
      intervals.parquet  (site, head): 95 % intervals of the means in ``heads``; derived
      shards/            what a run needs to go on and to be merged: plan.json (the manifest as it began), plan.parquet,
                         tokens.parquet, pilot.safetensors, shard-00000.safetensors (partial sums), shard-00000.failed
      so-far/1/          while shards are missing: the tables and arrays of those that are there; the manifest says
                         which of these folders holds for now

Nothing here is pickled, every file is written under a temporary name, synced and renamed, and every path of the
manifest is checked to stay inside the folder: a run directory may come from a stranger. Tables and arrays are compared
with the manifest's SHA-256 when they are first read.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from attnengine.disk import parse_json, sha256_file, unsealed, write_atomic, write_json
from attnengine.errors import RunFormatError

FORMAT = "attnengine-run"
FORMAT_VERSION = 2
TABLES = ("sites", "heads", "neurons", "profiles", "windows", "documents", "tokens", "shards", "key_tokens", "examples")
ARRAYS = ("queries", "keys", "values", "row_entropy", "top_keys", "top_weights")
#: Tables made from what a run keeps, each under settings of its own: they can be made again and leave the run's hash.
DERIVED = ("head_types", "intervals", "clouds", "cluster_tokens")
STATUSES = ("running", "complete")
#: Tables that are written when a run begins and stay as they are.
UNMERGED = ("sites", "windows", "documents")
SO_FAR = "so-far"  # where merges lie that are not the last
#: What a run made with ``--stats core`` does not write.
NOT_IN_CORE = ("profiles", "patterns", "key_tokens")


def read_table(run: Path, name: str) -> pd.DataFrame:
    """A table of the run; a missing statistic is NaN in a float column, a missing text None."""
    path = run / f"{name}.parquet"
    try:
        return pq.read_table(path).to_pandas()
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise RunFormatError(f"cannot read {path}: {error}; the run is damaged, make it again") from error


def array_path(site: int, name: str) -> Path:
    """Where an array of a site lies inside a run directory."""
    return Path("arrays") / f"site-{site:03d}" / f"{name}.npy"


def read_manifest(run: Path, path: Path | None = None) -> dict[str, Any]:
    """The manifest of a run directory (or the one at ``path``), checked for format, version, checksum and shape.

    Raises RunFormatError, which says what is wrong.
    """
    path = path or run / "manifest.json"
    if not run.is_dir():
        raise RunFormatError(f"{run} is not a folder; expected a run directory made by `attnengine run`")
    try:
        manifest = parse_json(path)
    except FileNotFoundError:
        raise RunFormatError(f"{run} has no {path.name}; expected a run directory made by `attnengine run`") from None
    if manifest.get("format") != FORMAT:
        raise RunFormatError(f"{path} is not an attnengine manifest (expected format {FORMAT!r})")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise RunFormatError(
            f"{path} has format version {version!r}, this release reads {FORMAT_VERSION}; "
            "make the run again, or open it with the release that made it"
        )
    manifest = unsealed(path, manifest)
    if manifest.get("status") not in STATUSES:
        raise RunFormatError(f"{path} has status {manifest.get('status')!r}, expected one of {STATUSES}")
    _check_shape(path, manifest)
    return manifest


def _check_shape(path: Path, manifest: dict[str, Any]) -> None:
    """RunFormatError unless what is relied on here is what it should be: a stranger can seal a manifest, too."""
    coverage, derived, files = manifest.get("coverage", {}), manifest.get("derived", {}), manifest.get("files", [])
    if not isinstance(coverage, dict) or not isinstance(derived, dict) or not isinstance(files, list):
        raise RunFormatError(f"{path}: coverage and derived must be objects, files a list; make the run again")
    pairs = [(entry.get("path"), entry.get("sha256")) if isinstance(entry, dict) else (None,)
             for entry in [*files, *derived.values()]]  # fmt: skip
    texts = [manifest.get("tables", ""), *(text for pair in pairs for text in pair)]
    if not all(type(n) is int for n in coverage.values()) or not all(isinstance(text, str) for text in texts):
        raise RunFormatError(f"{path}: a count is no whole number or a file no path and checksum; make the run again")


def write_manifest(run: Path, manifest: dict[str, Any]) -> None:
    """Write ``manifest.json`` atomically, sealed with a checksum of itself."""
    write_json(run / "manifest.json", manifest)


def write_table(run: Path, name: str, frame: pd.DataFrame) -> None:
    """Write a table of the run as Parquet, atomically."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink, compression="zstd")
    write_atomic(run / f"{name}.parquet", sink.getvalue().to_pybytes())


def write_derived(
    run: Path, tables: str, name: str, frame: pd.DataFrame, settings: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Write a derived table into the folder of a merge ("" for the last) and return its entry for the manifest.

    The entry carries the table's settings and their hash.
    """
    write_table(run / tables, name, frame)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    entry = _entry(run, run / tables / f"{name}.parquet")
    return {name: entry | {"settings": settings, "settings_hash": digest}}


def write_array(run: Path, relative: Path, array: np.ndarray) -> None:
    """Write a C-ordered array as ``.npy``, atomically, without pickle."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    write_atomic(run / relative, buffer.getvalue())


def list_files(run: Path, tables: str = "") -> list[dict[str, Any]]:
    """What the manifest says of every table and array but the derived ones: path, bytes, SHA-256.

    ``tables`` names the folder of a merge that is not the last: its files, and what no merge changes.
    """
    paths = {path.relative_to(run).as_posix(): path for path in run.rglob("*") if path.suffix in (".parquet", ".npy")}
    paths = {name: path for name, path in paths.items() if path.stem not in DERIVED}
    if tables:
        unmerged = [f"{name}.parquet" for name in UNMERGED]
        names = [name for name in paths if name in unmerged or name.startswith(f"{tables}/")]
    else:
        names = [name for name in paths if not name.startswith(("shards/", f"{SO_FAR}/"))]
    return [_entry(run, paths[name]) for name in sorted(names)]


def _entry(run: Path, path: Path) -> dict[str, Any]:
    return {"path": path.relative_to(run).as_posix(), "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def hash_files(files: list[dict[str, Any]]) -> str:
    """One hash for what a run found: SHA-256 over the checksums of its tables and arrays, in path order.

    ``shards`` stays out: how often a shard was tried and how long it took is no result.
    """
    lines = [f"{entry['path']} {entry['sha256']}" for entry in files if not entry["path"].endswith("shards.parquet")]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
