"""What the neuron view shows of one head on one text, and what the corpus says of the same neurons. Knows no Bokeh.

The browser gets q, k and what turns their products into a pattern (scale, soft-cap, bias, lse, visible range), and
multiplies itself: so one row is as cheap as the next, and a file without a server can do it too. What needs every key
of the text is computed here: the share of each neuron in the variance of a row's scores, and of the whole text's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from attnengine.model.sentence import Attention

#: Keys drawn at once; of a longer text those with the largest weight, or a window of it.
MAX_KEYS = 128
TOP_KEYS = 64
#: Queries sent with the expanded one, to choose the next from.
QUERIES_AROUND = 48
ROWS_A_TILE = 256
#: Columns of ``neurons`` beside each neuron, in the order in which they are drawn.
CORPUS = ("score_variance_share", "qk_mean", "qk_attended_mean", "qk_sign_agreement", "qk_distance_corr")


@dataclass(frozen=True)
class Sheet:
    """One head on one text: n queries and m keys of it, D neurons.

    ``queries`` (n,) and ``keys`` (m,) are positions; q (n, D) and k (m, D) fp32 as attention saw them. Row i sees keys
    lo[i] <= j < hi[i] whose bias (n, m) is not -inf; its pattern is exp(score − lse[i]), and ``sink`` (n,) what a
    learned sink takes of it. ``row_share`` (n, D) and ``text_share`` (D,) are shares of the variance of q·k over
    the visible keys of a row, and of all rows together; NaN where nothing varies. ``row_pattern`` (keys of the text,)
    is the expanded query's where a sheet leaves keys out, else None.
    """

    name: str
    site: int
    head: int
    key_head: int
    scale: float
    softcap: float | None
    queries: np.ndarray
    keys: np.ndarray
    q: np.ndarray
    k: np.ndarray
    lse: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    bias: np.ndarray | None
    has_sink: bool
    sink: np.ndarray
    row_share: np.ndarray
    text_share: np.ndarray
    row_pattern: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))


def whole(attention: Attention, head: int) -> Sheet:
    """All queries and keys of a text."""
    n, m = attention.shape
    return _sheet(attention, head, np.arange(n), np.arange(m))


def of_query(attention: Attention, head: int, query: int, window: tuple[int, int] | None = None) -> Sheet:
    """A query, those around it, and the :data:`TOP_KEYS` keys that it looks at most, or those of ``window``.

    ``window`` is [first, last) and is cut at :data:`MAX_KEYS` keys. Raises ValueError for a query the text lacks.
    """
    n, m = attention.shape
    if not 0 <= query < n:
        raise ValueError(f"expected a query from 0 to {n - 1}, got {query}")
    pattern = attention.pattern(head, np.array([query]))[0]
    if window is None:
        keys = np.sort(np.argsort(-pattern, kind="stable")[:TOP_KEYS])
    else:
        first = min(max(window[0], 0), m - 1)
        keys = np.arange(first, min(max(window[1], first + 1), first + MAX_KEYS, m))
    first = max(0, min(query - QUERIES_AROUND // 2, n - QUERIES_AROUND))
    return _sheet(attention, head, np.arange(first, min(first + QUERIES_AROUND, n)), keys, pattern)


def _sheet(
    attention: Attention, head: int, queries: np.ndarray, keys: np.ndarray, pattern: np.ndarray | None = None
) -> Sheet:
    site = attention.site
    group = site.n_heads // site.n_kv_heads
    return Sheet(
        name=attention.name(head), site=site.site, head=head, key_head=head // group, scale=site.scale,
        softcap=site.softcap, queries=queries.astype(np.int32), keys=keys.astype(np.int32),
        q=attention.query[head][queries].astype(np.float32), k=attention.key[head // group][keys].astype(np.float32),
        lse=attention.lse(head, queries), lo=attention.lo[queries].astype(np.int32),
        hi=attention.hi[queries].astype(np.int32), bias=_bias(attention, head, queries, keys),
        has_sink=attention.sink is not None, sink=attention.sink_mass(head, queries),
        row_share=row_shares(attention, head, queries).astype(np.float32), text_share=text_shares(attention, head),
        row_pattern=pattern,
    )  # fmt: skip


def _bias(attention: Attention, head: int, queries: np.ndarray, keys: np.ndarray) -> np.ndarray | None:
    if attention.bias is None:
        return None
    return attention.bias.rows(head, queries, attention.shape[1])[:, keys].astype(np.float64)


def row_shares(attention: Attention, head: int, queries: np.ndarray) -> np.ndarray:
    """(n, D) Cov_j(q_id k_jd, q_i·k_j) / Var_j(q_i·k_j) over the visible keys of each row; rows sum to 1 or are NaN."""
    return _shares(_covariances(attention, head, queries))


def text_shares(attention: Attention, head: int) -> np.ndarray:
    """(D,) the same with numerators and denominators summed over the text's rows: ``score_variance_share`` of it."""
    total = np.zeros(attention.query.shape[2])
    for first in range(0, attention.shape[0], ROWS_A_TILE):
        rows = np.arange(first, min(first + ROWS_A_TILE, attention.shape[0]))
        total += _covariances(attention, head, rows).sum(axis=0)
    return _shares(total)


def _covariances(attention: Attention, head: int, rows: np.ndarray) -> np.ndarray:
    """(rows, D) population covariance of each product with their sum, over the visible keys of a row."""
    q, k = attention.queries_of(head)[rows], attention.keys_of(head)
    k = k - k.mean(axis=0)  # a constant added to every key changes no covariance, and large ones cost digits
    visible = attention.visible(rows, head)
    weight = visible / np.maximum(visible.sum(axis=1, keepdims=True), 1)  # (rows, k)
    score = q @ k.T
    score = np.where(visible, score - (weight * score).sum(axis=1, keepdims=True), 0.0)
    return q * ((weight * score) @ k)


def _shares(covariance: np.ndarray) -> np.ndarray:
    total = covariance.sum(axis=-1, keepdims=True)
    return np.divide(covariance, total, out=np.full_like(covariance, np.nan), where=total > 0)


def corpus_facts(rows: pd.DataFrame | None, n_neurons: int) -> dict[str, np.ndarray]:
    """Column → (D,) of a head's rows of ``neurons``, standard errors (``_se``) too; only what the run has."""
    if rows is None or rows.empty or "neuron" not in rows.columns:
        return {}
    neuron = rows["neuron"].to_numpy()
    if len(neuron) != n_neurons or set(neuron) != set(range(n_neurons)):
        return {}
    ordered = rows.iloc[np.argsort(neuron)]
    names = [name for column in CORPUS for name in (column, f"{column}_se") if name in ordered.columns]
    return {name: ordered[name].to_numpy(dtype=float) for name in names}
