"""Whether two runs that were cut differently print the same numbers."""

from __future__ import annotations

import numpy as np

from attnengine.opened import Run


def assert_same_numbers(one: Run, other: Run, atol: float) -> None:
    """Every number of heads, neurons and profiles, within ``atol`` of its column's largest value."""
    for name in ("heads", "neurons", "profiles"):
        mine, theirs = getattr(one, name), getattr(other, name)
        for column in mine.select_dtypes("number"):
            # A defect is rounding noise: only its distance from 0, in units of mass, says anything.
            scale = 1.0 if "mass_defect" in column else max(mine[column].abs().max(), 1e-9)
            assert np.allclose(mine[column] / scale, theirs[column] / scale, atol=atol, equal_nan=True), column
