"""The clouds of a run's heads: the stored layout, or principal components made here, of all sampled points.

Point i is the query of sampled token i, point n + i its key. A layout is what `attnengine embed` made (UMAP, t-SNE or
PCA, in two or three dimensions). Components are those of the same vectors, in the gauge of the stored cloud, else in
AttentionViz' (keys moved onto the queries' mean), each of length 1: angles, not lengths, say what attends to what.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from attnengine.embedding import stored
from attnengine.embedding.cloud import head_vectors
from attnengine.embedding.gauge import Gauge, attentionviz
from attnengine.embedding.settings import EmbedSettings
from attnengine.errors import AttnEngineError, EmbeddingError, RunFormatError
from attnengine_explorer.points.recent import Recent
from attnengine_explorer.points.tokens import Tokens, read_tokens
from attnengine_explorer.run_data import RunData

if TYPE_CHECKING:
    from attnengine_explorer.points.all_heads import AllHeads

BLOCK = 1 << 16


@dataclass(frozen=True)
class HeadCloud:
    """points: (2n, 2 or 3) fp32, queries then keys. labels: (2n,) clusters, -1 for none, described in ``clusters``.
    figures: the head's row of ``clouds``, empty without an embedding. method: how the picture was made.
    """

    points: np.ndarray
    labels: np.ndarray
    figures: dict[str, Any]
    clusters: list[dict[str, Any]]
    method: str

    @property
    def n(self) -> int:
        """Sampled tokens: half the points."""
        return len(self.points) // 2


class HeadClouds:
    """What the views of clouds read from a run. Shared by all sessions; the last few heads are kept."""

    def __init__(self, run: RunData) -> None:
        self.run = run
        self._clouds: Recent[HeadCloud] = Recent(6)
        self._vectors: Recent[np.ndarray] = Recent(2)
        self._norms: Recent[np.ndarray] = Recent(6)
        self._measured: Recent[dict[str, Any]] = Recent(1000)
        self.kept_masks: Recent[np.ndarray] = Recent(8)
        self._all: Recent[AllHeads] = Recent(2)

    @cached_property
    def tokens(self) -> Tokens:
        """The sampled tokens; EmbeddingError if the run kept none."""
        table = self.run.table("tokens")
        if table is None or not len(table) or not {"position", "window"} <= set(table.columns):
            raise EmbeddingError("this run keeps no sampled tokens; make it again with --sample above 0")
        return read_tokens(table, self.run.table("windows"))

    @cached_property
    def documents(self) -> dict[int, str]:
        """Number of a document → its source as the run names it."""
        table = self.run.table("documents")
        if table is None or not {"document", "source"} <= set(table.columns):
            return {}
        return dict(zip(table["document"].astype(int), table["source"].astype(str), strict=True))

    def document_row(self, number: int) -> int | None:
        """Row of table ``documents`` of a document's number; None if it is not there."""
        table = self.run.table("documents")
        if table is None or "document" not in table.columns:
            return None
        rows = np.flatnonzero(table["document"].to_numpy() == number)
        return int(rows[0]) if len(rows) else None

    @cached_property
    def settings(self) -> tuple[EmbedSettings, str] | None:
        """Settings of the run's embedding and their hash; None where there is none, or a damaged one."""
        try:
            return stored.read_settings(self.run.path)
        except (EmbeddingError, RunFormatError):
            return None

    @cached_property
    def figures(self) -> dict[tuple[int, int], dict[str, Any]]:
        """(site, head) → its row of table ``clouds``; empty before `attnengine embed`."""
        try:
            table = self.run.run.clouds
        except (EmbeddingError, RunFormatError):
            return {}
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        return {(int(row["site"]), int(row["head"])): row for row in rows}

    def cloud(self, site: int, head: int, projection: str) -> HeadCloud:
        """A head's cloud, "layout" or "pca". EmbeddingError or RunFormatError say why there is none."""
        return self._clouds.get((site, head, projection), lambda: self.read(site, head, projection))

    def read(self, site: int, head: int, projection: str) -> HeadCloud:
        """As :meth:`cloud`, and not kept."""
        return (self._layout if projection == "layout" else self._components)(site, head)

    def all_heads(self, projection: str, size: int) -> AllHeads:
        """The small clouds of every head, read as far as anybody asked for them."""
        from attnengine_explorer.points.all_heads import AllHeads

        return self._all.get((projection, size), lambda: AllHeads(self, projection, size))

    def vectors(self, site: int, head: int) -> np.ndarray:
        """(2n, D) fp32 queries and keys in the head's gauge, rows of length 1."""
        return self._vectors.get((site, head), lambda: self._in_gauge(site, head))

    def norms(self, site: int, head: int) -> np.ndarray:
        """(2n,) fp32 lengths of the sampled queries and keys as attention saw them."""
        return self._norms.get((site, head), lambda: _lengths(*head_vectors(self.run.run, site, head)))

    def entropy(self, site: int, head: int) -> np.ndarray:
        """(2n,) fp32 entropy in nats of each query's pattern; NaN for keys, and where the run keeps none."""
        n = len(self.tokens)
        found = np.full(2 * n, np.nan, np.float32)
        try:
            rows = self.run.run.row_entropy(site)
        except RunFormatError:
            return found
        if rows.ndim == 2 and len(rows) == n and head < rows.shape[1]:
            found[:n] = rows[:, head]
        return found

    def measured(self, site: int, head: int, projection: str, dims: int) -> dict[str, Any]:
        """Faithfulness of a picture that the run stores no figures of; its rule is that of stored ones."""
        return self._measured.get((site, head, projection, dims), lambda: self._measure(site, head, projection, dims))

    def is_measured(self, site: int, head: int, projection: str, dims: int) -> bool:
        """Whether :meth:`measured` has its answer at hand."""
        return (site, head, projection, dims) in self._measured

    def _measure(self, site: int, head: int, projection: str, dims: int) -> dict[str, Any]:
        from attnengine.embedding.faithfulness import clustered_mean, is_grey, rank_correlations, sight

        run, cloud = self.run.run, self.cloud(site, head, projection)
        where = self.run.sites[site]
        seen = sight(self.tokens.table, kind=where.kind, window=where.window, top_keys=run.top_keys(site))
        queries, keys = head_vectors(run, site, head)
        points = cloud.points[:, :dims]
        found = rank_correlations(queries, keys, points[: cloud.n], points[cloud.n :], seen)
        value, error, n = clustered_mean(found, seen.document)
        names = ("faithfulness_2d", "faithfulness_2d_se", "faithfulness_2d_n", "grey")
        return dict(zip(names, (value, error, n, is_grey(value, error)), strict=True))

    def problem(self, site: int, head: int) -> str | None:
        """Why a head has no stored layout; None if it has one."""
        if self.settings is None:
            return f"the run has no embedding: attnengine embed {self.run.path.name}"
        row = self.figures.get((site, head))
        if row is None:
            return "this head was not embedded: attnengine embed goes on with it"
        return None if row.get("problem") is None else str(row["problem"])

    @cached_property
    def token_ids(self) -> dict[int, str | None]:
        """Token id → its text, as the sample first has it."""
        ids, first = np.unique(self.tokens.column("token_id"), return_index=True)
        return {int(token): self.tokens.text(int(row)) for token, row in zip(ids, first, strict=True)}

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Sampled (window, position) as one number, sorted; the token of each; and how many numbers a window has."""
        width = int(self.tokens.position.max()) + 2
        place = self.tokens.window * width + self.tokens.position
        order = np.argsort(place, kind="stable")
        return place[order], order, width

    def rows_at(self, window: np.ndarray, position: np.ndarray) -> np.ndarray:
        """The sampled token at each place of a window, -1 where the place was not sampled; arrays of one shape."""
        places, order, width = self._places
        wanted = window * width + position
        found = np.searchsorted(places, wanted).clip(max=len(places) - 1)
        is_there = (places[found] == wanted) & (position >= 0) & (position < width)
        return np.where(is_there, order[found], -1)

    def is_grey(self, site: int, head: int) -> bool:
        """Whether the picture of a head is too unfaithful to be read; False for a head without figures."""
        return self.figures.get((site, head), {}).get("grey") is True

    def _layout(self, site: int, head: int) -> HeadCloud:
        found = self._stored(site, head)
        if found is None:
            raise EmbeddingError(self.problem(site, head) or f"head {head} of site {site} has no cloud")
        if len(found.arrays["points"]) != 2 * len(self.tokens):
            raise RunFormatError("the stored cloud does not fit the sample of its run; embed it anew with --overwrite")
        assert self.settings is not None
        return HeadCloud(
            found.arrays["points"], found.arrays["labels"], found.figures, found.clusters, self.settings[0].method
        )

    def _stored(self, site: int, head: int) -> stored.Stored | None:
        """The head's file, None if there is none or it holds the reason only."""
        path = stored.head_path(self.run.path, site, head)
        if self.settings is None or not path.exists():
            return None
        found = stored.read_head(path, self.settings[1])
        return found if found.problem is None else None

    def _in_gauge(self, site: int, head: int) -> np.ndarray:
        queries, keys = head_vectors(self.run.run, site, head)
        if not (np.isfinite(queries).all() and np.isfinite(keys).all()):
            raise EmbeddingError("some sampled queries or keys of this head are NaN or infinite")
        found = self._stored(site, head)
        gauge = attentionviz(queries, keys)
        if found is not None and len(found.arrays["key_shift"]) == queries.shape[1]:
            arrays = found.arrays
            gauge = Gauge("", arrays["query_map"], arrays["key_map"], arrays["key_shift"])
        nothing = np.zeros(queries.shape[1])
        return np.concatenate(
            [_directions(queries, gauge.query_map, nothing), _directions(keys, gauge.key_map, gauge.key_shift)]
        )

    def _components(self, site: int, head: int) -> HeadCloud:
        vectors = self._in_gauge(site, head)
        if len(vectors) != 2 * len(self.tokens):
            raise RunFormatError("the sampled queries and keys do not fit table tokens; the run is damaged")
        points, shares = components(vectors)
        told = " + ".join(f"{100 * share:.1f} %" for share in shares)
        try:
            found = self._stored(site, head)
        except AttnEngineError:
            found = None
        labels = np.full(len(points), -1, np.int16) if found is None else found.arrays["labels"]
        clusters = [] if found is None else found.clusters
        return HeadCloud(points, labels, self.figures.get((site, head), {}), clusters, f"principal components, {told}")


