"""Valid run directories made of invented numbers, written through attnengine.store like any run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attnengine import store
from attnengine.records import Site
from attnengine.statistics.catalogue import CATALOGUE, HEADS, NEURONS, is_mass
from attnengine_kernels.sums import keeps

HOSTILE = '<img src=x onerror="window.__owned=1"><script>window.__owned=2</script>{{7*7}}$$x$$'
OFFSET_ONLY = ("offset_mean", "distance_mean", "self_mass", "previous_mass", "next_mass")
EDGES = [(-255, -127), *((d, d + 1) for d in range(-127, 128)), (128, 256)]


def site(
    number: int, layer: int, *, heads: int = 12, kv: int | None = None, stack: str = "", kind: str = "self"
) -> Site:
    """One attention call with 16 neurons a head."""
    return Site(
        site=number,
        module=f"encoder.layer.{number}.attention",
        ordinal=0,
        stack=stack,
        kind=kind,
        layer=layer,
        n_heads=heads,
        n_kv_heads=kv or heads,
        d_qk=16,
        d_v=16,
        scale=0.25,
        window=None,
        softcap=None,
        has_sink=False,
        has_bias=False,
    )


def bert_like(path: Path) -> Path:
    """6 layers of 12 heads, one stack, and as many sampled tokens as a run keeps by default."""
    return write_run(path, [site(i, i) for i in range(6)], n_tokens=5000)


def ragged(path: Path) -> Path:
    """Encoder, decoder and cross-attention with unequal head counts, grouped keys, null columns and NaN heads."""
    sites = [
        site(0, 0, heads=8, stack="encoder"),
        site(1, 1, heads=6, stack="encoder"),
        site(2, 0, heads=8, kv=2, stack="decoder"),
        site(3, 0, heads=4, stack="decoder", kind="cross"),
        site(4, 1, heads=8, kv=4, stack="decoder"),
        site(5, 1, heads=4, stack="decoder", kind="cross"),
    ]
    return write_run(
        path, sites, nan_heads=[(1, 2), (4, 0)], warnings=["2 heads produced NaN: encoder L1H2, decoder L1H0"]
    )


def thousand(path: Path) -> Path:
    """32 layers of 32 heads, the largest atlas."""
    return write_run(path, [site(i, i, heads=32, kv=8) for i in range(32)], n_tokens=300)


def hostile(path: Path) -> Path:
    """Markup wherever a stranger can write: tokens, documents, model, corpus, warnings, module names."""
    sites = [Site(**{**asdict(site(i, i, heads=4)), "module": HOSTILE}) for i in range(2)]
    return write_run(path, sites, text=HOSTILE, warnings=[HOSTILE])


def core(path: Path) -> Path:
    """Two layers of four heads, as ``--stats core`` leaves them: fewer columns, no profiles, no patterns."""
    write_run(path, [site(i, i, heads=4) for i in range(2)], n_tokens=300)
    left_out = {name for name in CATALOGUE if not keeps("core", name)} - {"qk_mean", "qk_attended_mean"}
    for name in ("heads", "neurons"):
        table = store.read_table(path, name)
        gone = [column for column in table if column.removesuffix("_se").removesuffix("_n") in left_out]
        store.write_table(path, name, table.drop(columns=gone))
    (path / "profiles.parquet").unlink()
    (path / "patterns.npy").unlink()
    changed = {"settings": {"stats": "core"}, "files": store.list_files(path)}
    store.write_manifest(path, store.read_manifest(path) | changed)
    return path


def write_run(
    path: Path,
    sites: list[Site],
    *,
    nan_heads: list[tuple[int, int]] | None = None,
    warnings: list[str] | None = None,
    text: str | None = None,
    n_tokens: int = 600,
    extra: dict[str, Any] | None = None,
) -> Path:
    """Write a complete run; the same arguments give the same numbers."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(0)
    broken = nan_heads or []
    store.write_table(path, "sites", pd.DataFrame([asdict(s) for s in sites]))
    store.write_table(path, "heads", heads_table(rng, sites, broken))
    store.write_table(path, "neurons", neurons_table(rng, sites))
    store.write_table(path, "profiles", profiles_table(rng, sites))
    store.write_array(path, Path("patterns.npy"), patterns(rng, sites))
    write_provenance(path, rng, n_tokens, text)
    for s in sites:
        write_vectors(path, rng, s, n_tokens)
    store.write_manifest(
        path, manifest(sites, broken, warnings or [], text, extra or {}) | {"files": store.list_files(path)}
    )
    return path


def keys_of(s: Site) -> dict[str, Any]:
    return {"site": s.site, "layer": s.layer, "kind": s.kind, "stack": s.stack}


def heads_table(rng: np.random.Generator, sites: list[Site], broken: list[tuple[int, int]]) -> pd.DataFrame:
    rows = []
    for s in sites:
        for head in range(s.n_heads):
            row = keys_of(s) | {"head": head}
            for name, entry in HEADS.items():
                null = name == "learned_sink_mass" or (s.kind == "cross" and name in OFFSET_ONLY)
                row[name] = np.nan if null else invented(rng, entry) * (1e-7 if "defect" in name else 1)
                if is_mass(name):
                    row[f"{name}_n"] = 0 if null else 10_000
                if entry.has_error:
                    row[f"{name}_se"] = np.nan if null else abs(row[name]) * 0.01 + 1e-4
                if (s.site, head) in broken and entry.estimator != "count":
                    row[name] = row[f"{name}_se"] = np.nan
            row["digit_mass"], row["digit_mass_se"], row["digit_mass_n"] = rng.random(), 0.01, 99  # a user's class
            rows.append(row)
    return pd.DataFrame(rows)


