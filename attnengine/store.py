"""The one place that knows the disk: the run directory.

    RUN/
      manifest.json      format and version, status, model, corpus, settings, versions, figures, list of files
      sites.parquet      one row per attention call of the model
      heads.parquet      (site, head): every head statistic and its standard error
      neurons.parquet    (site, head, neuron): q⊙k statistics
      profiles.parquet   (site, head, offset_lo, offset_hi): mass by signed offset; not with --stats core
      patterns.npy       (site, head, 32, 32) fp32 mean pattern on relative positions; NaN where a site has fewer heads;
                         not with --stats core
      windows.parquet documents.parquet tokens.parquet      provenance; ``tokens`` is the sample
      arrays/site-000/queries.npy (n, H, D)  keys.npy (n, Hkv, D)  values.npy (n, Hkv, Dv)  row_entropy.npy (n, H)
                      top_keys.npy top_weights.npy (n, H, 16)      row = row of ``tokens``
      head_types.parquet (site, head): scores, nulls, intervals and q-values of head types; derived from the sample,
                         so not with --sample 0
      shards/            partial sums while the run grows (safetensors, checksummed)

Nothing here is pickled, every file is written under a temporary name, synced and renamed, and every path of the
manifest is checked to stay inside the folder: a run directory may come from a stranger.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from attnengine.errors import RunFormatError

FORMAT = "attnengine-run"
FORMAT_VERSION = 1
TABLES = ("sites", "heads", "neurons", "profiles", "windows", "documents", "tokens")
ARRAYS = ("queries", "keys", "values", "row_entropy", "top_keys", "top_weights")
#: Tables made from what a run keeps, each under settings of its own: they can be made again and leave the run's hash.
DERIVED = ("head_types",)
STATUSES = ("running", "complete")
#: What a run made with ``--stats core`` does not write.
NOT_IN_CORE = ("profiles", "patterns")


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a finished run directory for reading.

    Raises RunFormatError if the folder is no run, is damaged, unfinished, or of a version this release cannot read.
    """
    return Run(Path(path))


