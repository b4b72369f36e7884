"""The tables ``heads``, ``neurons`` and ``profiles`` from the sums of every site."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from attnengine.records import Site
from attnengine.statistics import uncertainty
from attnengine.statistics.accumulate import SiteSums
from attnengine.statistics.catalogue import HEADS, NEURONS, Statistic, is_mass
from attnengine.statistics.own import PREFIX
from attnengine_kernels.sums import keeps

Array = np.ndarray
Columns = dict[str, Array]

#: numerator and denominator of every neuron ratio, by column.
NEURON_RATIOS = {
    "qk_mean": ("qk", "n_pairs"),
    "qk_sign_agreement": ("qk_positive", "n_pairs"),
    "qk_attended_mean": ("qk_attended", "n_queries"),
}


def heads_table(sites: Sequence[Site], sums: Sequence[SiteSums], stats: str) -> pd.DataFrame:
    """One row per site and head; every statistic of ``stats`` with ``_se``, every mass with ``_n``.

    A statistic that a call does not define is null; one that the run was not asked for has no column.
    """
    return site_table(sites, [_head_columns(one, stats) for one in sums])


def neurons_table(sites: Sequence[Site], sums: Sequence[SiteSums], stats: str) -> pd.DataFrame:
    """One row per site, head and neuron of q⊙k."""
    return site_table(sites, [_neuron_columns(one, stats) for one in sums], axis="neuron")


def profiles_table(sites: Sequence[Site], sums: Sequence[SiteSums], edges: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """One row per self-attention site, head and offset bin [offset_lo, offset_hi) of i − j."""
    lo, hi = np.asarray(edges, dtype=np.int32).T
    kept = [(site, one) for site, one in zip(sites, sums, strict=True) if "profile" in one.grouped]
    columns = [_profile_columns(one) for _, one in kept]
    table = site_table([site for site, _ in kept], columns, axis="bin")
    bins = table.pop("bin").to_numpy()
    table.insert(5, "offset_lo", lo[bins])
    table.insert(6, "offset_hi", hi[bins])
    return table


def patterns_array(sites: Sequence[Site], sums: Sequence[SiteSums]) -> Array:
    """(sites, most heads, 32, 32) fp32 mean patterns; NaN for rows never seen and heads a site does not have."""
    most = max(site.n_heads for site in sites)
    bins = next(iter(sums)).pooled["pattern"].shape[-1]
    out = np.full((len(sites), most, bins, bins), np.nan, dtype=np.float32)
    for row, (site, one) in enumerate(zip(sites, sums, strict=True)):
        rows = one.pooled["pattern_n"].numpy()[:, None]  # (bins, 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            out[row, : site.n_heads] = one.pooled["pattern"].numpy() / rows
    return out


def site_table(sites: Sequence[Site], columns: Sequence[Columns], axis: str | None = None) -> pd.DataFrame:
    """Stack (h,) or (h, m) columns of all sites under their keys; a column a site lacks is NaN there."""
    names = list(dict.fromkeys(name for one in columns for name in one))
    frames = []
    for site, one in zip(sites, columns, strict=True):
        shape = next(iter(one.values())).shape
        keys = dict(zip(("head", axis), np.indices(shape), strict=False)) if axis else {"head": np.arange(shape[0])}
        frame = {"site": np.full(shape, site.site), "layer": np.full(shape, site.layer), **keys}
        data = {name: np.asarray(array, np.int32).ravel() for name, array in frame.items()}
        data |= {name: one.get(name, np.full(shape, np.nan)).ravel() for name in names}
        piece = pd.DataFrame(data)
        piece.insert(2, "kind", site.kind)
        piece.insert(3, "stack", site.stack)
        frames.append(piece)
    if not frames:
        return pd.DataFrame(columns=["site", "layer", "kind", "stack", "head", *([axis] if axis else [])])
    return pd.concat(frames, ignore_index=True)


def _head_columns(one: SiteSums, stats: str) -> Columns:
    grouped = {name: value.numpy() for name, value in one.grouped.items()}
    extremes = {name: value.numpy() for name, value in one.extremes.items()}
    heads = grouped["entropy"].shape[1]
    masses = [name for name in grouped if is_mass(name) and f"{name}_n" in grouped]
    out: Columns = {}
    for name in filter(partial(keeps, stats), dict.fromkeys([*HEADS, *masses])):
        entry = HEADS.get(name)
        estimator = entry.estimator if entry else "ratio"
        if estimator == "count":
            out[name] = np.full(heads, grouped[name].sum(0)).astype(np.int64)
        elif estimator == "extreme":
            found = extremes[name]
            out[name] = np.where(np.isinf(found), np.nan, found)
        else:
            out[name], out[f"{name}_se"] = _head_statistic(name, estimator, one, grouped, heads)
            if is_mass(name):
                out[f"{name}_n"] = grouped[f"{name}_n"].sum(0) if f"{name}_n" in grouped else np.zeros(heads)
    return out | _own_columns(grouped)


def _own_columns(grouped: Columns) -> Columns:
    """The columns of statistics that the user registered, by name."""
    out: Columns = {}
    for key in sorted(key for key in grouped if key.startswith(PREFIX) and f"{key}_n" in grouped):
        name = key.removeprefix(PREFIX)
        out[name], out[f"{name}_se"] = uncertainty.ratio(grouped[key], grouped[f"{key}_n"])
        out[f"{name}_n"] = grouped[f"{key}_n"].sum(0)
    return out


def _head_statistic(name: str, estimator: str, one: SiteSums, grouped: Columns, heads: int) -> tuple[Array, Array]:
    if estimator == "std":
        n = grouped["score_mean_n"]
        first = grouped["score_mean"] - n * one.pilot.score.numpy()
        return uncertainty.jackknife(uncertainty.standard_deviation, n, first, grouped["score_m2"])
    if name not in grouped:  # not defined for this call: cross-attention, no token ids, no sink
        return np.full(heads, np.nan), np.full(heads, np.nan)
    n = grouped[f"{name}_n"]
    if estimator == "gini":
        return uncertainty.jackknife(uncertainty.mean, n, grouped[name])
    return uncertainty.ratio(grouped[name], n)


def _neuron_columns(one: SiteSums, stats: str) -> Columns:
    grouped = {name: value.numpy() for name, value in one.grouped.items()}
    extremes = {name: value.numpy() for name, value in one.extremes.items()}
    out: Columns = {}
    for name, entry in NEURONS.items():
        if not keeps(stats, NEURON_RATIOS[name][0] if name in NEURON_RATIOS else name):
            continue
        if entry.estimator == "extreme":
            out[name] = np.where(np.isinf(extremes[name]), np.nan, extremes[name])
        else:
            out[name], out[f"{name}_se"] = _neuron_statistic(entry, one, grouped)
    return out


def _neuron_statistic(entry: Statistic, one: SiteSums, grouped: Columns) -> tuple[Array, Array]:
    def number(name: str) -> Array:
        """(g, 1, 1) or (g, h, 1) counts against (g, h, d) sums."""
        count = grouped[name]
        return count.reshape(count.shape + (1,) * (3 - count.ndim))

    pilot = one.pilot.qk.numpy()
    if entry.name in NEURON_RATIOS:
        top, bottom = NEURON_RATIOS[entry.name]
        return uncertainty.ratio(grouped[top], number(bottom))
    if entry.estimator == "variance":
        top, bottom = NEURON_RATIOS[entry.name.replace("_var", "_mean")]
        first = grouped[top] - number(bottom) * pilot
        return uncertainty.jackknife(uncertainty.variance, number(bottom), first, grouped[f"{top}_m2"])
    if entry.estimator == "share":
        return uncertainty.jackknife(uncertainty.mean, number("share_n"), grouped["share"])
    if entry.estimator == "correlation":
        return _distance_correlation(one, grouped, number)
    raise ValueError(f"statistic {entry.name} has no estimator {entry.estimator!r}")


def _distance_correlation(one: SiteSums, grouped: Columns, number) -> tuple[Array, Array]:  # type: ignore[no-untyped-def]
    if "distance_qk" not in grouped:
        nothing = np.full(grouped["qk"].shape[1:], np.nan)
        return nothing, nothing
    n = number("distance_pairs")
    x = grouped["distance_qk"] - n * one.pilot.qk.numpy()
    d = number("distance_sum") - n * one.pilot.distance.numpy()
    return uncertainty.jackknife(
        uncertainty.correlation, n, x, grouped["distance_qk_m2"], d, number("distance_m2"), grouped["distance_qk_co"]
    )


def _profile_columns(one: SiteSums) -> Columns:
    profile = one.grouped["profile"].numpy()  # (g, h, bins)
    queries = one.grouped["n_queries"].numpy()[:, None, None]  # (g, 1, 1)
    mass, error = uncertainty.ratio(profile, queries)
    rows = one.grouped["profile_n"].numpy().sum(0)  # (bins,)
    return {"mass": mass, "n_rows": np.broadcast_to(rows, mass.shape).astype(np.int64), "mass_se": error}
