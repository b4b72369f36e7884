"""Head types: what a head does with the mass it does not leave on Z, tested against what chance would do (table
``head_types``; STATISTICS.md, "Head types").

Z is the window's first real token and the special tokens, m_i = Σ_{j∉Z} p_ij. Everything here is computed from the
sums of :mod:`attnengine.statistics.type_sums` over the *sampled* rows, so a run of ``--sample 0`` has no types.

    score   Σ p over the targets ∉ Z / Σ m_i, rows with such a target; first_token and special_token: mean p on them
    null    what the same rows would give by chance:
            previous, next, local       m_i spread evenly over the visible keys ∉ Z
            first, special              all of p spread evenly over all visible keys. (Spreading m_i over keys ∉ Z, as
                                        for the others, would give keys in Z nothing, and a uniform head on windows of
                                        ten tokens would be a first-token head.)
            duplicate, induction,       what the head's own offset profile predicts at the same targets: f(δ), the mean
            punctuation, cross_sentence p of a visible pair ∉ Z at that offset, times the number of targets there
            positional                  within-row shuffles of the keys ∉ Z. Their mean has a closed form: a shuffled
                                        p_ij has mean m_i / n_i and variance Σ_j p² / n_i − (m_i / n_i)², and rows are
                                        independent. So the null is exact where 99 shuffles would only estimate it
                                        (the mean of a ratio is taken as the ratio of the means; the denominator is a
                                        sum over all rows, and constant where windows have at most 128 tokens)
            broad                       a fixed line. A shuffle leaves a row's entropy as it is, so it would equal the
                                        score and no head could ever be broad. Typed means score − null ≥ 0.1; the line
                                        is laid so that this is normalised entropy ≥ 0.95 (86 % of 20 keys, 81 % of 64,
                                        73 % of 512, as a perplexity) and no less than a row whose mass is divided at
                                        random (uniformly over the simplex: ψ(n + 1) − ψ(2) nats) has, which is more
                                        than 0.95 from 4,700 keys on. A null made of such random divisions alone is of
                                        no use: it is above 0.9, which even a uniform head exceeds by less than 0.1

One-sided p from the delete-one-group jackknife of score − null, Student's t with G − 1 degrees of freedom (the groups
are few: about 80 with 5,000 sampled tokens, one segment each); Benjamini & Hochberg's q over all heads × types of the
run. Typed if q < 0.05 and score − null ≥ 0.1. ``lo`` and ``hi`` bound the score: percentiles of 999 resamplings of the
groups, expanded for few groups (Hesterberg 2015, The American Statistician 69), and extended where the jackknife's
interval, corrected for skewness (:mod:`attnengine.statistics.uncertainty`), reaches further: percentiles alone covered
1 to 4 % less often. ``type`` is the one word for a head:
the typed target with the largest share of the head's whole mass above its null, else local, positional or broad.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from attnengine.records import Site
from attnengine.statistics import uncertainty
from attnengine.statistics.accumulate import SiteSums
from attnengine.statistics.catalogue import TYPES
from attnengine.statistics.tables import Columns, site_table
from attnengine_kernels.sums import EXACT_OFFSETS

Array = np.ndarray
Sums = Mapping[str, Array]  # name -> (replicates, ...)

SHAPES = ("local", "positional", "broad")  # say how mass is spread, and name a head only where no target does
PARTS = ("score", "lo", "hi", "null", "p")
IN_Z = ("first_token", "special_token")
ROUNDING = 1e-6  # a standard error below it is that of fp32 patterns, not of documents


@dataclass(frozen=True)
class TypeSettings:
    """What the table depends on beside the sums; its hash is kept with the table."""

    false_discovery_rate: float = 0.05
    least_effect: float = 0.1  # of score − null
    resamples: int = 999
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("false_discovery_rate", "level"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.resamples < 1:
            raise ValueError(f"resamples must be at least 1, got {self.resamples}")


def types_table(sites: Sequence[Site], sums: Sequence[SiteSums], settings: TypeSettings) -> pd.DataFrame:
    """One row per site and head: ``<type>_score, _lo, _hi, _null, _q``, ``outside_mass``, ``types`` and ``type``.

    ``types`` lists every type of the head, comma-separated, ``type`` is the one to call it by; both are "" if there is
    none. A type that a call does not define is null; q is null with fewer than two groups of documents.
    ``outside_mass`` is mean m_i: the share of its attention that all types but first_token and special_token speak of.
    """
    columns = [site_columns(site.n_heads, one, settings) for site, one in zip(sites, sums, strict=True)]
    table = site_table(sites, columns)
    p = table[[f"{name}_p" for name in TYPES]].to_numpy()
    q = np.full(p.shape, np.nan)
    q[~np.isnan(p)] = stats.false_discovery_control(p[~np.isnan(p)], method="bh")
    effect = np.stack([table[f"{name}_score"] - table[f"{name}_null"] for name in TYPES], axis=1)
    typed = (q < settings.false_discovery_rate) & (effect >= settings.least_effect)
    for column, name in enumerate(TYPES):
        table[f"{name}_p"] = q[:, column]
    weight = effect * np.where(np.isin(list(TYPES), IN_Z), 1.0, table["outside_mass"].to_numpy()[:, None])
    table["types"] = [",".join(np.asarray(list(TYPES))[row]) for row in typed]
    table["type"] = [_one_word(row, size) for row, size in zip(typed, weight, strict=True)]
    return table.rename(columns={f"{name}_p": f"{name}_q" for name in TYPES})


def _one_word(typed: Array, weight: Array) -> str:
    found = [(size, name) for name, is_one, size in zip(TYPES, typed, weight, strict=True) if is_one]
    targets = [(size, name) for size, name in found if name not in SHAPES]
    if targets:
        return max(targets)[1]
    return next((name for name in SHAPES if any(name == other for _, other in found)), "")


def site_columns(heads: int, one: SiteSums, settings: TypeSettings) -> Columns:
    """Score, interval, null and p of every type, (h,) each, NaN where the call does not define it."""
    rows = one.grouped["type_rows"].numpy() if "type_rows" in one.grouped else np.zeros(0)
    sums = {name: value.numpy()[rows > 0] for name, value in one.grouped.items() if name.startswith("type_")}
    weights = uncertainty.bootstrap_weights(int((rows > 0).sum()), settings.resamples, settings.seed)
    out: Columns = {}
    for name in TYPES:
        values = _judged(name, sums, weights, settings) if f"type_{name}" in sums else [np.full(heads, np.nan)] * 5
        out |= {f"{name}_{part}": value for part, value in zip(PARTS, values, strict=True)}
    known = rows.sum() > 0
    return out | {"outside_mass": sums["type_outside"].sum(0) / rows.sum() if known else np.full(heads, np.nan)}


def _judged(name: str, sums: Sums, weights: Array, settings: TypeSettings) -> tuple[Array, ...]:
    """Score, lo, hi, null and one-sided p of one type, (h,) each."""
    mine = {key: sums[key] for key in _needs(name, sums)}
    total = {key: value.sum(0, keepdims=True) for key, value in mine.items()}
    score, null = _score(name, total)[0], _null(name, total)[0]
    counts = np.broadcast_to(_at_heads(mine[f"type_{name}_n"]), mine[f"type_{name}"].shape)  # (g, h)

    def effect(_counts: Array, *arrays: Array) -> Array:
        deleted = dict(zip(mine, arrays, strict=True))
        return _score(name, deleted) - _null(name, deleted)

    difference, error = uncertainty.jackknife(effect, counts, *mine.values())
    groups = (counts != 0).sum(0)
    p = stats.t.sf(difference / np.maximum(error, ROUNDING), np.maximum(groups - 1, 1))
    resampled = _score(name, {key: uncertainty.resampled(value, weights) for key, value in mine.items()})
    lo, hi = uncertainty.bootstrap_interval(resampled, groups, settings.level)

    def alone(_counts: Array, *arrays: Array) -> Array:
        return _score(name, dict(zip(mine, arrays, strict=True)))

    low, high = uncertainty.jackknife_interval(alone, counts, *mine.values(), level=settings.level)
    lo, hi = np.clip(np.fmin(lo, low), 0, 1), np.clip(np.fmax(hi, high), 0, 1)
    return score, lo, hi, null, np.where(np.isnan(error), np.nan, p)


def _needs(name: str, sums: Sums) -> list[str]:
    shared = ["type_offset", "type_offset_pairs", "type_offset_even"]
    by_offset = name == "positional" or f"type_{name}_pairs" in sums
    own = [key for key in sums if key.removeprefix("type_").startswith(name)]
    return own + (shared if by_offset else [])


def _at_heads(count: Array) -> Array:
    """(r, h) as it is, (r,) as (r, 1)."""
    return count if count.ndim == 2 else count[:, None]


def _score(name: str, sums: Sums) -> Array:
    """(r, h) from sums with any number r of replicates in front."""
    with np.errstate(invalid="ignore", divide="ignore"):
        n = _at_heads(sums[f"type_{name}_n"])
        if name != "positional":
            return sums[f"type_{name}"] / n
        profile = _exact(sums["type_offset"])  # n f(δ)
        return np.einsum("rhd,rhd->rh", profile, profile) / (n * sums["type_positional"])


def _null(name: str, sums: Sums) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        n = _at_heads(sums[f"type_{name}_n"])
        if name == "positional":
            even = _exact(sums["type_offset_even"])
            shuffled = np.einsum("rhd,rhd->rh", even, even) + sums["type_positional_spread"]
            return shuffled / (n * sums["type_positional_null"])
        if f"type_{name}_pairs" not in sums:
            return sums[f"type_{name}_null"] / n
        share = sums[f"type_{name}_pairs"] / np.maximum(sums["type_offset_pairs"], 1)  # (r, bins)
        return np.einsum("rhd,rd->rh", sums["type_offset"], share) / n


def _exact(by_offset: Array) -> Array:
    """(r, h, 255): the bins of the offsets below 128, which lie in the middle."""
    beyond = (by_offset.shape[-1] - (2 * EXACT_OFFSETS - 1)) // 2
    return by_offset[..., beyond : by_offset.shape[-1] - beyond]