def invented(rng: np.random.Generator, entry: Any) -> float:
    """A number in the statistic's range."""
    if entry.estimator == "count":
        return float(rng.integers(1000, 90_000))
    if entry.high is not None:
        low = entry.low or 0.0
        return float(low + (entry.high - low) * rng.beta(1.2, 3))
    return float(rng.normal(0, 3) if entry.signed else rng.gamma(2, 2))


def neurons_table(rng: np.random.Generator, sites: list[Site]) -> pd.DataFrame:
    frames = []
    for s in sites:
        n = s.n_heads * s.d_qk
        frame = pd.DataFrame(
            {
                **keys_of(s),
                "head": np.repeat(np.arange(s.n_heads), s.d_qk),
                "neuron": np.tile(np.arange(s.d_qk), s.n_heads),
            }
        )
        for name, entry in NEURONS.items():
            frame[name] = np.nan if s.kind == "cross" and name == "qk_distance_corr" else rng.normal(0, 0.3, n)
            if entry.has_error:
                frame[f"{name}_se"] = np.abs(frame[name]) * 0.1
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def profiles_table(rng: np.random.Generator, sites: list[Site]) -> pd.DataFrame:
    frames = []
    low = np.array([lo for lo, _ in EDGES])
    high = np.array([hi for _, hi in EDGES])
    for s in (s for s in sites if s.kind == "self"):
        for head in range(s.n_heads):
            mass = np.exp(-np.abs((low + high - 1) / 2 - rng.integers(-3, 8)) / (1 + head % 5 * 6.0)) + 1e-4
            mass /= mass.sum()
            frames.append(
                pd.DataFrame(
                    {
                        **keys_of(s),
                        "head": head,
                        "offset_lo": low,
                        "offset_hi": high,
                        "mass": mass,
                        "n_rows": 5000,
                        "mass_se": mass * 0.05,
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def patterns(rng: np.random.Generator, sites: list[Site]) -> np.ndarray:
    """Diagonals, first columns and noise; NaN where a site has fewer heads."""
    result = np.full((len(sites), max(s.n_heads for s in sites), 32, 32), np.nan, dtype=np.float32)
    i, j = np.mgrid[:32, :32]
    for s in sites:
        for head in range(s.n_heads):
            weight = np.exp(-np.abs(i - j - rng.integers(-2, 6)) / rng.gamma(2, 2)) + rng.random() * (j == 0) + 0.02
            result[s.site, head] = weight / weight.sum(axis=1, keepdims=True)
    return result


def write_provenance(path: Path, rng: np.random.Generator, n_tokens: int, text: str | None) -> None:
    n_documents = 5
    store.write_table(
        path,
        "documents",
        pd.DataFrame(
            {
                "document": np.arange(n_documents),
                "source": [text or f"corpus/report-{i}.txt" for i in range(n_documents)],
                "byte_start": 0,
                "byte_end": 4000,
                "n_tokens": 1000,
                "text_hash": "00",
                "label": None,
            }
        ),
    )
    store.write_table(
        path,
        "windows",
        pd.DataFrame(
            {
                "window": np.arange(n_documents),
                "document": np.arange(n_documents),
                "start": 0,
                "n_tokens": 1000,
            }
        ),
    )
    words = ["the", " cat", " sat", "\n", ".", " on", " mat", "##ing"]
    store.write_table(
        path,
        "tokens",
        pd.DataFrame(
            {
                "token": np.arange(n_tokens),
                "document": np.arange(n_tokens) % n_documents,
                "window": np.arange(n_tokens) % n_documents,
                "position": np.arange(n_tokens),
                "token_id": rng.integers(0, 30_000, n_tokens),
                "text": [text or words[i % len(words)] for i in range(n_tokens)],
                "text_start": 0,
                "text_end": 3,
                "is_first": False,
                "is_special": False,
                "is_punctuation": False,
            }
        ),
    )


def write_vectors(path: Path, rng: np.random.Generator, s: Site, n: int) -> None:
    arrays = {
        "queries": rng.normal(size=(n, s.n_heads, s.d_qk)) * np.linspace(2, 0.2, s.d_qk) + 3,
        "keys": rng.normal(size=(n, s.n_kv_heads, s.d_qk)) * np.linspace(2, 0.2, s.d_qk) - 3,
        "row_entropy": rng.gamma(2, 1, size=(n, s.n_heads)),
    }
    for name, array in arrays.items():
        store.write_array(path, store.array_path(s.site, name), array.astype(np.float32))


def manifest(
    sites: list[Site], broken: list[tuple[int, int]], warnings: list[str], text: str | None, extra: dict[str, Any]
) -> dict[str, Any]:
    return {
        "format": store.FORMAT,
        "format_version": store.FORMAT_VERSION,
        "status": "complete",
        "created": "2026-11-21T07:00:00Z",
        "finished": "2026-11-21T07:01:00Z",
        "attnengine_version": "0.1.0",
        "run_hash": "5eed" * 8,
        "model": {
            "id": text or "invented/model",
            "class": "InventedModel",
            "revision": None,
            "dtype": "float32",
            "n_parameters": 22_000_000,
        },
        "corpus": {
            "source": text or "invented text",
            "documents": 5,
            "windows": 5,
            "tokens": 5000,
            "fingerprint": "00",
        },
        "settings": {},
        "versions": {},
        "device": {"name": text or "cpu"},
        "kernels": {},
        "self_check": {},
        "warnings": warnings,
        "nan_heads": [list(pair) for pair in broken],
        "timings": {},
    } | extra
