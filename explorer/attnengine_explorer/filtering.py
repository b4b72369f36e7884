"""Which heads pass a set of filters, and the 95 % interval of every number that is compared."""

from __future__ import annotations

import numpy as np

from attnengine_explorer.fields import Between, OfType
from attnengine_explorer.run_data import RunData

#: Of a normal distribution: used where a run holds a standard error and no interval.
Z95 = 1.959964


def interval(run: RunData, statistic: str) -> tuple[np.ndarray, np.ndarray]:
    """Both ends (heads,) of the 95 % interval of a column of ``heads``, in its order; NaN where there is none.

    The run's own interval (table ``intervals``, or the bootstrap's of a head type), else value ± 1.96 standard errors.
    """
    value = run.heads[statistic].to_numpy(dtype=float)
    stem = statistic.removesuffix("_score")
    if {f"{stem}_lo", f"{stem}_hi"} <= set(run.heads.columns):
        low, high = (run.heads[f"{stem}_{end}"].to_numpy(dtype=float) for end in ("lo", "hi"))
    elif run.intervals is not None and f"{statistic}_lo" in run.intervals.columns:
        low, high = (run.intervals[f"{statistic}_{end}"].to_numpy(dtype=float) for end in ("lo", "hi"))
    else:
        error = f"{statistic}_se"
        half = Z95 * run.heads[error].to_numpy(dtype=float) if error in run.heads else np.full(len(value), np.nan)
        low, high = value - half, value + half
    known = np.isfinite(low) & np.isfinite(high)
    return np.where(known, low, np.nan), np.where(known, high, np.nan)


def passing(run: RunData, filters: tuple[OfType | Between, ...]) -> np.ndarray:
    """Which heads (heads,) pass: of any of the types named, and of every statistic with the whole interval within.

    Where a number has no interval, the number itself must lie within; a head without the number does not pass.
    """
    result = np.ones(len(run.heads), dtype=bool)
    types = {one.type for one in filters if isinstance(one, OfType)}
    if types:
        result &= np.array([bool(types & held) for held in run.types], dtype=bool)
    for one in filters:
        if isinstance(one, Between):
            value = run.heads[one.statistic].to_numpy(dtype=float)
            low, high = interval(run, one.statistic)
            low, high = (np.where(np.isnan(end), value, end) for end in (low, high))
            result &= np.isfinite(value)
            result &= low >= (-np.inf if one.low is None else one.low)
            result &= high <= (np.inf if one.high is None else one.high)
    return result


def filter_text(run: RunData, one: OfType | Between) -> str:
    """A filter in words: ``Entropy ≤ 0.5``."""
    if isinstance(one, OfType):
        return run.type_titles.get(one.type, one.type)
    title = run.statistics[one.statistic].title
    if one.low is None or one.high is None:
        bound = "any" if one.low is None and one.high is None else ""
        return f"{title} {bound or (f'≥ {one.low:g}' if one.high is None else f'≤ {one.high:g}')}"
    return f"{one.low:g} ≤ {title} ≤ {one.high:g}"
