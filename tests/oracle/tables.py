"""The oracle's tables of one case, and how far a run's tables are from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tests.oracle.brute_force import Observations, observe
from tests.oracle.eager import Head, attend, windows_of
from tests.oracle.estimates import head_row, mean_pattern, neuron_rows, profile_row
from tests.oracle.facts import Window
from tests.oracle.models import Case
from tests.oracle.pairs import Pairs, pairs_of

Array = np.ndarray
#: u = 1 in the agreement rule: masses, entropies, correlations, shares.
UNIT = ("mass", "entropy", "entropy_normalized", "p_max", "qk_cosine", "received_gini", "qk_sign_agreement",
        "score_variance_share", "qk_distance_corr")  # fmt: skip


@dataclass(frozen=True)
class Oracle:
    """What a run of the case must say."""

    windows: list[Window]
    calls: list[list[list[Head]]]  # window -> layer -> head
    observed: list[list[Observations]]  # layer -> head
    heads: pd.DataFrame
    neurons: pd.DataFrame
    patterns: Array  # (layers, heads, 32, 32)


def brute_force(case: Case) -> Oracle:
    """Everything, from the eager model up."""
    model, windows = case.make("eager"), windows_of(case)
    documents = 1 + max(window.document for window in windows)
    observed: list[list[Observations]] = []
    calls = [attend(case, model, window) for window in windows]
    pairs: dict[tuple[int, str, str], Pairs] = {}
    for number, layer in enumerate(case.layers):
        width = calls[0][number][0].query.shape[1]
        mine = [Observations(documents, width) for _ in range(case.heads)]
        for w, (window, call) in enumerate(zip(windows, calls, strict=True)):
            if (w, layer.stack, layer.kind) not in pairs:
                keys = window.streams["encoder" if layer.kind == "cross" else layer.stack]
                pairs[w, layer.stack, layer.kind] = pairs_of(window.streams[layer.stack], keys, layer.kind == "cross")
            for out, head in zip(mine, call[number], strict=True):
                observe(out, head, pairs[w, layer.stack, layer.kind], window.document)
        observed.append(mine)
    where = [(n, h) for n in range(len(case.layers)) for h in range(case.heads)]
    heads = [place(case, n, h) | head_row(observed[n][h]) for n, h in where]
    neurons = [
        place(case, n, h) | {"neuron": d} | row for n, h in where for d, row in enumerate(neuron_rows(observed[n][h]))
    ]
    patterns = np.array([[mean_pattern(out) for out in mine] for mine in observed])
    return Oracle(windows, calls, observed, pd.DataFrame(heads), pd.DataFrame(neurons), patterns)


def place(case: Case, number: int, head: int) -> dict[str, Any]:
    """The keys of a row."""
    layer = case.layers[number]
    return {"site": number, "layer": layer.layer, "kind": layer.kind, "stack": layer.stack, "head": head}


def profiles_like(case: Case, oracle: Oracle, bins: list[tuple[int, int]]) -> pd.DataFrame:
    """The table ``profiles`` for the run's own bins, self-attention only."""
    rows = [
        place(case, n, h) | {"offset_lo": lo, "offset_hi": hi} | profile_row(oracle.observed[n][h], lo, hi)
        for n, layer in enumerate(case.layers)
        if layer.kind == "self"
        for h in range(case.heads)
        for lo, hi in bins
    ]
    return pd.DataFrame(rows)


def token_mass(one: Oracle, case: Case, number: int, head: int) -> dict[int, tuple[int, float, float]]:
    """token id -> (keys that a row sees, Σ 1/n_i, Σ p) of one head, pair by pair."""
    layer, found = case.layers[number], {}
    for window, call in zip(one.windows, one.calls, strict=True):
        queries = window.streams[layer.stack]
        keys = window.streams["encoder" if layer.kind == "cross" else layer.stack]
        seen = call[number][head].visible & np.array(queries.counted)[:, None]  # (q, k)
        fair = (seen / np.maximum(seen.sum(1, keepdims=True), 1)).sum(0)
        received = np.where(seen, call[number][head].pattern, 0).sum(0)
        for j in np.flatnonzero(seen.any(0)):
            assert keys.ids is not None
            n, expected, mass = found.get(keys.ids[j], (0, 0.0, 0.0))
            found[keys.ids[j]] = (n + 1, expected + fair[j], mass + received[j])
    return found


def deviations(found: pd.DataFrame, expected: pd.DataFrame, keys: list[str]) -> dict[str, float]:
    """For each column the largest |a − b| / max(|b|, u); infinite where only one side is null."""
    assert set(found.columns) == set(expected.columns)
    pd.testing.assert_frame_equal(found[keys], expected[keys], check_dtype=False)
    values = [name for name in expected.columns if name not in keys]
    return {name: deviation(found[name].to_numpy(float), expected[name].to_numpy(float), name) for name in values}


def deviation(found: Array, expected: Array, name: str = "") -> float:
    """The largest |a − b| / max(|b|, u), u the column's RMS, at most 1 where STATISTICS.md says u = 1.

    So a mass that is small in every head is judged more strictly than the rule asks. The defect alone keeps u = 1,
    its error too: it is nothing but rounding.
    """
    if (np.isnan(found) != np.isnan(expected)).any():
        return float("inf")
    real = ~np.isnan(expected)
    if not real.any():
        return 0.0
    a, b = found[real], expected[real]
    if name.endswith("_n") or name.startswith("n_"):
        return 0.0 if (a == b).all() else float("inf")
    unit = np.sqrt((b**2).mean())
    if name.endswith(UNIT):
        unit = min(unit, 1.0)
    if name.startswith("mass_defect"):
        unit = 1.0
    size = np.maximum(np.abs(b), unit)
    return float((np.abs(a - b) / np.where(size > 0, size, 1.0)).max())