class Run:
    """A finished run: tables as pandas DataFrames, arrays as read-only numpy memory maps, loaded when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: dict[str, Any] = read_manifest(path)
        status = self.manifest.get("status")
        if status != "complete":
            raise RunFormatError(
                f"{path} is not finished (status {status!r}); continue it with `attnengine run … --resume`"
            )

    def __repr__(self) -> str:
        model = self.manifest.get("model", {}).get("id", "?")
        corpus = self.manifest.get("corpus", {})
        return f"<Run {self.path} · {model} · {corpus.get('tokens', 0):,} tokens>"

    @property
    def stats(self) -> str:
        """Which statistics the run was asked for: "all", or "core" for a run without profiles and patterns."""
        settings = self.manifest.get("settings")
        return "core" if isinstance(settings, dict) and settings.get("stats") == "core" else "all"

    sites = cached_property(lambda self: self._table("sites"))
    neurons = cached_property(lambda self: self._table("neurons"))
    profiles = cached_property(lambda self: self._table("profiles"))
    windows = cached_property(lambda self: self._table("windows"))
    documents = cached_property(lambda self: self._table("documents"))
    tokens = cached_property(lambda self: self._table("tokens"))
    for _name in (
        name for name in TABLES if name != "heads"
    ):  # a cached_property made from a lambda does not know its own name
        locals()[_name].__doc__ = f"The table ``{_name}``, a pandas DataFrame (columns: STATISTICS.md)."
    del _name

    @cached_property
    def heads(self) -> pd.DataFrame:
        """The table ``heads``, a pandas DataFrame; with the columns of ``head_types`` where the run has them."""
        heads = self._table("heads")
        if "head_types" not in self._derived:
            return heads
        types = self.head_types
        known = [name for name in types.columns if name in heads.columns and name not in ("site", "head")]
        try:
            return heads.merge(types.drop(columns=known), on=["site", "head"], how="left", validate="1:1")
        except (KeyError, ValueError) as error:  # a MergeError is a ValueError
            message = f"{self.path}/head_types.parquet does not fit heads.parquet ({error}); make the run again"
            raise RunFormatError(message) from error

    @cached_property
    def head_types(self) -> pd.DataFrame:
        """The table ``head_types``, estimated from the sampled rows (STATISTICS.md, "Head types").

        RunFormatError if the run has none.
        """
        if "head_types" not in self._derived:
            raise RunFormatError(
                f"{self.path} has no head types: they are estimated from sampled rows, and it was made with --sample 0 "
                "or by an older release; make the run again"
            )
        return read_table(self.path, "head_types")

    @property
    def _derived(self) -> dict[str, Any]:
        derived = self.manifest.get("derived")
        return derived if isinstance(derived, dict) else {}

    @cached_property
    def patterns(self) -> np.ndarray:
        """(site, head, 32, 32) fp32: mean pattern by relative query and key position."""
        self._expect("patterns")
        return self._array(Path("patterns.npy"))

    def queries(self, site: int | None = None, *, layer: int | None = None) -> np.ndarray:
        """(n, H, D) sampled queries as attention saw them, row = row of ``tokens``."""
        return self._site_array("queries", site, layer)

    def keys(self, site: int | None = None, *, layer: int | None = None) -> np.ndarray:
        """(n, Hkv, D) sampled keys; the key head of query head h is ``h // (n_heads // n_kv_heads)``."""
        return self._site_array("keys", site, layer)

    def values(self, site: int | None = None, *, layer: int | None = None) -> np.ndarray:
        """(n, Hkv, Dv) sampled values."""
        return self._site_array("values", site, layer)

    def row_entropy(self, site: int | None = None, *, layer: int | None = None) -> np.ndarray:
        """(n, H) entropy in nats of each sampled query's pattern; 0 where it sees no key."""
        return self._site_array("row_entropy", site, layer)

    def top_keys(self, site: int | None = None, *, layer: int | None = None) -> np.ndarray:
        """(n, H, 16) positions in the window of the most attended keys, -1 where fewer are visible."""
        return self._site_array("top_keys", site, layer)

    def top_weights(self, site: int | None = None, *, layer: int | None = None) -> np.ndarray:
        """(n, H, 16) their pattern weights, descending."""
        return self._site_array("top_weights", site, layer)

    def _site_array(self, name: str, site: int | None, layer: int | None) -> np.ndarray:
        return self._array(array_path(self._site(site, layer), name))

    def _site(self, site: int | None, layer: int | None) -> int:
        """The one site meant by ``site`` or ``layer``; ValueError lists the sites if that is not one."""
        if (site is None) == (layer is None):
            raise ValueError("give either site= or layer=")
        table = self.sites
        found = table[table.layer == layer] if site is None else table[table.site == site]
        if len(found) != 1:
            rows = table.itertuples()
            listing = ", ".join(f"{row.site} ({row.stack or 'layer'} {row.layer} {row.kind})" for row in rows)
            raise ValueError(f"expected one site, {site=} {layer=} names {len(found)}; sites are {listing}")
        return int(found.site.iloc[0])

    def _expect(self, name: str) -> None:
        """RunFormatError if the run was never meant to hold the table or array ``name``."""
        if self.stats == "core" and name in NOT_IN_CORE:
            raise RunFormatError(
                f"{self.path} was made with --stats core, which keeps no {name}; make the run again with --stats all"
            )

    def _table(self, name: str) -> pd.DataFrame:
        self._expect(name)
        return read_table(self.path, name)

    def _array(self, relative: Path) -> np.ndarray:
        path = self.path / relative
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise RunFormatError(f"cannot read {path}: {error}; the run is damaged, make it again") from error

    def verify(self) -> list[str]:
        """Compare every file with the SHA-256 in the manifest; a list of what is wrong, empty if nothing is."""
        wrong = []
        for entry in [*self.manifest.get("files", []), *self._derived.values()]:
            path = inside(self.path, entry["path"])
            if not path.is_file():
                wrong.append(f"{entry['path']} is missing")
            elif sha256_file(path) != entry["sha256"]:
                wrong.append(f"{entry['path']} differs from its checksum")
        return wrong


