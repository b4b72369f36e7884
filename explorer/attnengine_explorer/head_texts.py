"""What a head does, as words and rows of tables: its types, the tokens it attends, and examples as sentences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from attnengine.errors import RunFormatError
from attnengine.statistics.catalogue import HEADS, TYPES
from attnengine_explorer.cloud_data import visible
from attnengine_explorer.numbers import count, estimate, number
from attnengine_explorer.run_data import RunData
from attnengine_explorer.similarity import alike

KEY_TOKENS = 12
#: Tokens shown before and after a query, and around its key.
BEFORE, AFTER, AROUND = 14, 6, 5
PAIR = "pair"
_EXAMPLE_COLUMNS = {"statistic", "rank", "decile", "token", "document", "window", "query_pos", "key_pos", "value"}


def type_rows(run: RunData, site: int, head: int) -> list[dict[str, Any]]:
    """Every head type: score, 95 % interval, what chance would give, q-value, and whether the head is of the type.

    Largest score above chance first; types that the head's kind of attention does not define come last, without
    numbers. Empty for a run without head types.
    """
    row = run.rows[run.index[site, head]]
    held = run.types[run.index[site, head]]
    rows: list[tuple[float, dict[str, Any]]] = []
    for name, title in run.type_titles.items():
        score, low, high, null, q = (
            float(row.get(f"{name}_{part}", np.nan)) for part in ("score", "lo", "hi", "null", "q")
        )
        one = {
            "title": title.removesuffix(" head"), "formula": TYPES[name].formula, "typed": name in held,
            "known": bool(np.isfinite(score)), "score": _share(score), "null": _share(null),
            "interval": f"{_share(low)} to {_share(high)}", "q": "< 0.001" if q < 1e-3 else number(q, 2),
            "bar": [_end(end) for end in (score, low, high, null)],
        }  # fmt: skip
        rows.append((np.nan_to_num(score - null, nan=-np.inf), one))
    return [one for _, one in sorted(rows, key=lambda pair: -pair[0])]


def _share(value: float) -> str:
    """Scores lie between 0 and 1: three decimals in one column."""
    return f"{value:.3f}" if np.isfinite(value) else "–"


def _end(value: float) -> float | None:
    """Where a bar ends, as a share of its room."""
    return round(float(np.clip(value, 0, 1)), 4) if np.isfinite(value) else None


def key_token_rows(run: RunData, site: int, head: int) -> list[dict[str, Any]] | str:
    """The tokens that a head attends more than their base rate explains, or why there are none."""
    rows = run.head_rows("key_tokens", site, head)
    needed = {"rank", "text", "share", "expected_share", "lift", "n_keys"}
    if rows is None or rows.empty or not needed <= set(rows.columns):
        return run.nothing_to_draw("key_tokens", "key tokens")
    top = rows.sort_values("rank").head(KEY_TOKENS)
    return [
        {
            "text": visible(one.text), "lift": number(one.lift, 3), "n": count(float(one.n_keys)),
            "share": number(100 * one.share, 3), "expected": number(100 * one.expected_share, 3),
            "bar": [_end(end / top.share.max()) for end in (one.share, one.expected_share)],
        }
        for one in top.itertuples()
    ]  # fmt: skip


def alike_rows(run: RunData, site: int, head: int, by: str) -> list[dict[str, Any]]:
    """The heads most like one, by the distance of a map: name, (site, head) and distance; empty without the map."""
    found = run.head_map(by)
    if isinstance(found, str):
        return []
    heads = list(run.index)
    near = alike(found, run.index[site, head])
    return [{"name": run.name(*heads[row]), "head": heads[row], "distance": number(d, 3)} for row, d in near]


def example_statistics(run: RunData) -> list[tuple[str, str]]:
    """What the run keeps examples of: (name, title), pairs of tokens first."""
    table = run.table("examples")
    if table is None or not set(table.columns) >= _EXAMPLE_COLUMNS:
        return []
    names = [str(name) for name in pd.unique(table["statistic"])]
    titles = {name: entry.title for name, entry in HEADS.items()} | {PAIR: "Heaviest pairs of tokens"}
    ordered = sorted(names, key=lambda name: (name != PAIR, name not in run.statistics, names.index(name)))
    return [(name, titles.get(name, name.replace("_", " ").capitalize())) for name in ordered]


def example_rows(run: RunData, site: int, head: int, of: str) -> list[dict[str, Any]] | str:
    """Examples of one statistic, or of pairs: the top ones, then one for each decile; or why there are none."""
    rows = run.head_rows("examples", site, head)
    if rows is None or not set(rows.columns) >= _EXAMPLE_COLUMNS:
        return run.nothing_to_draw("examples", "examples")
    mine = rows[rows["statistic"] == of]
    if mine.empty:
        return "This run keeps no such examples of this head: no sampled row has the value."
    top = mine[mine["rank"].notna()].sort_values("rank")
    deciles = mine[mine["decile"].notna()].sort_values("decile", ascending=False)
    return [_example(run, site, head, one) for one in pd.concat([top, deciles]).itertuples()]


def _example(run: RunData, site: int, head: int, one: Any) -> dict[str, Any]:
    statistic = run.statistics.get(one.statistic)
    unit = f" {statistic.unit}" if statistic is not None and statistic.unit not in ("", "share") else ""
    is_top = not pd.isna(one.rank)
    return {
        "place": f"{int(one.rank) + 1}." if is_top else f"{int(one.decile)}/9",
        "top": is_top,
        "value": estimate(float(one.value), np.nan) + unit,
        "token": int(one.token),
        "document": int(one.document),
        "where": f"{run.sample.document(int(one.document))} · token {int(one.query_pos)} of window {int(one.window)}",
        "parts": sentence(run, site, head, one),
    }


def sentence(run: RunData, site: int, head: int, one: Any) -> list[dict[str, Any]]:
    """The sampled tokens around a query and its heaviest key; ``weight`` is that of the query's pattern, if kept.

    A gap is a part without text. Keys of cross-attention stand in another text, so only the query's is shown.
    """
    weights = _weights(run, site, head, int(one.token))
    query, key = int(one.query_pos), int(one.key_pos)
    wanted = set(range(query - BEFORE, query + AFTER + 1))
    if run.sites[site].kind != "cross":
        wanted |= set(range(key - AROUND, key + AROUND + 1))
    positions = np.array(sorted(position for position in wanted if position >= 0), dtype=np.int64)
    rows = run.sample.rows(int(one.window), positions)
    parts: list[dict[str, Any]] = []
    last = None
    for position, row in zip(positions, rows, strict=True):
        if row < 0:
            continue
        if last is not None and position != last + 1:
            parts.append({"gap": int(position - last - 1)})
        part: dict[str, Any] = {"text": run.sample.text(int(row)), "position": int(position)}
        if position == query:
            part["query"] = True
        if int(position) in weights and run.sites[site].kind != "cross":
            part["weight"] = round(weights[int(position)], 4)
        parts.append(part)
        last = position
    return parts


def _weights(run: RunData, site: int, head: int, row: int) -> dict[int, float]:
    """Position → weight of the most attended keys of a sampled query; empty where the run keeps none."""
    try:
        keys, weights = run.run.top_keys(site), run.run.top_weights(site)
    except RunFormatError:
        return {}
    if keys.ndim != 3 or keys.shape != weights.shape or row >= len(keys) or head >= keys.shape[1]:
        return {}
    pairs = zip(np.asarray(keys[row, head]).tolist(), np.asarray(weights[row, head]).tolist(), strict=True)
    return {position: weight for position, weight in pairs if position >= 0 and np.isfinite(weight)}
