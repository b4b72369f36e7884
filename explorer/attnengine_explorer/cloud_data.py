"""The joint query–key cloud of one head: PCA of its sampled queries and centred keys, in double precision.

Keys are shifted so that both sides share a centre, k' = k − mean(k) + mean(q): a constant added to every key changes
no pattern (softmax ignores it), yet would pull the two sides apart (AttentionViz, arXiv 2305.03210).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from attnengine.errors import RunFormatError
from attnengine_explorer.run_data import RunData

#: Both sides together; beyond it a fixed, evenly spaced part of the sampled tokens is drawn.
MAX_POINTS = 10_000
SPACE, NEWLINE, TAB = "␣", "↵", "⇥"
MAX_TOKEN = 40


@dataclass(frozen=True)
class Cloud:
    """Drawn points of one head: ``queries`` and ``keys`` (m, 2), ``tokens`` their rows in ``tokens``.

    ``explained`` is each axis' share of the variance of all sampled points, ``entropy`` (m,) that of the queries'
    patterns in nats (NaN where unknown), ``n_sampled`` how many tokens were there to draw from.
    """

    queries: np.ndarray
    keys: np.ndarray
    tokens: np.ndarray
    entropy: np.ndarray
    explained: tuple[float, float]
    n_sampled: int


def pca(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) → coordinates on the first two principal axes (n, 2) and the share of variance of each (2,).

    The sign of an axis is fixed by its largest loading, which is positive.
    """
    centred = np.asarray(points, dtype=np.float64) - points.mean(axis=0, dtype=np.float64)
    variances, axes = np.linalg.eigh(centred.T @ centred)  # ascending
    two = axes[:, ::-1][:, :2]
    if two.shape[1] < 2:  # a head of one neuron
        two = np.pad(two, ((0, 0), (0, 1)))
    largest = np.abs(two).argmax(axis=0)
    signs = np.where(two[largest, [0, 1]] < 0, -1.0, 1.0)
    spread = np.pad(variances[::-1], (0, 2))[:2].clip(min=0)
    total = variances.clip(min=0).sum()
    return centred @ (two * signs), spread / total if total > 0 else spread


def drawn_rows(n: int) -> np.ndarray:
    """Which of n sampled tokens are drawn: all, or :data:`MAX_POINTS` / 2 evenly spaced ones."""
    limit = MAX_POINTS // 2
    return np.arange(n) if n <= limit else np.linspace(0, n - 1, limit).astype(np.int64)


def cloud(run: RunData, site: int, head: int) -> Cloud | str:
    """The cloud of a head, or why there is none."""
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
    points, explained = pca(np.concatenate([q, k - k.mean(axis=0) + q.mean(axis=0)]))
    drawn = drawn_rows(len(rows))
    return Cloud(
        queries=points[: len(rows)][drawn].astype(np.float32),
        keys=points[len(rows) :][drawn].astype(np.float32),
        tokens=rows[drawn],
        entropy=_entropy(run, site, head, len(queries))[rows[drawn]],
        explained=(float(explained[0]), float(explained[1])),
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


def visible(text: object) -> str:
    """A token's text with its spaces and line breaks made visible; long ones are cut."""
    if not isinstance(text, str):
        return "(text not kept)"
    shown = text.replace(" ", SPACE).replace("\n", NEWLINE).replace("\r", NEWLINE).replace("\t", TAB)
    return shown if len(shown) <= MAX_TOKEN else shown[: MAX_TOKEN - 1] + "…"


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
