"""The one place that knows the disk: the run directory.

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
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from attnengine.disk import inside, parse_json, sha256_file, unsealed, write_atomic, write_json
from attnengine.errors import EmbeddingError, RunFormatError

if TYPE_CHECKING:
    from attnengine.embedding.cloud import Embedding

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
#: What ``heads`` shows of ``clouds``.
CLOUD_COLUMNS = (
    "faithfulness_2d", "faithfulness_2d_se", "faithfulness_2d_n", "faithfulness_d", "faithfulness_d_se",
    "faithfulness_d_n", "trustworthiness", "continuity", "knn_preservation", "triplet_accuracy", "cross_share_d",
    "cross_share_2d", "n_clusters", "gauge", "grey",
)  # fmt: skip
#: What a run made with ``--stats core`` does not write.
NOT_IN_CORE = ("profiles", "patterns", "key_tokens")


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a run directory for reading, a running one too: its tables are those of the last merge.

    Raises RunFormatError if the folder is no run, is damaged, or of a version this release cannot read.
    """
    return Run(Path(path))


class Run:
    """A run: tables as pandas DataFrames, arrays as read-only numpy memory maps, loaded and checked when asked for.

    Of a run that is not finished it shows what the last merge found; :attr:`coverage` says what share that is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: dict[str, Any] = read_manifest(path)
        self._derived: dict[str, Any] = self.manifest.get("derived", {})
        entries = [*self.manifest.get("files", []), *self._derived.values()]
        self._listed: dict[str, str] = {entry["path"]: entry["sha256"] for entry in entries}
        self._checked: set[str] = set()

    def __repr__(self) -> str:
        model = self.manifest.get("model")
        model = model.get("id", "?") if isinstance(model, dict) else "?"
        done = self.coverage
        share = "" if done["shards"] == done["shards_planned"] else f" of {done['tokens_planned']:,}"
        return f"<Run {self.path} · {model} · {done['tokens']:,}{share} tokens>"

    @property
    def coverage(self) -> dict[str, int]:
        """What the tables are made from: ``shards``, ``windows`` and ``tokens``, and each of them as planned."""
        corpus = self.manifest.get("corpus")
        told = corpus if isinstance(corpus, dict) else {}
        whole = {"shards": 1} | {n: told[n] if type(told.get(n)) is int else 0 for n in ("windows", "tokens")}
        planned = {f"{name}_planned": value for name, value in whole.items()}
        done = whole if self.manifest["status"] == "complete" else dict.fromkeys(whole, 0)
        return done | planned | self.manifest.get("coverage", {})

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
    shards = cached_property(lambda self: self._table("shards"))
    key_tokens = cached_property(lambda self: self._table("key_tokens"))
    examples = cached_property(lambda self: self._table("examples"))
    for _name in set(TABLES) - {"heads"}:  # a cached_property made from a lambda does not know its own name
        locals()[_name].__doc__ = f"The table ``{_name}``, a pandas DataFrame (columns: STATISTICS.md)."
    del _name

    @cached_property
    def heads(self) -> pd.DataFrame:
        """The table ``heads``, a DataFrame, with columns of ``head_types`` and ``clouds`` where there are any."""
        heads = self._table("heads")
        if "head_types" in self._derived:
            heads = self._joined(heads, "head_types", list(self.head_types.columns))
        return self._joined(heads, "clouds", list(CLOUD_COLUMNS)) if "clouds" in self._derived else heads

    def _joined(self, heads: pd.DataFrame, name: str, columns: list[str]) -> pd.DataFrame:
        """``heads`` with those of the columns of a derived table that it does not have yet."""
        table = getattr(self, name)
        new = [column for column in columns if column in table.columns and column not in heads.columns]
        try:
            return heads.merge(table[["site", "head", *new]], on=["site", "head"], how="left", validate="1:1")
        except (KeyError, ValueError) as error:  # a MergeError is a ValueError
            message = f"{self.path}/{name}.parquet does not fit heads.parquet ({error}); make the run again"
            raise RunFormatError(message) from error

    @cached_property
    def head_types(self) -> pd.DataFrame:
        """The table ``head_types``, estimated from the sampled rows (STATISTICS.md, "Head types").

        RunFormatError if the run has none.
        """
        return self._derived_table(
            "head_types", "they are estimated from sampled rows, and it was made with --sample 0"
        )

    @cached_property
    def intervals(self) -> pd.DataFrame:
        """95 % intervals of the means in ``heads``: ``<statistic>_lo, _hi``, null where there are too few documents.

        RunFormatError if the run has none.
        """
        return self._derived_table("intervals", "it was made without")

    def _derived_table(self, name: str, reason: str) -> pd.DataFrame:
        if name not in self._derived:
            raise RunFormatError(
                f"{self.path} has no {name.replace('_', ' ')}: {reason}, or by an older release; make the run again"
            )
        return self._table(name)

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

    @cached_property
    def cluster_tokens(self) -> pd.DataFrame:
        """(site, head, cluster, rank): the tokens that mark each cluster of a cloud; EmbeddingError as ``clouds``."""
        self._embedded()
        return self._table("cluster_tokens")

    def _embedded(self) -> None:
        if "clouds" not in self._derived:
            raise EmbeddingError(f"{self.path} has no embedding yet; make it with `attnengine embed {self.path}`")

    @cached_property
    def clouds(self) -> pd.DataFrame:
        """(site, head): gauge, faithfulness and quality of each joint cloud, or why there is none.

        Raises EmbeddingError before `attnengine embed`.
        """
        self._embedded()
        return self._table("clouds")

    def embedding(self, site: int | None = None, head: int = 0, *, layer: int | None = None) -> Embedding:
        """The joint cloud of a head's sampled queries and keys; EmbeddingError says why there is none."""
        from attnengine.embedding.cloud import read_embedding

        return read_embedding(self, self._site(site, layer), head)

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
        return read_table(self._file(f"{name}.parquet").parent, name)

    def _array(self, relative: Path) -> np.ndarray:
        path = self._file(relative.as_posix())
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise RunFormatError(f"cannot read {path}: {error}; the run is damaged, make it again") from error

    def _file(self, relative: str) -> Path:
        """Where a table or array lies, compared with its checksum the first time."""
        merged = f"{self.manifest.get('tables', '')}/{relative}".lstrip("/")
        named = merged if merged in self._listed else relative
        path = inside(self.path, named)
        if named not in self._listed and self.manifest["status"] == "running":
            raise RunFormatError(
                f"{self.path} is still running and no {relative} was merged yet; "
                f"`attnengine merge {self.path} --partial` makes tables of what is there"
            )
        if named in self._listed and named not in self._checked:
            self._compare(named, path)
        return path

    def _compare(self, named: str, path: Path) -> None:
        wrong = _difference(self.path, named, self._listed[named])
        if wrong and read_manifest(self.path) != self.manifest:
            raise RunFormatError(f"{path} belongs to a newer merge of this run; open the run again")
        if wrong:
            raise RunFormatError(f"cannot read {path}: {wrong}; the run is damaged, `attnengine merge` makes it again")
        self._checked.add(named)

    def verify(self) -> list[str]:
        """Compare every file with the SHA-256 in the manifest; a list of what is wrong, empty if nothing is."""
        return list(filter(None, (_difference(self.path, name, sha256) for name, sha256 in self._listed.items())))


def _difference(run: Path, relative: str, sha256: str) -> str:
    """What is wrong with a file of the manifest's list; empty if nothing is."""
    path = inside(run, relative)
    if not path.is_file():
        return f"{relative} is missing"
    return "" if sha256_file(path) == sha256 else f"{relative} differs from its checksum"


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
