"""One head: its sampled queries and keys → gauge → picture → how far the picture can be trusted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attnengine.embedding.clusters import Cluster, cluster_labels, describe
from attnengine.embedding.faithfulness import Sight, clustered_mean, is_grey, rank_correlations
from attnengine.embedding.gauge import GAUGES, Gauge, choose
from attnengine.embedding.methods import Task, place
from attnengine.embedding.neighbours import distinct
from attnengine.embedding.quality import cross_share, evenly, others, quality
from attnengine.embedding.settings import EmbedSettings
from attnengine.errors import EmbeddingError


@dataclass(frozen=True)
class Head:
    """What a head's picture is made from. queries, keys: (n, d) raw, one row a sampled token; token_ids: (n,);
    has_sink: a learned sink makes a shift of the keys inexact.
    """

    queries: np.ndarray
    keys: np.ndarray
    seen: Sight
    token_ids: np.ndarray
    has_sink: bool = False


@dataclass(frozen=True)
class Picture:
    """A head's cloud. points: (2n, dims) fp32, all queries, then all keys; labels: (2n,) int16 clusters, -1 for none;
    figures: its row of table ``clouds``.
    """

    points: np.ndarray
    labels: np.ndarray
    gauge: Gauge
    figures: dict[str, Any]
    clusters: list[Cluster] = field(default_factory=list)


@dataclass(frozen=True)
class Prepared:
    """A head in its gauge, before and after whose layout nothing needs a device. points: (m, d) fp32 distinct rows of
    length 1; first, which: of :func:`.neighbours.distinct` over all queries, then all keys.
    """

    head: Head
    gauge: Gauge
    figures: dict[str, Any]
    points: np.ndarray
    first: np.ndarray
    which: np.ndarray

    def task(self, settings: EmbedSettings, seed: int, start: np.ndarray | None, threads: int = 1) -> Task:
        """What is to be laid out; ``start`` (2n, dims) is the other picture of a warm start."""
        return Task(self.points, settings, seed, None if start is None else start[self.first], threads)


def embed_head(
    head: Head, settings: EmbedSettings, seed: int, *, start: np.ndarray | None = None, threads: int = 1
) -> Picture:
    """The picture of one head; ``start`` (2n, dims) begins from another picture of the same tokens.

    Raises EmbeddingError for a head that cannot be embedded: too few tokens, NaN, constant vectors.
    """
    prepared = prepare(head, settings)
    return judge(prepared, place(prepared.task(settings, seed, start, threads)), settings)


def prepare(head: Head, settings: EmbedSettings) -> Prepared:
    """Choose the gauge. Raises EmbeddingError as :func:`embed_head`."""
    check(head, settings)
    gauge, figures = _gauge(head, settings)
    everything = np.concatenate([gauge.queries(head.queries), gauge.keys(head.keys)])
    first, which = distinct(everything)
    _enough(len(first), settings.neighbours, "distinct points in this gauge")
    figures |= {"n_points": len(everything), "n_distinct": len(first)}
    return Prepared(head, gauge, figures, everything[first], first, which)


def judge(prepared: Prepared, screen: np.ndarray, settings: EmbedSettings) -> Picture:
    """The picture whose distinct points lie at ``screen`` (m, dims), with the figures that say what it is worth."""
    head, figures, n = prepared.head, dict(prepared.figures), len(prepared.head.queries)
    points, is_key = screen[prepared.which], np.arange(len(prepared.which)) >= n
    figures |= _faithfulness(head, points[:n], points[n:], "faithfulness_2d")
    figures["grey"] = is_grey(figures["faithfulness_2d"], figures["faithfulness_2d_se"])
    figures |= quality(prepared.points, screen, is_key[prepared.first])
    labels, clusters = np.full(len(points), -1, np.int16), []
    if settings.clusters:
        labels = cluster_labels(screen)[prepared.which]
        clusters = describe(labels, is_key, np.concatenate([head.token_ids, head.token_ids]))
        figures["n_clusters"] = len(clusters)
    return Picture(points, labels, prepared.gauge, figures, clusters)


def check(head: Head, settings: EmbedSettings) -> None:
    """Raise EmbeddingError if the head's vectors cannot make a cloud."""
    bad = ~(np.isfinite(head.queries).all(axis=1) & np.isfinite(head.keys).all(axis=1))
    if bad.any():
        raise EmbeddingError(
            f"{int(bad.sum()):,} of {len(bad):,} sampled tokens have NaN or infinite queries or keys; check the "
            "model's weights and dtype"
        )
    _enough(2 * len(bad), settings.neighbours, "points")
    for name, rows in (("query", head.queries), ("key", head.keys)):
        if (rows == rows[0]).all():
            raise EmbeddingError(f"every sampled {name} is the same vector: there is nothing to lay out")
    _enough(len(distinct(head.queries)[0]) + len(distinct(head.keys)[0]), settings.neighbours, "distinct points")


def _enough(n: int, neighbours: int, what: str) -> None:
    if n <= neighbours:
        raise EmbeddingError(
            f"{n} {what} are too few for {neighbours} neighbours; use a larger --sample, or fewer --neighbours"
        )


def _gauge(head: Head, settings: EmbedSettings) -> tuple[Gauge, dict[str, Any]]:
    """The gauge to lay out, and the figures of all."""
    made = {name: gauge for name, make in GAUGES.items() if (gauge := make(head.queries, head.keys)) is not None}
    if settings.gauge not in ("auto", *made):
        raise EmbeddingError(f"this head's gauge {settings.gauge} is too skewed to use; take --gauge auto")
    figures: dict[str, Any] = {}
    faithful, cross = {}, {}
    for name, gauge in made.items():
        queries, keys = gauge.queries(head.queries), gauge.keys(head.keys)
        found = _faithfulness(head, queries, keys, "faithfulness_d")
        faithful[name], cross[name] = found["faithfulness_d"], _cross_share(queries, keys)
        figures |= {f"{_column(name)}_{what}": value for what, value in found.items() if not what.endswith("_n")}
        figures[f"{_column(name)}_cross_share"] = cross[name]
    chosen, joins = choose(faithful, cross) if settings.gauge == "auto" else (settings.gauge, True)
    gauge = made[chosen]
    exact = not (head.has_sink and np.any(gauge.key_shift))
    told = _faithfulness(head, gauge.queries(head.queries), gauge.keys(head.keys), "faithfulness_d")
    return gauge, {"gauge": chosen, "joins_sides": joins, "gauge_exact": exact, **told, **figures}


def _column(name: str) -> str:
    return name.replace("-", "_")


def _faithfulness(head: Head, queries: np.ndarray, keys: np.ndarray, name: str) -> dict[str, Any]:
    """Mean, clustered standard error and number of queries of a picture's faithfulness."""
    found = rank_correlations(head.queries, head.keys, queries, keys, head.seen)
    value, error, n = clustered_mean(found, head.seen.document)
    return {name: value, f"{name}_se": error, f"{name}_n": n}


def _cross_share(queries: np.ndarray, keys: np.ndarray) -> float:
    """Share of query–key pairs among the nearest neighbours in space, at evenly drawn points."""
    points = np.concatenate([queries, keys])
    anchors = evenly(len(points))
    return cross_share(others(points, anchors), anchors, np.arange(len(points)) >= len(queries))
