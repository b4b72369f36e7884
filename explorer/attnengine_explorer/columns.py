"""Which statistics a run's tables hold, what they are called, and why a value may be missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from attnengine.statistics.catalogue import HEADS, NEURONS, TYPES, Statistic

KEYS = ("site", "layer", "kind", "stack", "head", "neuron")
#: A title in a list stays on one line; the column's own name is hostile text until it is shown inert.
MAX_NAME = 64
_BESIDE_SCORE = ("_lo", "_hi", "_null", "_q")  # of a head type
_NEED_POSITIONS = ("offset_mean", "distance_mean", "self_mass", "previous_mass", "next_mass", "qk_distance_corr")


def of_heads(heads: pd.DataFrame) -> dict[str, Statistic]:
    """The statistics of a ``heads`` table: the catalogue's in its order, then columns the catalogue does not know."""
    return _statistics(heads, HEADS | {entry.name: entry for entry in TYPES.values()})


def of_neurons(neurons: pd.DataFrame) -> dict[str, Statistic]:
    """The statistics of a ``neurons`` table."""
    return _statistics(neurons, NEURONS)


def _statistics(table: pd.DataFrame, catalogue: dict[str, Statistic]) -> dict[str, Statistic]:
    known = {name: entry for name, entry in catalogue.items() if name in table.columns}
    return known | {name: _unknown(name, table[name]) for name in table.columns if _is_extra(table, name, catalogue)}


def _is_extra(table: pd.DataFrame, name: str, catalogue: dict[str, Statistic]) -> bool:
    """A numeric column that is neither a key, nor in the catalogue, nor says more about another (error, rows, null)."""
    if name in KEYS or name in catalogue or not name.isidentifier() or not name.isascii() or len(name) > MAX_NAME:
        return False
    if any(name.endswith(end) and name.removesuffix(end) in table.columns for end in ("_se", "_n")):
        return False
    if any(name.endswith(end) and f"{name.removesuffix(end)}_score" in table.columns for end in _BESIDE_SCORE):
        return False
    return pd.api.types.is_numeric_dtype(table[name]) and not pd.api.types.is_bool_dtype(table[name])


def _unknown(name: str, values: pd.Series) -> Statistic:
    is_mass = name.endswith("_mass")
    title = name.removesuffix("_mass").replace("_", " ")
    lowest = float(np.nanmin(values.to_numpy(dtype=float), initial=0.0))
    return Statistic(
        name=name,
        title=f"On {title}" if is_mass else title.capitalize(),
        unit="share" if is_mass else "",
        low=0.0 if lowest >= 0 else None,
        high=1.0 if is_mass else None,
        formula=f"Σ_j p_ij over tokens of the class “{title}”" if is_mass else f"column “{name}” of this run",
        group="where it looks" if is_mass else "other",
    )


def grouped(statistics: dict[str, Statistic]) -> list[tuple[str, list[Statistic]]]:
    """Statistics by group, groups in the order in which they first appear; what only checks a run comes last."""
    groups: dict[str, list[Statistic]] = {}
    for entry in statistics.values():
        groups.setdefault(entry.group, []).append(entry)
    return sorted(groups.items(), key=lambda item: item[0] == "checks")


def why_missing(statistic: str, row: dict[str, Any], nan_heads: frozenset[tuple[int, int]], has_sink: bool) -> str:
    """One sentence for a value that is null in a row of ``heads`` (or of ``neurons``)."""
    if (row["site"], row["head"]) in nan_heads:
        return "this head produced NaN or infinite numbers"
    if row.get("kind") == "cross" and statistic in _NEED_POSITIONS:
        return "offsets have no meaning in cross-attention"
    if statistic == "learned_sink_mass" and not has_sink:
        return "this layer has no learned sink"
    if row.get(f"{statistic}_n") == 0:
        return "no row had a token of this class to look at"
    if row.get("n_queries") == 0:
        return "no row of this head saw a key"
    return "the run has no value here"
