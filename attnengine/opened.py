"""A run as it is read: tables as pandas DataFrames, arrays as memory maps, each checked when first asked for."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from attnengine.disk import inside, sha256_file
from attnengine.errors import EmbeddingError, RunFormatError
from attnengine.store import NOT_IN_CORE, TABLES, array_path, read_manifest, read_table

if TYPE_CHECKING:
    from attnengine.embedding.cloud import Embedding

#: What ``heads`` shows of ``clouds``.
CLOUD_COLUMNS = (
    "faithfulness_2d", "faithfulness_2d_se", "faithfulness_2d_n", "faithfulness_d", "faithfulness_d_se",
    "faithfulness_d_n", "trustworthiness", "continuity", "knn_preservation", "triplet_accuracy", "cross_share_d",
    "cross_share_2d", "n_clusters", "gauge", "grey", "leaves_out_bias",
)  # fmt: skip


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
