"""The gauge of a head: the freedom in its queries and keys that attention does not see, spent so that distance does.

Attention is unchanged by q → A q, k → A⁻ᵀ k and by a vector added to every key of a head (softmax ignores it). So the
same head has many clouds; each gauge here is one rule to choose among them, after AttentionViz (Yeh et al. 2023, arXiv
2305.03210), whose own choice is the first. With a learned sink a shift of the keys does change attention: ``exact``
says so, while faithfulness is always measured against the true scores. A soft cap is monotone and changes no rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RIDGE = 1e-6  # times mean variance, added to both covariances
MOST_SKEWED = 1e4  # condition number beyond which a balanced gauge is dropped
NEAREST_SHARE = 0.005  # of pairs that decide the scale, as in AttentionViz
SCALES = np.geomspace(1 / 3, 3, 25)
PAIR_SIDE = 512  # queries and keys whose pairs decide the scale


@dataclass(frozen=True)
class Gauge:
    """q' = query_map q and k' = key_map k + key_shift, rows then scaled to length 1 ("cosine" instead of distance).

    query_map, key_map: (d, d) fp64. key_shift: (d,) fp64. name: one of :data:`GAUGES`.
    """

    name: str
    query_map: np.ndarray
    key_map: np.ndarray
    key_shift: np.ndarray

    def queries(self, queries: np.ndarray) -> np.ndarray:
        """(n, d) raw → (n, d) fp32 in this gauge."""
        return _directions(_mapped(queries, self.query_map))

    def keys(self, keys: np.ndarray) -> np.ndarray:
        """(n, d) raw → (n, d) fp32 in this gauge."""
        return _directions(_mapped(keys, self.key_map) + self.key_shift)


def _mapped(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    # einsum without BLAS: a row's bits must not depend on how many rows come with it.
    return np.einsum("nd,ed->ne", rows.astype(np.float64), matrix)


def _directions(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1 in fp32; a row of zeros has no direction and stays."""
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    return (rows / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


def scaled(name: str, queries: np.ndarray, keys: np.ndarray, c: float, *, centre: bool = True) -> Gauge:
    """The gauge q' = c q, k' = k/c, then keys moved onto the queries' mean."""
    d = queries.shape[1]
    shift = c * queries.mean(axis=0, dtype=np.float64) - keys.mean(axis=0, dtype=np.float64) / c
    return Gauge(name, c * np.eye(d), np.eye(d) / c, shift if centre else np.zeros(d))


def attentionviz(queries: np.ndarray, keys: np.ndarray) -> Gauge:
    """AttentionViz: k' = k − mean(k) + mean(q), nothing scaled."""
    return scaled("attentionviz", queries, keys, 1.0)


def attentionviz_uncentred(queries: np.ndarray, keys: np.ndarray) -> Gauge:
    """Queries and keys as they are."""
    return scaled("attentionviz-uncentred", queries, keys, 1.0, centre=False)


def matching_scale(queries: np.ndarray, keys: np.ndarray) -> float:
    """c* = √(median‖k − k̄‖ / median‖q‖): both sides then have one typical length; 1 if a side has none."""
    q = np.median(np.linalg.norm(queries.astype(np.float64), axis=1))
    k = np.median(np.linalg.norm(keys - keys.mean(axis=0, dtype=np.float64), axis=1))
    return float(np.sqrt(k / q)) if q > 0 and k > 0 else 1.0


def norm_matched(queries: np.ndarray, keys: np.ndarray) -> Gauge:
    """Scaled by c* of :func:`matching_scale`."""
    return scaled("norm-matched", queries, keys, matching_scale(queries, keys))


def correlated(queries: np.ndarray, keys: np.ndarray) -> Gauge:
    """The c in [c*/3, 3c*] at which score and distance of the nearest pairs correlate best (AttentionViz, section 4).

    Correlation is Pearson's, weighted by 1 − d/d_max over the nearest 0.5 % of the pairs of evenly drawn rows. Bounded,
    because beyond those bounds it improves for the wrong reason: the cloud falls apart into two.
    """
    q, k = _evenly(queries, PAIR_SIDE), _evenly(keys, PAIR_SIDE)
    scores = q.astype(np.float64) @ k.astype(np.float64).T
    best = matching_scale(queries, keys)
    found = [(_weighted_correlation(scaled("", queries, keys, best * s), q, k, scores), best * s) for s in SCALES]
    return scaled("correlated", queries, keys, min(found)[1])


def _evenly(rows: np.ndarray, most: int) -> np.ndarray:
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _weighted_correlation(gauge: Gauge, queries: np.ndarray, keys: np.ndarray, scores: np.ndarray) -> float:
    """Of score with distance over the nearest pairs, rounded so that ties are ties; 0 where one does not vary."""
    a, b = gauge.queries(queries).astype(np.float64), gauge.keys(keys).astype(np.float64)
    apart = 1 - a @ b.T
    limit = np.partition(apart.ravel(), n := int(NEAREST_SHARE * apart.size))[n]
    near = apart < limit
    d, s = apart[near], scores[near]
    w = 1 - d / limit if limit > 0 else np.ones_like(d)
    if not w.sum() > 0:
        return 0.0
    d, s = d - np.average(d, weights=w), s - np.average(s, weights=w)
    spread = np.sqrt(np.sum(w * d * d) * np.sum(w * s * s))
    return round(float(np.sum(w * d * s) / spread), 9) if spread > 0 else 0.0


def balanced(queries: np.ndarray, keys: np.ndarray) -> Gauge | None:
    """A = M^½ with M = Σq^-½ (Σq^½ Σk Σq^½)^½ Σq^-½, which gives queries and keys one covariance; None if too skewed.

    M is the geometric mean of Σq⁻¹ and Σk, so that A Σq A = A⁻¹ Σk A⁻¹.
    """
    q, k = _covariance(queries), _covariance(keys)
    half, inverse = _power(q, 0.5), _power(q, -0.5)
    middle = inverse @ _power(half @ k @ half, 0.5) @ inverse
    a, back = _power(middle, 0.5), _power(middle, -0.5)
    if not np.isfinite(a).all() or np.linalg.cond(a) > MOST_SKEWED:
        return None
    shift = a @ queries.mean(axis=0, dtype=np.float64) - back @ keys.mean(axis=0, dtype=np.float64)
    return Gauge("balanced", a, back, shift)


def _covariance(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(axis=0, dtype=np.float64)
    found = centred.T @ centred / len(rows)
    return found + RIDGE * max(np.trace(found) / len(found), np.finfo(np.float64).tiny) * np.eye(len(found))


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """A power of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.maximum(values, np.finfo(np.float64).tiny) ** exponent) @ vectors.T


#: Every gauge by name, in the order in which ties are decided; the uncentred one is measured but never chosen.
GAUGES: dict[str, Callable[[np.ndarray, np.ndarray], Gauge | None]] = {
    "attentionviz": attentionviz,
    "norm-matched": norm_matched,
    "correlated": correlated,
    "balanced": balanced,
    "attentionviz-uncentred": attentionviz_uncentred,
}
NEVER_CHOSEN = ("attentionviz-uncentred",)
LEAST_CROSS = 0.1  # share of query–key edges below which a gauge shows two unrelated maps
TIE = 0.01  # of faithfulness


def choose(faithfulness: dict[str, float], cross_share: dict[str, float]) -> tuple[str, bool]:
    """The gauge to lay out, and whether it joins the two sides: lowest faithfulness among those that do.

    Ties within 0.01 go to the earlier; if none joins them, the first gauge is taken and flagged False.
    """
    names = [name for name in GAUGES if name in faithfulness and name not in NEVER_CHOSEN]
    able = [name for name in names if cross_share[name] >= LEAST_CROSS]
    if not able:
        return names[0], False
    best = np.nanmin([faithfulness[name] for name in able] + [np.inf])
    return next((name for name in able if faithfulness[name] <= best + TIE), able[0]), True
