"""95 % intervals of the means in ``heads`` (derived table ``intervals``): ``<statistic>_lo`` and ``<statistic>_hi``.

They are no plain value ± 2 se: how wide an interval has to be depends on how uneven and skewed the documents are
(:func:`attnengine.statistics.uncertainty.ratio_interval`), which the standard error alone does not tell.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from attnengine.records import Site
from attnengine.statistics import uncertainty
from attnengine.statistics.accumulate import SiteSums
from attnengine.statistics.catalogue import HEADS, is_mass
from attnengine.statistics.tables import Columns, site_table
from attnengine_kernels.sums import keeps

LEVEL = 0.95


def intervals_table(sites: Sequence[Site], sums: Sequence[SiteSums], stats: str) -> pd.DataFrame:
    """One row per site and head; null where there is no statistic or too few groups to declare an interval."""
    return site_table(sites, [head_intervals(site.n_heads, one, stats) for site, one in zip(sites, sums, strict=True)])


def head_intervals(heads: int, one: SiteSums, stats: str) -> Columns:
    """(h,) columns of one site, of every statistic of ``stats`` that has a standard error."""
    grouped = {name: value.numpy() for name, value in one.grouped.items()}
    own = [name for name in grouped if is_mass(name) and f"{name}_n" in grouped and name not in HEADS]
    wanted = [name for name, entry in HEADS.items() if entry.has_error and keeps(stats, name)]
    out: Columns = {}
    for name in [*wanted, *own]:
        lo, hi = _interval(name, one, grouped, heads)
        out |= {f"{name}_lo": np.broadcast_to(lo, heads), f"{name}_hi": np.broadcast_to(hi, heads)}
    return out


def _interval(name: str, one: SiteSums, grouped: Columns, heads: int) -> tuple[np.ndarray, np.ndarray]:
    if name == "score_std":
        n = grouped["score_mean_n"]
        first = grouped["score_mean"] - n * one.pilot.score.numpy()
        return uncertainty.jackknife_interval(
            uncertainty.standard_deviation, n, first, grouped["score_m2"], level=LEVEL
        )
    if name not in grouped:
        return np.full(heads, np.nan), np.full(heads, np.nan)
    counts = np.broadcast_to(grouped[f"{name}_n"], grouped[name].shape)
    return uncertainty.ratio_interval(grouped[name], counts, LEVEL)