def _directions(rows: np.ndarray, matrix: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """(n, d) fp32 rows · matrixᵀ + shift, each of length 1; a block at a time, so that memory stays small."""
    found = np.empty(rows.shape, np.float32)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK].astype(np.float64) @ matrix.T + shift
        length = np.sqrt(np.einsum("nd,nd->n", block, block))[:, None]
        found[start : start + BLOCK] = block / np.where(length > 0, length, 1.0)
    return found


def _lengths(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    return np.concatenate([np.sqrt(np.einsum("nd,nd->n", rows, rows)) for rows in (queries, keys)])


def components(vectors: np.ndarray, dims: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """(m, dims) fp32 principal components of vectors (m, d) and each one's share of variance, as
    :func:`attnengine.embedding.init.principal_axes` gives them, without copies of all vectors in double precision.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    total = np.zeros((vectors.shape[1],) * 2)
    blocks = [slice(start, start + BLOCK) for start in range(0, len(vectors), BLOCK)]
    for block in blocks:
        centred = vectors[block] - mean
        total += centred.T @ centred
    variances, axes = np.linalg.eigh(total)  # ascending
    axes, variances = axes[:, ::-1][:, :dims], variances[::-1].clip(min=0)
    axes = np.pad(axes, ((0, 0), (0, dims - axes.shape[1])))
    axes *= np.where(np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)[0] < 0, -1.0, 1.0)
    points = np.concatenate([((vectors[block] - mean) @ axes).astype(np.float32) for block in blocks])
    shares = np.pad(variances, (0, dims))[:dims]
    return points, shares / variances.sum() if variances.sum() > 0 else shares
