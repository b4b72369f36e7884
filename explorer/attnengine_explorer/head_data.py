"""The numbers of one head's panel: its statistics as text, its offset profile, its neurons."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from attnengine.statistics.catalogue import Statistic
from attnengine_explorer.columns import grouped
from attnengine_explorer.numbers import count, estimate, number
from attnengine_explorer.run_data import RunData


def value_text(run: RunData, statistic: Statistic, row: dict[str, Any]) -> str:
    """``0.342 ± 0.012 nats`` or why there is no number."""
    value = float(row[statistic.name])
    if np.isnan(value):
        return f"not defined here: {run.why_missing(statistic.name, row)}"
    if statistic.estimator == "count":
        return count(value)
    text = estimate(value, float(row.get(f"{statistic.name}_se", np.nan)))
    return f"{text} {statistic.unit}" if statistic.unit not in ("", "share") else text


def value_texts(run: RunData, statistic: Statistic) -> np.ndarray:
    """:func:`value_text` of every head, (heads,) of strings; not to be written to."""
    if statistic.name not in run.texts:
        run.texts[statistic.name] = np.array([value_text(run, statistic, row) for row in run.rows], dtype=object)
    return run.texts[statistic.name]


def summary(run: RunData, site: int, head: int) -> dict[str, Any]:
    """Title, site facts and every statistic of a head, as text by group."""
    row = run.rows[run.index[site, head]]
    where = run.sites[site]
    facts = [
        f"{where.n_heads} heads" + (f", {where.n_kv_heads} key heads" if where.n_kv_heads != where.n_heads else "")
    ]
    facts.append(f"{where.d_qk} neurons")
    facts += [f"window {where.window}"] if where.window is not None else []
    facts += [f"soft-cap {number(where.softcap)}"] if where.softcap is not None else []
    facts += ["learned sink"] if where.has_sink else []
    facts += ["position bias"] if where.has_bias else []
    groups = []
    for name, entries in grouped(run.statistics):
        lines = [
            {
                "title": e.title,
                "value": value_text(run, e, row),
                "formula": e.formula,
                "null": bool(np.isnan(row[e.name])),
            }
            for e in entries
        ]
        groups.append({"name": name, "rows": lines})
    return {"name": run.name(site, head), "module": where.module, "facts": " · ".join(facts), "groups": groups}


def offset_axis(offset: np.ndarray) -> np.ndarray:
    """Where an offset i − j is drawn: keys before the query on the left, logarithmic on both sides, 0 at 0."""
    offset = np.asarray(offset, dtype=float)
    return -np.sign(offset) * np.log2(1 + np.abs(offset))


def offset_ticks(low: float, high: float) -> dict[float, str]:
    """Axis position → distance, for 0 and those powers of two that stand an eighth of the axis apart."""
    apart = (high - low) / 8
    shown: dict[float, str] = {0.0: "0"}
    last = 0.0
    for distance in (2**k for k in range(21)):
        x = float(np.log2(1 + distance))
        if x - last >= apart:
            last = x
            shown |= {side * x: f"{distance:,}" for side in (-1, 1)}
    return {x: label for x, label in sorted(shown.items()) if low - 0.2 <= x <= high + 0.2}


def profile(rows: pd.DataFrame) -> dict[str, Any]:
    """Columns for the profile's picture, ordered from the farthest earlier key to the farthest later one.

    Beyond 127 tokens a bin holds many offsets, so mass is divided by the bin's width. Bins that no row could see
    are left out: under a causal mask the right side is empty.
    """
    seen = rows[rows["n_rows"] > 0] if "n_rows" in rows.columns else rows
    low, high = seen["offset_lo"].to_numpy(), seen["offset_hi"].to_numpy()
    width = (high - low).astype(float)
    middle = (low + high - 1) / 2
    mass = seen["mass"].to_numpy(dtype=float)
    error = seen["mass_se"].to_numpy(dtype=float) if "mass_se" in seen.columns else np.full(len(seen), np.nan)
    order = np.argsort(offset_axis(middle), kind="stable")
    band = np.nan_to_num(error)
    where = [_offset_text(int(a), int(b)) for a, b in zip(low, high, strict=True)]
    columns = {
        "x": offset_axis(middle),
        "y": mass / width,
        "lower": np.maximum(mass - band, 0) / width,
        "upper": (mass + band) / width,
        "where": np.array(where, dtype=object),
        "mass": np.array([estimate(m, e) for m, e in zip(mass, error, strict=True)], dtype=object),
    }
    return {name: list(np.asarray(column)[order]) for name, column in columns.items()}


def _offset_text(low: int, high: int) -> str:
    """The keys of a bin in words."""
    if low == 0 and high == 1:
        return "the token itself"
    near, far = (low, high - 1) if low > 0 else (-(high - 1), -low)
    distance = f"{near:,}" if near == far else f"{near:,} to {far:,}"
    return f"{distance} {'token' if near == far == 1 else 'tokens'} {'before' if low > 0 else 'after'}"


def neurons(rows: pd.DataFrame, statistic: Statistic, order: str) -> dict[str, Any]:
    """Columns for the bars of one neuron statistic, by neuron or by size; null values leave no bar."""
    value = rows[statistic.name].to_numpy(dtype=float)
    se = f"{statistic.name}_se"
    error = rows[se].to_numpy(dtype=float) if se in rows.columns else np.full(len(rows), np.nan)
    neuron = rows["neuron"].to_numpy()
    keep = np.flatnonzero(np.isfinite(value))
    keys = (neuron[keep], -np.abs(value[keep])) if order == "value" else (neuron[keep],)
    keep = keep[np.lexsort(keys)]
    band = np.nan_to_num(error[keep])
    return {
        "x": np.arange(len(keep)) if order == "value" else neuron[keep],
        "value": value[keep],
        "lower": value[keep] - band,
        "upper": value[keep] + band,
        "neuron": neuron[keep],
        "text": [estimate(v, e) for v, e in zip(value[keep], error[keep], strict=True)],
    }


def relative_bin(index: int, bins: int) -> str:
    """``25–28 %`` of the window, for bin ``index`` of ``bins``."""
    return f"{100 * index / bins:.0f}–{100 * (index + 1) / bins:.0f} %"
