"""The joint query–key cloud of one head: the stored embedding, or PCA of its sampled queries and centred keys.

A run that `attnengine embed` has been over holds a picture of each head and how faithful it is. Without it the two
principal axes are computed here, in double precision. Keys are shifted so that both sides share a centre,
k' = k − mean(k) + mean(q): a constant added to every key changes no pattern (softmax ignores it), yet would pull the
two sides apart (AttentionViz, arXiv 2305.03210).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attnengine.embedding.init import principal_axes
from attnengine.errors import EmbeddingError, RunFormatError
from attnengine_explorer.points.wording import visible
from attnengine_explorer.run_data import RunData

#: Both sides together; beyond it a fixed, evenly spaced part of the sampled tokens is drawn.
MAX_POINTS = 10_000


@dataclass(frozen=True)
class Cloud:
    """Drawn points of one head: ``queries`` and ``keys`` (m, 2), ``tokens`` their rows in ``tokens``.

    ``facts`` says how the picture was made and how far to trust it, ``entropy`` (m,) is that of the queries' patterns
    in nats (NaN where unknown), ``n_sampled`` how many tokens were there to draw from.
    """

    queries: np.ndarray
    keys: np.ndarray
    tokens: np.ndarray
    entropy: np.ndarray
    facts: str
    n_sampled: int


def drawn_rows(n: int) -> np.ndarray:
    """Which of n sampled tokens are drawn: all, or :data:`MAX_POINTS` / 2 evenly spaced ones."""
    limit = MAX_POINTS // 2
    return np.arange(n) if n <= limit else np.linspace(0, n - 1, limit).astype(np.int64)


def cloud(run: RunData, site: int, head: int) -> Cloud | str:
    """The cloud of a head, or why there is none: the stored one, else by principal axes."""
    try:
        return stored_cloud(run, site, head)
    except (EmbeddingError, RunFormatError, ValueError) as problem:
        embedded = (run.path / "embedding").exists()
        return principal_cloud(run, site, head, f" · no layout: {problem}" if embedded else "")


def stored_cloud(run: RunData, site: int, head: int) -> Cloud:
    """The picture that `attnengine embed` made; of three dimensions the first two."""
    found = run.run.embedding(site, head)
    n = len(found.points) // 2
    drawn = drawn_rows(n)
    return Cloud(
        queries=found.points[:n, :2][drawn],
        keys=found.points[n:, :2][drawn],
        tokens=drawn,
        entropy=_entropy(run, site, head, n)[drawn],
        facts=_trust(found.settings.method, found.figures),
        n_sampled=n,
    )


def _trust(method: str, figures: dict[str, Any]) -> str:
    """``umap, gauge balanced · faithfulness −0.61 ± 0.02 on screen, −0.97 in space · trustworthiness 0.99``."""

    def said(name: str) -> str:
        value = figures.get(name)
        return f"{value:.2f}".replace("-", "−") if isinstance(value, int | float) else "unknown"

    grey = " (too low: do not read distance as attention)" if figures.get("grey") else ""
    return (
        f"{method}, gauge {figures.get('gauge')} · faithfulness {said('faithfulness_2d')} ± "
        f"{said('faithfulness_2d_se')} on screen{grey}, {said('faithfulness_d')} in space · trustworthiness "
        f"{said('trustworthiness')}"
    )


def principal_cloud(run: RunData, site: int, head: int, why: str = "") -> Cloud | str:
    """The cloud of a head on its two principal axes, or why there is none; ``why`` is added to its facts."""
    where = run.sites[site]
    try:
        queries, keys = run.run.queries(site), run.run.keys(site)
    except RunFormatError:
        return "This run keeps no sampled queries and keys of this layer."
    if queries.ndim != 3 or keys.ndim != 3 or queries.shape[2] != keys.shape[2] or len(queries) != len(keys):
        return "The sampled queries and keys of this layer do not fit together; the run is damaged."
    key_head = head // max(where.n_heads // max(keys.shape[1], 1), 1)
    if head >= queries.shape[1] or key_head >= keys.shape[1]:
        return "The sampled queries and keys do not hold this head; the run is damaged."
    q = np.asarray(queries[:, head], dtype=np.float64)  # (n, d)
    k = np.asarray(keys[:, key_head], dtype=np.float64)  # (n, d)
    finite = np.isfinite(q).all(axis=1) & np.isfinite(k).all(axis=1)
    rows = np.flatnonzero(finite)
    if len(rows) < 3:
        return "Fewer than three sampled tokens of this head have finite queries and keys."
    q, k = q[rows], k[rows]
    points, explained = principal_axes(np.concatenate([q, k - k.mean(axis=0) + q.mean(axis=0)]), 2)
    drawn = drawn_rows(len(rows))
    return Cloud(
        queries=points[: len(rows)][drawn].astype(np.float32),
        keys=points[len(rows) :][drawn].astype(np.float32),
        tokens=rows[drawn],
        entropy=_entropy(run, site, head, len(queries))[rows[drawn]],
        facts="→ PCA 1: {:.1f} % · ↑ PCA 2: {:.1f} % of the variance".format(*(100 * explained)) + why,
        n_sampled=len(rows),
    )


def _entropy(run: RunData, site: int, head: int, n: int) -> np.ndarray:
    """(n,) row entropies of a head; NaN where the run has none."""
    try:
        entropy = run.run.row_entropy(site)
    except RunFormatError:
        return np.full(n, np.nan, dtype=np.float32)
    fits = entropy.ndim == 2 and len(entropy) == n and head < entropy.shape[1]
    return np.asarray(entropy[:, head], dtype=np.float32) if fits else np.full(n, np.nan, dtype=np.float32)


def token_columns(run: RunData) -> dict[str, np.ndarray]:
    """For every sampled token: text, position, document as the hover shows them. Empty without a tokens table."""
    tokens = run.table("tokens")
    if tokens is None or "position" not in tokens.columns:
        return {
            "text": np.array([], dtype=object),
            "position": np.array([], dtype=np.float32),
            "document": np.array([]),
        }
    text = tokens["text"] if "text" in tokens.columns else [None] * len(tokens)
    return {
        "text": np.array([visible(value) for value in text], dtype=object),
        "position": tokens["position"].to_numpy(dtype=np.float32),
        "document": _document_names(run, tokens),
    }


def _document_names(run: RunData, tokens: pd.DataFrame) -> np.ndarray:
    """``12 · report.txt`` for each sampled token."""
    numbers = tokens["document"] if "document" in tokens.columns else pd.Series(np.full(len(tokens), -1))
    documents = run.table("documents")
    names: dict[object, str] = {}
    if documents is not None and {"document", "source"} <= set(documents.columns):
        names = {d: Path(str(s)).name for d, s in zip(documents["document"], documents["source"], strict=True)}
    return np.array([f"{d} · {names[d]}" if d in names else str(d) for d in numbers], dtype=object)
