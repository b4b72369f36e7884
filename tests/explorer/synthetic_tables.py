"""What a full run has beside its sums: intervals, head types, key tokens, examples, top keys, of invented numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from attnengine import store
from attnengine.opened import open_run
from attnengine.statistics.catalogue import HEADS, TYPES

KEYS = ["site", "layer", "kind", "stack", "head"]


def with_derived(path: Path) -> Path:
    """Add them to a run of synthetic_run.py; the same run gives the same numbers."""
    rng = np.random.default_rng(1)
    run = open_run(path)
    heads, tokens, sites = run.heads, run.tokens, run.sites
    store.write_table(path, "key_tokens", key_tokens(rng, heads, tokens))
    for site in sites.itertuples():
        write_top_keys(path, rng, site, len(tokens))
    store.write_table(path, "examples", examples(rng, heads, tokens))
    derived = store.write_derived(path, "", "intervals", intervals(heads), {"level": 0.95})
    derived |= store.write_derived(path, "", "head_types", head_types(rng, heads), {"seed": 0})
    store.write_manifest(path, run.manifest | {"files": store.list_files(path), "derived": derived})
    return path


def intervals(heads: pd.DataFrame) -> pd.DataFrame:
    """Lopsided, as real ones are, and wider than two standard errors."""
    ends = {}
    for name, entry in HEADS.items():
        if entry.has_error:
            ends[f"{name}_lo"] = heads[name] - 2.1 * heads[f"{name}_se"]
            ends[f"{name}_hi"] = heads[name] + 2.6 * heads[f"{name}_se"]
    return pd.concat([heads[KEYS], pd.DataFrame(ends)], axis=1)


def head_types(rng: np.random.Generator, heads: pd.DataFrame) -> pd.DataFrame:
    """Two heads in ten are of a type; cross-attention has no offsets."""
    n, columns = len(heads), {}
    typed: list[list[str]] = [[] for _ in range(n)]
    for name in TYPES:
        null = 0.05 + 0.1 * rng.random(n)
        is_one = rng.random(n) < 0.2
        score = null + np.where(is_one, 0.2 + 0.4 * rng.random(n), 0.01 * rng.normal(size=n))
        columns |= {
            f"{name}_score": score, f"{name}_lo": score - 0.02, f"{name}_hi": score + 0.03, f"{name}_null": null,
            f"{name}_q": np.where(is_one, 0.001, 0.6),
        }  # fmt: skip
        for row in np.flatnonzero(is_one):
            typed[row].append(name)
    extra = {"outside_mass": 0.9, "types": [",".join(one) for one in typed], "type": [(*one, "")[0] for one in typed]}
    return pd.concat([heads[KEYS], pd.DataFrame(columns | extra)], axis=1)


def key_tokens(rng: np.random.Generator, heads: pd.DataFrame, tokens: pd.DataFrame) -> pd.DataFrame:
    """Ten tokens a head, most mass above what an even head gives them first."""
    frames = []
    for head in heads[KEYS].itertuples(index=False):
        share = np.sort(rng.random(10))[::-1] / 10
        expected = share / np.linspace(8, 1.1, 10)
        frames.append(pd.DataFrame({
            **head._asdict(), "rank": np.arange(10), "token_id": np.arange(10),
            "text": [tokens.text[i % len(tokens)] for i in range(10)], "n_keys": 100 + np.arange(10),
            "mass": share * 5000, "share": share, "expected_share": expected, "lift": share / expected,
        }))  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def write_top_keys(path: Path, rng: np.random.Generator, site: tuple, n: int) -> None:
    """Sixteen keys a row, descending, at positions of the window."""
    weights = np.sort(rng.dirichlet(np.full(20, 0.3), (n, site.n_heads)), axis=2)[:, :, ::-1][:, :, :16]
    keys = rng.permuted(np.broadcast_to(np.arange(64), (n, site.n_heads, 64)), axis=2)[:, :, :16]
    store.write_array(path, store.array_path(site.site, "top_weights"), weights.astype(np.float32))
    store.write_array(path, store.array_path(site.site, "top_keys"), keys.astype(np.int32))


def examples(rng: np.random.Generator, heads: pd.DataFrame, tokens: pd.DataFrame) -> pd.DataFrame:
    """Of two statistics ten of the highest rows and ten deciles, and ten pairs."""
    kinds = [(name, is_top) for name in ("entropy", "previous_mass") for is_top in (True, False)] + [("pair", True)]
    frames = []
    for head in heads[KEYS].itertuples(index=False):
        for name, is_top in kinds:
            value = np.sort(rng.random(10))[::-1] if is_top else np.sort(rng.random(10))
            rows = tokens.iloc[rng.integers(0, len(tokens), 10)]
            count, none = pd.array(np.arange(10), dtype="Int8"), pd.array([None] * 10, dtype="Int8")
            frames.append(pd.DataFrame({
                **head._asdict(), "statistic": name, "rank": count if is_top else none,
                "decile": none if is_top else count, "token": rows.token.to_numpy(),
                "document": rows.document.to_numpy(), "window": rows.window.to_numpy(),
                "query_pos": rows.position.to_numpy(), "key_pos": np.maximum(rows.position.to_numpy() - 1, 0),
                "value": value,
            }))  # fmt: skip
    return pd.concat(frames, ignore_index=True)
