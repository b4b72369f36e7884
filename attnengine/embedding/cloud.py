"""The joint cloud of a head as ``run.embedding(site, head)`` gives it. Light: neither numba nor torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from attnengine.embedding import stored
from attnengine.embedding.gauge import Gauge
from attnengine.embedding.settings import EmbedSettings, head_seed
from attnengine.errors import EmbeddingError, RunFormatError
from attnengine.opened import Run


@dataclass(frozen=True)
class Embedding:
    """The joint cloud of a head.

    points: (m, dims) fp32 on the screen. side: (m,) uint8, 0 for a query, 1 for a key. token: (m,) row of ``tokens``.
    vectors: (m, D) fp32 in the chosen gauge, rows of length 1. labels: (m,) clusters, -1 for none, described in
    ``clusters``. figures: the head's row of ``clouds``, faithfulness and quality among them.
    """

    points: np.ndarray
    side: np.ndarray
    token: np.ndarray
    vectors: np.ndarray
    labels: np.ndarray
    gauge: Gauge
    figures: dict[str, Any]
    clusters: list[dict[str, Any]]
    seed: int
    settings: EmbedSettings

    def transform(self, queries: np.ndarray | None = None, keys: np.ndarray | None = None) -> np.ndarray:
        """Place new vectors (n, D) of this head, queries first, on its screen: (n, dims) fp32.

        Each is placed by itself, so other vectors in the call change nothing. Raises ValueError for other widths or
        vectors that are not finite, EmbeddingError for a 2-D method without a transform (only ours has one).
        """
        from attnengine.embedding.transform import place_new

        if self.settings.method != "umap":
            raise EmbeddingError(f"method {self.settings.method} places no new vectors; embed the run with umap")
        width = self.vectors.shape[1]
        given = [(queries, self.gauge.queries), (keys, self.gauge.keys)]
        for rows, _ in given:
            if rows is not None and (rows.ndim != 2 or rows.shape[1] != width or not np.isfinite(rows).all()):
                raise ValueError(f"expected finite vectors of shape (n, {width}), got shape {rows.shape}")
        new = [in_gauge(rows) for rows, in_gauge in given if rows is not None]
        return place_new(
            np.concatenate(new) if new else np.empty((0, width), np.float32), self.vectors, self.points, self.settings,
            self.seed,
        )  # fmt: skip


def read_embedding(run: Run, site: int, head: int) -> Embedding:
    """The cloud of a head; EmbeddingError if the run, or this head, has none."""
    settings, digest = stored.read_settings(run.path)
    path = stored.head_path(run.path, site, head)
    if not path.exists():
        raise EmbeddingError(f"{run.path} has no cloud of head {head} of site {site}; `attnengine embed` makes it")
    found = stored.read_head(path, digest)
    if found.problem is not None:
        raise EmbeddingError(f"head {head} of site {site} has no cloud: {found.problem}")
    queries, keys = head_vectors(run, site, head)
    arrays, n = found.arrays, len(queries)
    if len(arrays["points"]) != 2 * n or len(arrays["key_shift"]) != queries.shape[1]:
        raise RunFormatError(f"{path} does not fit the sample of its run; `attnengine embed … --overwrite`")
    gauge = Gauge(
        str(found.figures.get("gauge")), arrays["query_map"], arrays["key_map"], arrays["key_shift"]
    )  # fmt: skip
    return Embedding(
        points=arrays["points"],
        side=np.repeat(np.array([0, 1], np.uint8), n),
        token=np.tile(np.arange(n), 2),
        vectors=np.concatenate([gauge.queries(queries), gauge.keys(keys)]),
        labels=arrays["labels"],
        gauge=gauge,
        figures=found.figures,
        clusters=found.clusters,
        seed=head_seed(settings.seed, site, head),
        settings=settings,
    )


def head_vectors(run: Run, site: int, head: int) -> tuple[np.ndarray, np.ndarray]:
    """Sampled queries and keys (n, d) fp32 of a head; EmbeddingError or RunFormatError if the run has none."""
    queries, keys = run.queries(site), run.keys(site)
    if queries.ndim != 3 or keys.ndim != 3 or queries.shape[::2] != keys.shape[::2]:
        raise RunFormatError(f"{run.path}: the sampled queries and keys of site {site} do not fit together")
    n_heads, n_kv = queries.shape[1], keys.shape[1]
    if not 0 <= head < n_heads or n_kv < 1 or n_heads % n_kv:
        raise ValueError(f"site {site} has the heads 0 to {n_heads - 1}, got {head}")
    picked = queries[:, head], keys[:, head // (n_heads // n_kv)]
    return np.asarray(picked[0], np.float32), np.asarray(picked[1], np.float32)
