"""One's own statistics: ``ae.statistic`` turns a function of pattern rows into a column of ``heads``.

The function sees the whole pattern of the *sampled* rows, so the column is an estimate over them, with the clustered
error of the rows' documents. What it is called, what it means and the text of the function go into the plan, so that a
run goes on only with the same definition.
"""

from __future__ import annotations

import hashlib
import inspect
import keyword
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attnengine.statistics.catalogue import CATALOGUE, Statistic

OfRows = Callable[..., Any]
TAKEN = ("site", "layer", "kind", "stack", "head")


@dataclass(frozen=True)
class Own:
    """A registered statistic: its entry for tables and the explorer, and the function that computes it."""

    entry: Statistic
    of_rows: OfRows
    source_sha256: str

    def as_dict(self) -> dict[str, Any]:
        """What the manifest says of it."""
        entry = self.entry
        return {
            "name": entry.name, "title": entry.title, "unit": entry.unit, "low": entry.low, "high": entry.high,
            "formula": entry.formula, "source_sha256": self.source_sha256,
        }  # fmt: skip


OWN: dict[str, Own] = {}
PREFIX = "own_"  # of their sums in the shards


def statistic(
    name: str,
    *,
    title: str = "",
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    formula: str = "",
) -> Callable[[OfRows], OfRows]:
    """Register a statistic of attention rows; every later ``ae.analyze`` in this process adds it as a column.

    The decorated function takes (rows, queries, keys) and returns a tensor (n, h), NaN where a row does not count:
    ``rows`` is a :class:`attnengine_kernels.PatternRows` (p (n, h, k), visible (n, k), window and position (n,)),
    ``queries`` and ``keys`` the :class:`attnengine_kernels.TokenFacts` of the batch's windows. It is called with up to
    64 rows at a time, on the model's device. ``heads`` then has ``<name>``, ``<name>_se`` and ``<name>_n``.

    Registering a name again replaces it; ``attnengine.statistics.own.OWN.pop(name)`` takes it back.
    Raises ValueError for a name that is no identifier or is taken.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise ValueError(f"a statistic's name must be a Python identifier, got {name!r}")
    if name in CATALOGUE or name in TAKEN or name.endswith(("_mass", "_se", "_n", "_score")):
        raise ValueError(f"the name {name!r} is taken; choose one that is no column of the tables")

    def register(of_rows: OfRows) -> OfRows:
        if not callable(of_rows):
            raise TypeError(f"statistic {name}: expected a function, got {type(of_rows).__name__}")
        entry = Statistic(name, title or name, unit, low, high, formula or inspect.getdoc(of_rows) or "", "your own")
        OWN[name] = Own(entry, of_rows, _source_hash(of_rows))
        return of_rows

    return register


def _source_hash(of_rows: OfRows) -> str:
    """SHA-256 of the function's text, or of its compiled code where the text is not to be had."""
    try:
        text = inspect.getsource(of_rows).encode()
    except (OSError, TypeError):
        code = getattr(of_rows, "__code__", None)
        text = code.co_code + repr(code.co_consts).encode() if code is not None else repr(of_rows).encode()
    return hashlib.sha256(text).hexdigest()
