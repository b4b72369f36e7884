"""What the explorer takes from a run: checked once, read lazily, shared by all sessions, never written.

Everything in a run directory may come from a stranger, so each value is used as a number or as inert text.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from attnengine.errors import RunFormatError
from attnengine.opened import open_run
from attnengine.records import Site, head_name
from attnengine.statistics.catalogue import TYPES, Statistic
from attnengine.store import NOT_IN_CORE
from attnengine_explorer import columns
from attnengine_explorer.atlas import Grid, lay_out
from attnengine_explorer.fields import OfType
from attnengine_explorer.sentence.studio import Studio
from attnengine_explorer.state import ViewState

if TYPE_CHECKING:
    from attnengine_explorer.points.heads import HeadClouds
    from attnengine_explorer.sample import Sample
    from attnengine_explorer.similarity import HeadMap

MAX_HEADS = 20_000
_SITE_COLUMNS = tuple(Site.__dataclass_fields__)


class RunData:
    """A run, opened for looking at. ``path`` is where it lies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stamp = stamp_of(path)
        self.run = open_run(path)
        self.manifest: dict[str, Any] = self.run.manifest
        self.sites = _sites(path, self.run.sites)
        self.heads = _heads(path, self.run.heads, self.sites)
        self.statistics = columns.of_heads(self.heads)
        if not self.statistics:
            raise RunFormatError(f"{path} has no statistic in heads.parquet; the run is damaged, make it again")
        #: Statistic → what every head's number says; head_data.py writes them once for all pages.
        self.texts: dict[str, np.ndarray] = {}
        self._maps: dict[str, HeadMap | str] = {}
        self._positions: dict[str, dict[tuple[int, int], np.ndarray]] = {}
        self.grid: Grid = lay_out(list(self.sites.values()))

    @cached_property
    def studio(self) -> Studio:
        """Where sentences are put through the run's model; nothing is loaded before the first one."""
        return Studio(self.run)

    @property
    def outdated(self) -> bool:
        """Whether the run's folder holds other tables than when it was opened."""
        return stamp_of(self.path) != self.stamp

    @cached_property
    def nan_heads(self) -> frozenset[tuple[int, int]]:
        """(site, head) whose numbers were NaN or infinite, as the manifest says."""
        listed = self.manifest.get("nan_heads")
        pairs = listed if isinstance(listed, list) else []
        return frozenset(
            (pair[0], pair[1])
            for pair in pairs
            if isinstance(pair, list) and len(pair) == 2 and all(isinstance(n, int) for n in pair)
        )

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """``heads`` as plain dictionaries, ordered by site and head."""
        return self.heads.to_dict("records")

    @cached_property
    def index(self) -> dict[tuple[int, int], int]:
        """(site, head) → row of ``heads``."""
        return {(row["site"], row["head"]): i for i, row in enumerate(self.rows)}

    def name(self, site: int, head: int) -> str:
        """``L5H3``."""
        return head_name(self.sites[site], head)

    def why_missing(self, statistic: str, row: dict[str, Any]) -> str:
        """Why ``statistic`` is null in a row of ``heads`` or ``neurons``."""
        return columns.why_missing(statistic, row, self.nan_heads, self.sites[row["site"]].has_sink)

    def nothing_to_draw(self, name: str, drawn: str) -> str:
        """The line in place of a plot of ``drawn``, which the open head has no rows for in ``name``."""
        if self.run.stats == "core" and name in NOT_IN_CORE:
            return f"This run was made with --stats core: no {name}."
        return f"This run keeps no {drawn} of this head."

    @cached_property
    def intervals(self) -> pd.DataFrame | None:
        """The table ``intervals`` in the order of ``heads``, or None."""
        table = self.table("intervals")
        if table is None or not {"site", "head"} <= set(table.columns) or table.duplicated(["site", "head"]).any():
            return None
        return self.heads[["site", "head"]].merge(table, on=["site", "head"], how="left")

    @cached_property
    def types(self) -> list[frozenset[str]]:
        """The types of each head, in the order of ``heads``; empty sets where the run has none."""
        listed = self.heads["types"] if "types" in self.heads else [""] * len(self.heads)
        return [
            frozenset(filter(None, str(types).split(","))) if isinstance(types, str) else frozenset()
            for types in listed
        ]

    @cached_property
    def type_titles(self) -> dict[str, str]:
        """Type → title, of the types that this run's heads were judged by."""
        return {name: entry.title for name, entry in TYPES.items() if entry.name in self.heads}

    @cached_property
    def neuron_statistics(self) -> dict[str, Statistic]:
        """The statistics of ``neurons``; empty if the table cannot be read."""
        table = self.table("neurons")
        return {} if table is None else columns.of_neurons(table)

    def table(self, name: str) -> pd.DataFrame | None:
        """A table of the run, or None where it is missing or damaged: the panel that wants it says so."""
        try:
            return getattr(self.run, name)
        except RunFormatError:
            return None

    def head_rows(self, name: str, site: int, head: int) -> pd.DataFrame | None:
        """The rows of ``neurons`` or ``profiles`` for one head; None without the table, empty without rows."""
        rows = self._rows_by_head(name)
        table = self.table(name)
        return None if rows is None or table is None else table.iloc[rows.get((site, head), [])]

    def _rows_by_head(self, name: str) -> dict[tuple[int, int], np.ndarray] | None:
        table = self.table(name)
        if table is None or not {"site", "head"} <= set(table.columns):
            return None
        if name not in self._positions:
            self._positions[name] = dict(table.groupby(["site", "head"]).indices)
        return self._positions[name]

    @cached_property
    def patterns(self) -> np.ndarray | None:
        """(site, head, bins, bins) mean patterns, or None if the file is missing or of another shape."""
        try:
            patterns = self.run.patterns
        except RunFormatError:
            return None
        fits = patterns.ndim == 4 and patterns.dtype.kind == "f" and patterns.shape[2] == patterns.shape[3] <= 256
        return patterns if fits else None

    @cached_property
    def sample(self) -> Sample:
        """The sampled tokens by their places."""
        from attnengine_explorer.sample import Sample

        return Sample(self)

    def head_map(self, by: str) -> HeadMap | str:
        """The map of similar heads by "statistics", "patterns" or "profiles", made once; or why there is none."""
        from attnengine_explorer.similarity import head_map

        if by not in self._maps:
            self._maps[by] = head_map(self, by)
        return self._maps[by]

    def pattern(self, site: int, head: int) -> np.ndarray | None:
        """One head's mean pattern (query bin, key bin), None if the run has none for it."""
        patterns = self.patterns
        if patterns is None or site >= patterns.shape[0] or head >= patterns.shape[1]:
            return None
        pattern = np.asarray(patterns[site, head], dtype=np.float32)
        return pattern if np.isfinite(pattern).any() else None

    @cached_property
    def clouds(self) -> HeadClouds:
        """What views of clouds read, loaded when the first of them is shown."""
        from attnengine_explorer.points.heads import HeadClouds

        return HeadClouds(self)

    def fitted(self, state: ViewState) -> ViewState:
        """``state`` with what this run does not have replaced: a link may have been made on another run."""
        default = ViewState()
        state = replace(
            state,
            statistic=_held(state.statistic, default.statistic, self.statistics),
            x_statistic=_held(state.x_statistic, default.x_statistic, self.statistics),
            y_statistic=_held(state.y_statistic, default.y_statistic, self.statistics),
            neuron_statistic=_held(state.neuron_statistic, default.neuron_statistic, self.neuron_statistics),
        )
        if state.selected is not None and state.selected not in self.index:
            state = replace(state, site=None, head=None)
        return replace(
            state,
            heads=tuple(head for head in state.heads if head in self.index),
            filters=tuple(one for one in state.filters if isinstance(one, OfType) or one.statistic in self.statistics),
            document=self._row_of("documents", state.document),
            token=self._row_of("tokens", state.token),
        )

    def _row_of(self, name: str, row: int | None) -> int | None:
        """``row`` if the table has it."""
        table = None if row is None else self.table(name)
        return row if table is not None and row is not None and row < len(table) else None


