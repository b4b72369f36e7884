"""From observations by document to the columns of ``heads``, ``neurons`` and ``profiles``, with standard errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tests.oracle.brute_force import SPAN, Observations

Array = np.ndarray
Row = dict[str, Any]
MASSES = [
    "self_mass", "previous_mass", "next_mass", "first_mass", "special_mass", "punctuation_mass", "same_token_mass",
    "induction_mass", "cross_sentence_mass", "learned_sink_mass",
]  # fmt: skip
MEANS = [
    "entropy", "entropy_normalized", "p_max", "offset_mean", "distance_mean", "score_mean", "query_norm", "key_norm",
    "qk_cosine", "value_weighted_first_mass", "mass_defect_mean",
]  # fmt: skip


def ratio(sums: Array, numbers: Array) -> tuple[float, float]:
    """x = ΣS_g / ΣN_g and √(G/(G−1) Σ(S_g − x N_g)²) / ΣN_g over the documents that have any."""
    documents = [g for g in range(len(numbers)) if numbers[g] > 0]
    if not documents:
        return np.nan, np.nan
    total = sum(numbers[g] for g in documents)
    x = sum(sums[g] for g in documents) / total
    n = len(documents)
    if n < 2:
        return x, np.nan
    return x, np.sqrt(n / (n - 1) * sum((sums[g] - x * numbers[g]) ** 2 for g in documents)) / total


def jackknife(statistic: Callable[[list[Any]], Array], documents: Iterable[Any]) -> tuple[Array, Array]:
    """The statistic of all documents, and √((G−1)/G Σ(θ_g − θ̄)²) over the ones left when each is deleted."""
    documents = list(documents)
    if not documents:
        return np.asarray(np.nan), np.asarray(np.nan)
    value, n = np.asarray(statistic(documents)), len(documents)
    if n < 2:
        return value, np.full(value.shape, np.nan)
    left = np.array([statistic(documents[:g] + documents[g + 1 :]) for g in range(n)])
    return value, np.sqrt((n - 1) / n * ((left - left.mean(0)) ** 2).sum(0))


def by_document(out: Observations, *names: str) -> list[tuple[Array, ...]]:
    """The kept numbers of each document that has any, as one array a name."""
    lists = zip(*(out.rows[name] for name in names), strict=True)
    return [tuple(np.concatenate(pieces) for pieces in one) for one in lists if one[0]]


def powers(documents: list[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
    """For each document n, Σx, Σx² (and Σd, Σd², Σxd), about the mean of all: enough for moments of any subset."""
    middle = [np.concatenate(arrays).mean(0) for arrays in zip(*documents, strict=True)]
    out = []
    for arrays in documents:
        x = arrays[0] - middle[0]
        sums = [np.asarray(len(x)), x.sum(0), (x**2).sum(0)]
        if len(arrays) > 1:
            d = arrays[1] - middle[1]
            sums += [d.sum(), (d**2).sum(), d @ x]
        out.append(tuple(sums))
    return out


def variance(documents: list[tuple[Array, ...]]) -> Array:
    n, x, xx = (sum(part) for part in zip(*documents, strict=True))
    return xx / n - (x / n) ** 2


def deviation(documents: list[tuple[Array, ...]]) -> Array:
    return np.sqrt(variance(documents))


def correlation(documents: list[tuple[Array, ...]]) -> Array:
    n, x, xx, d, dd, xd = (sum(part) for part in zip(*documents, strict=True))
    return (xd / n - x / n * d / n) / np.sqrt((xx / n - (x / n) ** 2) * (dd / n - (d / n) ** 2))


def quotient(documents: list[tuple[Array, ...]]) -> Array:
    top, bottom = (sum(part) for part in zip(*documents, strict=True))
    return top / bottom


def attended_variance(documents: list[tuple[Array, ...]]) -> Array:
    first, second = (np.concatenate(arrays) for arrays in zip(*documents, strict=True))
    return second.mean(0) - first.mean(0) ** 2


def head_row(out: Observations) -> Row:
    """All columns of ``heads`` for one head."""
    row: Row = dict(out.counts)
    for name in MEANS + MASSES:
        row[name], row[f"{name}_se"] = ratio(out.sums[name], out.numbers[name])
        if name in MASSES:
            row[f"{name}_n"] = out.numbers[name].sum()
    scores = by_document(out, "score")
    pooled = np.concatenate([array for (array,) in scores])
    row["score_min"], row["score_max"] = pooled.min(), pooled.max()
    row["score_std"], row["score_std_se"] = map(float, jackknife(deviation, powers(scores)))
    row["mass_defect_max"] = max(array.max() for (array,) in by_document(out, "mass_defect"))
    seen = out.numbers["received_gini"] > 0
    ginis = zip(out.sums["received_gini"][seen], out.numbers["received_gini"][seen], strict=True)
    row["received_gini"], row["received_gini_se"] = map(float, jackknife(quotient, ginis))
    return row


def neuron_rows(out: Observations) -> list[Row]:
    """All columns of ``neurons`` for one head, a row a neuron."""
    columns: dict[str, Array] = {}
    pairs = by_document(out, "x")
    pooled = np.concatenate([x for (x,) in pairs])
    columns["qk_min"], columns["qk_max"] = pooled.min(0), pooled.max(0)
    columns["qk_var"], columns["qk_var_se"] = jackknife(variance, powers(pairs))
    _means(columns, "qk_mean", [x for (x,) in pairs])
    _means(columns, "qk_sign_agreement", [x > 0 for (x,) in pairs])
    attended = by_document(out, "attended", "attended_square")
    _means(columns, "qk_attended_mean", [first for first, _ in attended])
    columns["qk_attended_var"], columns["qk_attended_var_se"] = jackknife(attended_variance, attended)
    shares = [(top.sum(0), bottom.sum(0)) for top, bottom in by_document(out, "share_top", "share_bottom")]
    columns["score_variance_share"], columns["score_variance_share_se"] = jackknife(quotient, shares)
    distances = by_document(out, "distance_x", "distance")
    nothing = np.full(out.width, np.nan)
    found = jackknife(correlation, powers(distances)) if distances else (nothing, nothing)
    columns["qk_distance_corr"], columns["qk_distance_corr_se"] = found
    return [{name: array[d] for name, array in columns.items()} for d in range(out.width)]


def _means(columns: dict[str, Array], name: str, documents: list[Array]) -> None:
    """Value and error of a mean of rows, neuron by neuron."""
    numbers = np.array([len(array) for array in documents])
    sums = np.array([array.sum(0) for array in documents])  # (documents, d)
    found = [ratio(sums[:, d], numbers) for d in range(sums.shape[1])]
    columns[name], columns[f"{name}_se"] = np.array(found).T


def profile_row(out: Observations, lo: int, hi: int) -> Row:
    """The columns of ``profiles`` for one head and the offsets lo … hi − 1."""
    bin_ = slice(lo + SPAN, hi + SPAN)
    mass, error = ratio(out.profile[:, bin_].sum(1), out.numbers["query_norm"])  # query_norm has one number a row
    return {"mass": mass, "mass_se": error, "n_rows": out.sees(bin_)}


def profile_bin(offset: int) -> tuple[int, int]:
    """(smallest, largest) offset of the bin: itself below 128, else 2^k … 2^(k+1) − 1 with its sign."""
    if abs(offset) < 128:
        return offset, offset
    low = 128
    while 2 * low <= abs(offset):
        low *= 2
    return (low, 2 * low - 1) if offset > 0 else (-2 * low + 1, -low)


def mean_pattern(out: Observations) -> Array:
    """(32, 32); NaN in rows no query fell into."""
    with np.errstate(invalid="ignore"):
        return out.pattern / out.pattern_rows[:, None]
