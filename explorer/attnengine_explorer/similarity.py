"""How alike heads are, by what they do over the whole corpus, and where each stands on a map of that.

Every distance here is Euclidean between feature vectors, so that its classical scaling (Torgerson 1952) is their
principal components: exact, deterministic, and the share of variance says how much the plane leaves out. Patterns and
profiles are compared by Hellinger's distance, which treats them as the distributions that they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnengine.embedding.init import principal_axes
from attnengine_explorer.run_data import RunData

#: By what → the distance of two heads a and b, as the page shows it.
FORMULAS = {
    "statistics": "d²(a, b) = mean_s (z_as − z_bs)², z: every statistic standardised over heads, 0 where null",
    "patterns": "d²(a, b) = ½ mean_i Σ_j (√P_a(i, j) − √P_b(i, j))², P: mean pattern, rows sum to 1",
    "profiles": "d²(a, b) = ½ Σ_δ (√m_a(δ) − √m_b(δ))², m: mass by offset δ, sums to 1",
}
#: Groups of the catalogue that say nothing about what a head does.
_LEFT_OUT = ("checks",)


@dataclass(frozen=True)
class HeadMap:
    """``points`` (heads, 2) in the order of ``heads``, NaN where a head has no features; ``share`` of variance (2,).

    ``features`` (heads, f) have the distances of :data:`FORMULAS` as their Euclidean ones.
    """

    points: np.ndarray
    share: np.ndarray
    features: np.ndarray


def head_map(run: RunData, by: str) -> HeadMap | str:
    """The map by "statistics", "patterns" or "profiles", or why there is none."""
    features = {"statistics": _statistics, "patterns": _patterns, "profiles": _profiles}[by](run)
    if isinstance(features, str):
        return features
    known = np.isfinite(features).all(axis=1)
    if known.sum() < 3:
        return "Fewer than three heads have what this map compares."
    points = np.full((len(features), 2), np.nan)
    points[known], share = _axes(features[known])
    return HeadMap(points, share, features)


def _axes(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two principal components; by way of the heads' own inner products where these are the smaller matrix."""
    centred = features - features.mean(axis=0)
    if features.shape[1] <= len(features):
        return principal_axes(centred, 2)
    values, vectors = np.linalg.eigh(centred @ centred.T)  # ascending
    values, vectors = values[::-1][:2].clip(min=0), vectors[:, ::-1][:, :2]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)[0]
    total = float((centred**2).sum())
    return vectors * np.sqrt(values) * np.where(largest < 0, -1.0, 1.0), values / total if total > 0 else values


def alike(found: HeadMap, row: int, most: int = 5) -> list[tuple[int, float]]:
    """The heads most like that of ``row``: (row, distance), nearest first, ties by row."""
    distance = np.sqrt(((found.features - found.features[row]) ** 2).sum(axis=1))
    distance[row] = np.nan
    order = np.argsort(distance, kind="stable")[:most]
    return [(int(other), float(distance[other])) for other in order if np.isfinite(distance[other])]


def _statistics(run: RunData) -> np.ndarray:
    names = [name for name, entry in run.statistics.items() if entry.group not in _LEFT_OUT]
    values = run.heads[names].to_numpy(dtype=float)  # (heads, s)
    known = np.isfinite(values)
    counts = np.maximum(known.sum(axis=0), 1)
    centred = np.where(known, values - np.where(known, values, 0).sum(axis=0) / counts, 0)
    spread = np.sqrt((centred**2).sum(axis=0) / counts)
    z = centred[:, spread > 0] / spread[spread > 0]
    return z / np.sqrt(max(z.shape[1], 1))


def _patterns(run: RunData) -> np.ndarray | str:
    if run.patterns is None:
        return run.nothing_to_draw("patterns", "mean patterns")
    bins = run.patterns.shape[2]
    roots = np.full((len(run.index), bins, bins), np.nan)
    for row, head in enumerate(run.index):
        pattern = run.pattern(*head)
        if pattern is not None:
            weights = np.nan_to_num(pattern.astype(np.float64))  # (query bin, key bin)
            totals = weights.sum(axis=1, keepdims=True)
            roots[row] = np.sqrt(np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0).clip(min=0))
    return roots.reshape(len(roots), -1) / np.sqrt(2 * bins)


def _profiles(run: RunData) -> np.ndarray | str:
    table = run.table("profiles")
    if table is None or not {"site", "head", "offset_lo", "mass"} <= set(table.columns):
        return run.nothing_to_draw("profiles", "offset profiles")
    offsets = {offset: column for column, offset in enumerate(np.unique(table["offset_lo"]))}
    roots = np.full((len(run.index), len(offsets)), np.nan)
    for row, head in enumerate(run.index):
        rows = run.head_rows("profiles", *head)
        if rows is not None and len(rows) and rows["mass"].sum() > 0:
            roots[row] = 0
            mass = rows["mass"].to_numpy(dtype=float).clip(min=0)
            roots[row, [offsets[offset] for offset in rows["offset_lo"]]] = np.sqrt(mass / mass.sum())
    return roots / np.sqrt(2)