def stamp_of(path: Path) -> tuple[int, int] | None:
    """When the manifest of a folder was written (ns since 1970) and how long it is; None where there is none.

    Every merge and every embedding ends by writing it, so that it says whether a run is still the one that was opened.
    """
    try:
        found = (path / "manifest.json").stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _held(chosen: str, default: str, statistics: dict[str, Statistic]) -> str:
    """The chosen column if the run holds it, else the default, else its first; the default of a run without any."""
    return next((name for name in (chosen, default, *statistics) if name in statistics), default)


def _sites(path: Path, table: pd.DataFrame) -> dict[int, Site]:
    """Site records by number; RunFormatError names what is missing."""
    missing = [name for name in _SITE_COLUMNS if name not in table.columns]
    if missing:
        raise RunFormatError(f"{path}/sites.parquet lacks the columns {missing}; the run is damaged, make it again")
    try:
        sites = [_site(row) for row in table.to_dict("records")]
    except (TypeError, ValueError) as error:
        raise RunFormatError(f"{path}/sites.parquet does not hold sites ({error}); make the run again") from error
    if not sites or any(not 0 < site.n_heads <= MAX_HEADS for site in sites):
        raise RunFormatError(f"{path}/sites.parquet names no site, or one without heads; make the run again")
    return {site.site: site for site in sorted(sites, key=lambda site: site.site)}


def _site(row: dict[str, Any]) -> Site:
    integers = ("site", "ordinal", "layer", "n_heads", "n_kv_heads", "d_qk", "d_v")
    texts = ("module", "stack", "kind")
    values: dict[str, Any] = {name: int(row[name]) for name in integers}
    values |= {name: str(row[name] or "") for name in texts}
    values |= {"has_sink": bool(row["has_sink"]), "has_bias": bool(row["has_bias"]), "scale": float(row["scale"])}
    values["window"] = None if pd.isna(row["window"]) else int(row["window"])
    values["softcap"] = None if pd.isna(row["softcap"]) else float(row["softcap"])
    return Site(**values)


def _heads(path: Path, table: pd.DataFrame, sites: dict[int, Site]) -> pd.DataFrame:
    """``heads`` ordered by site and head, checked against the sites."""
    where = f"{path}/heads.parquet"
    if not {"site", "head"} <= set(table.columns):
        raise RunFormatError(f"{where} lacks the columns site and head; the run is damaged, make it again")
    if not 0 < len(table) <= MAX_HEADS or table.duplicated(["site", "head"]).any():
        raise RunFormatError(f"{where} holds {len(table)} rows, expected one per head; make the run again")
    known = {(site.site, head) for site in sites.values() for head in range(site.n_heads)}
    strangers = [pair for pair in zip(table["site"], table["head"], strict=True) if pair not in known]
    if strangers:
        raise RunFormatError(f"{where} names the head {strangers[0]}, which no site has; make the run again")
    return table.sort_values(["site", "head"], ignore_index=True)