def read_table(run: Path, name: str) -> pd.DataFrame:
    """A table of the run; a missing statistic is NaN in a float column, a missing text None."""
    path = run / f"{name}.parquet"
    try:
        return pq.read_table(path).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise RunFormatError(f"cannot read {path}: {error}; the run is damaged, make it again") from error


def array_path(site: int, name: str) -> Path:
    """Where an array of a site lies inside a run directory."""
    return Path("arrays") / f"site-{site:03d}" / f"{name}.npy"


def read_manifest(run: Path) -> dict[str, Any]:
    """The manifest of a run directory, checked for format and version; RunFormatError says what is wrong."""
    path = run / "manifest.json"
    if not run.is_dir():
        raise RunFormatError(f"{run} is not a folder; expected a run directory made by `attnengine run`")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFormatError(f"{run} has no manifest.json; expected a run directory made by `attnengine run`") from None
    except (OSError, ValueError) as error:
        raise RunFormatError(f"{path} is not readable JSON ({error}); the run is damaged, make it again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise RunFormatError(f"{path} is not an attnengine manifest (expected format {FORMAT!r})")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise RunFormatError(
            f"{run} has format version {version!r}, this release reads {FORMAT_VERSION}; "
            "make the run again, or open it with the release that made it"
        )
    if manifest.get("status") not in STATUSES:
        raise RunFormatError(f"{path} has status {manifest.get('status')!r}, expected one of {STATUSES}")
    return manifest


def inside(run: Path, relative: str) -> Path:
    """``run / relative``, refused with RunFormatError if that leaves the folder."""
    path = (run / relative).resolve()
    if not path.is_relative_to(run.resolve()):
        raise RunFormatError(f"{run} names the file {relative!r} outside itself; do not trust this run")
    return path


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write under a temporary name, sync, rename, sync the folder: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        commit(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def commit(temporary: Path, path: Path) -> None:
    """Rename a synced temporary file into place and sync the folder that names it."""
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_manifest(run: Path, manifest: dict[str, Any]) -> None:
    """Write ``manifest.json`` atomically; NaN is written as null, since JSON has no NaN."""
    text = json.dumps(_json_safe(manifest), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(run / "manifest.json", text.encode("utf-8"))


def _json_safe(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def write_table(run: Path, name: str, frame: pd.DataFrame) -> None:
    """Write a table of the run as Parquet, atomically."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink, compression="zstd")
    write_atomic(run / f"{name}.parquet", sink.getvalue().to_pybytes())


def write_derived(
    run: Path, manifest: dict[str, Any], name: str, frame: pd.DataFrame, settings: dict[str, Any]
) -> None:
    """Write a derived table and enter it, with its settings and their hash, into ``manifest`` (not yet written)."""
    write_table(run, name, frame)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    entry = {**_entry(run, run / f"{name}.parquet"), "settings": settings, "settings_hash": digest}
    manifest["derived"] = manifest.get("derived", {}) | {name: entry}


def write_array(run: Path, relative: Path, array: np.ndarray) -> None:
    """Write a C-ordered array as ``.npy``, atomically, without pickle."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    write_atomic(run / relative, buffer.getvalue())


def list_files(run: Path) -> list[dict[str, Any]]:
    """What the manifest says of every table and array but the derived ones: path, bytes, SHA-256."""
    paths = sorted(path for path in run.rglob("*") if path.suffix in (".parquet", ".npy"))
    kept = (path for path in paths if "shards" not in path.relative_to(run).parts and path.stem not in DERIVED)
    return [_entry(run, path) for path in kept]


def _entry(run: Path, path: Path) -> dict[str, Any]:
    return {"path": path.relative_to(run).as_posix(), "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def hash_files(files: list[dict[str, Any]]) -> str:
    """One hash for the whole run: SHA-256 over the checksums of its tables and arrays, in path order."""
    return hashlib.sha256("\n".join(f"{entry['path']} {entry['sha256']}" for entry in files).encode()).hexdigest()
