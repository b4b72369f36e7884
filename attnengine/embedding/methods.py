"""From points in space to points on the screen: our layout, umap-learn, t-SNE, PCA."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from attnengine.embedding.curve import fit_curve
from attnengine.embedding.fuzzy import fuzzy_graph
from attnengine.embedding.init import first_positions, principal_axes
from attnengine.embedding.layout import Descent, Schedule, schedule
from attnengine.embedding.layout_compiled import lay_out
from attnengine.embedding.neighbours import nearest
from attnengine.embedding.settings import EmbedSettings

WARM_RATE = 0.25  # a warm start moves gently, so that what was alike stays in place
PERPLEXITY = 30.0


@dataclass(frozen=True)
class Task:
    """Distinct points (n, d) fp32 of length 1, to be laid out under ``settings`` with a head's ``seed``; ``start``
    (n, dims) is the other picture of a warm start.
    """

    points: np.ndarray
    settings: EmbedSettings
    seed: int
    start: np.ndarray | None = None
    threads: int = 1


def place(task: Task) -> np.ndarray:
    """(n, dims) fp32 positions by the method of the settings."""
    return {"umap": _umap, "umap-learn": _umap_learn, "t-sne": _t_sne, "pca": _pca}[task.settings.method](task)


def neighbours(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Nearest neighbours (n, k) int32 and cosine distances 1 − cos (n, k) fp32: half the squared distance of rows of
    length 1.
    """
    settings = task.settings
    found, squares = nearest(task.points, settings.neighbours, seed=task.seed, always_exact=settings.search == "exact")
    return found, (squares / 2).astype(np.float32)


@dataclass(frozen=True)
class Planned:
    """All that a layout needs: where its points start (n, dims) fp32, its edges, and how it moves."""

    start: np.ndarray
    plan: Schedule
    descent: Descent


def planned(task: Task, found: tuple[np.ndarray, np.ndarray]) -> Planned:
    """Our layout of a task whose :func:`neighbours` are ``found``."""
    settings = task.settings
    a, b = fit_curve(settings.min_dist)
    rate, start = WARM_RATE, task.start
    if start is None:
        rate, start = 1.0, first_positions(task.points, settings.dims, task.seed)
    plan = schedule(fuzzy_graph(*found, settings.epochs))
    return Planned(start, plan, Descent(task.seed, a, b, settings.epochs, rate))


def finished(task: Task, picture: np.ndarray) -> np.ndarray:
    """A laid out picture; that of a warm start is turned onto the one it came from."""
    return picture if task.start is None else aligned(picture, task.start)


def _umap(task: Task) -> np.ndarray:
    what = planned(task, neighbours(task))
    return finished(task, lay_out(what.start, what.plan, what.descent, threads=task.threads))


def aligned(picture: np.ndarray, target: np.ndarray) -> np.ndarray:
    """``picture`` turned, mirrored and moved, but not stretched, onto ``target`` (orthogonal Procrustes)."""
    x, y = picture.astype(np.float64), target.astype(np.float64)
    u, _, vt = np.linalg.svd((x - x.mean(0)).T @ (y - y.mean(0)))
    return ((x - x.mean(0)) @ (u @ vt) + y.mean(0)).astype(np.float32)


def _umap_learn(task: Task) -> np.ndarray:
    settings = task.settings
    with warnings.catch_warnings():
        # It warns of a missing TensorFlow when loaded, and that such a fit cannot transform: ours can, in another way.
        warnings.simplefilter("ignore")
        from umap import UMAP

        found = UMAP(
            n_neighbors=settings.neighbours, n_components=settings.dims, metric="cosine", n_epochs=settings.epochs,
            min_dist=settings.min_dist, init=first_positions(task.points, settings.dims, task.seed),
            random_state=task.seed, n_jobs=1, precomputed_knn=neighbours(task), force_approximation_algorithm=True,
        ).fit_transform(task.points)  # fmt: skip
    return np.asarray(found, np.float32)


def _t_sne(task: Task) -> np.ndarray:
    from sklearn.manifold import TSNE

    start, _ = principal_axes(task.points, task.settings.dims)
    start *= 1e-4 / max(start[:, 0].std(), 1e-12)  # as its authors start it: small, so that attraction decides first
    perplexity = min(PERPLEXITY, (len(start) - 1) / 3)
    found = TSNE(
        task.settings.dims, perplexity=perplexity, init=start.astype(np.float32), random_state=task.seed, n_jobs=1
    ).fit_transform(task.points)
    return np.asarray(found, np.float32)


def _pca(task: Task) -> np.ndarray:
    return principal_axes(task.points, task.settings.dims)[0].astype(np.float32)
