"""Runs with joint clouds made of invented numbers, from a few hundred points a head to a million."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attnengine import store
from attnengine.embedding import stored
from attnengine.embedding.clusters import Cluster
from attnengine.embedding.gauge import attentionviz
from attnengine.embedding.head import Picture
from attnengine.embedding.settings import EmbedSettings
from attnengine.opened import open_run
from attnengine.records import Site
from tests.explorer.synthetic_run import HOSTILE, site, write_run

SEGMENT = 64
WORDS = (
    "the", "The", "cat", " sat", "\n", ".", " on", "mat", "ing", "2024", "(", "in", "index", "<b>", "$$x$$", "é", "cat",
)  # fmt: skip
NO_CLOUD = (0, 3)
GREY = (1, 2)
NOT_EMBEDDED = (2, 3)


def clouds(path: Path, text: str | None = None) -> Path:
    """Three layers of four heads, 640 sampled tokens; one head without a cloud, a grey one, one not embedded."""
    return write_clouds(path, [site(i, i, heads=4) for i in range(3)], 640, text=text, gaps=True)


def hostile_clouds(path: Path) -> Path:
    """The same with markup for every token."""
    return clouds(path, HOSTILE)


def solid(path: Path) -> Path:
    """The same in three dimensions."""
    return write_clouds(path, [site(i, i, heads=4) for i in range(3)], 640, dims=3)


def patches(path: Path) -> Path:
    """Images: the tokens are patches with rows and columns, after a special one; there is no text."""
    return write_clouds(path, [site(0, 0, heads=4)], 650, images=True)


def million(path: Path) -> Path:
    """Two layers of two heads with 1,000,000 points a head."""
    return write_clouds(path, [site(i, i, heads=2) for i in range(2)], 500_000)


def thousand_clouds(path: Path) -> Path:
    """32 layers of 32 heads with 10,000 points a head."""
    return write_clouds(path, [site(i, i, heads=32, kv=8) for i in range(32)], 5_000)


def write_clouds(
    path: Path,
    sites: list[Site],
    n: int,
    *,
    text: str | None = None,
    dims: int = 2,
    images: bool = False,
    gaps: bool = False,
) -> Path:
    """Write a complete run and its embedding; the same arguments give the same numbers."""
    write_run(path, sites, n_tokens=n, text=text)
    rng = np.random.default_rng(1)
    tokens = tokens_table(rng, n, text, images=images)
    store.write_table(path, "tokens", tokens)
    lengths = tokens.groupby("window").agg(document=("document", "first"), n_tokens=("position", "max")).reset_index()
    store.write_table(path, "windows", lengths.assign(start=0, n_tokens=lengths.n_tokens + 1))
    for s in sites:
        positions, weights = top_keys(rng, tokens, s)
        store.write_array(path, store.array_path(s.site, "top_keys"), positions)
        store.write_array(path, store.array_path(s.site, "top_weights"), weights)
    store.write_manifest(path, store.read_manifest(path) | {"files": store.list_files(path)})
    embed(path, rng, tokens, dims, skip=(NO_CLOUD, NOT_EMBEDDED) if gaps else ())
    return path


def tokens_table(rng: np.random.Generator, n: int, text: str | None, *, images: bool) -> pd.DataFrame:
    """Segments of 64 tokens, one a window; of images a special token and 8 × 8 patches."""
    length = 65 if images else SEGMENT
    window, step = np.divmod(np.arange(n), length)
    position = step if images else step + 32 * (window % 4)
    words = rng.integers(0, len(WORDS), n)
    return pd.DataFrame({
        "token": np.arange(n), "document": (window % 5).astype(np.int32), "window": window.astype(np.int32),
        "position": position.astype(np.int32), "token_id": np.zeros(n, int) if images else words,
        "text": None if images else ([text] * n if text else np.array(WORDS, dtype=object)[words]),
        "text_start": 5 * position, "text_end": 5 * position + 4, "is_first": position == 0,
        "is_special": (step == 0) if images else (window % 4 == 0) & (step == 0),
        "is_punctuation": False if images else np.isin(words, [5, 10]),
        "row": np.where(images & (step > 0), (step - 1) // 8, -1),
        "col": np.where(images & (step > 0), (step - 1) % 8, -1),
    })  # fmt: skip


def top_keys(rng: np.random.Generator, tokens: pd.DataFrame, s: Site) -> tuple[np.ndarray, np.ndarray]:
    """(n, H, 16) positions around each query's segment, some of them not sampled, and falling weights below 1."""
    n = len(tokens)
    start = tokens.groupby("window")["position"].transform("min").to_numpy()
    steps = np.stack([rng.permutation(72)[:16] for _ in range(64)])[rng.integers(0, 64, (n, s.n_heads))]
    weights = np.sort(rng.random((n, s.n_heads, 16), dtype=np.float32))[..., ::-1]
    weights /= weights.sum(axis=-1, keepdims=True) * 1.25
    return (start[:, None, None] + steps).astype(np.int32), weights.astype(np.float32)


def embed(path: Path, rng: np.random.Generator, tokens: pd.DataFrame, dims: int, skip: tuple[Any, ...]) -> None:
    """Pictures with lumps by token, queries and keys apart by a little, and their figures."""
    settings = EmbedSettings(dims=dims)
    digest = stored.open_folder(path, settings, "", overwrite=False)
    run = open_run(path)
    rows = [{"site": int(r.site), "head": int(r.head), "layer": int(r.layer), "kind": r.kind} for r in _heads(run)]
    lump = tokens["token_id"].to_numpy() % 7
    for row in rows:
        key = (row["site"], row["head"])
        target = stored.head_path(path, *key)
        if key in skip:
            if key == NO_CLOUD:
                stored.write_head(target, digest, "every sampled key is the same vector: there is nothing to lay out")
            continue
        stored.write_head(target, digest, _picture(rng, lump, dims, run, key))
    done = [row for row in rows if (row["site"], row["head"]) not in skip[1:]]
    stored.write_tables(run, settings, digest, done)


def _heads(run: Any) -> Any:
    return run.heads.sort_values(["site", "head"])[["site", "head", "layer", "kind"]].itertuples(index=False)


def _picture(rng: np.random.Generator, lump: np.ndarray, dims: int, run: Any, key: tuple[int, int]) -> Picture:
    n = len(lump)
    centres = rng.normal(0, 6, (7, dims))
    points = np.concatenate([centres[lump], centres[lump] + 0.8]) + rng.normal(0, 1, (2 * n, dims))
    labels = np.tile(lump, 2).astype(np.int16)
    figures = {
        "gauge": "balanced", "joins_sides": True, "gauge_exact": True, "faithfulness_d": -0.9,
        "faithfulness_d_se": 0.01,
        "faithfulness_d_n": n, "faithfulness_2d": -0.1 if key == GREY else -0.1 - 0.1 * (1 + key[1]),
        "faithfulness_2d_se": 0.02, "faithfulness_2d_n": n, "grey": key == GREY, "trustworthiness": 0.97,
        "continuity": 0.98, "knn_preservation": 0.6, "triplet_accuracy": 0.8, "cross_share_d": 0.5,
        "cross_share_2d": 0.4, "n_clusters": 7, "n_points": 2 * n, "n_distinct": 2 * n,
    }  # fmt: skip
    found = [Cluster(c, int((labels == c).sum()), 0.5, ((c, 9.0), (c + 7, 3.0))) for c in range(7)]
    d = run.queries(key[0]).shape[2]
    return Picture(points.astype(np.float32), labels, attentionviz(np.eye(d), np.eye(d)), figures, found)
