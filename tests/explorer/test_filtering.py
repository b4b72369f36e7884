"""Filters of heads: what passes, by interval and by type, against a loop over the tables on disk."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from attnengine import store
from attnengine_explorer.fields import Between, OfType
from attnengine_explorer.filtering import Z95, filter_text, interval, passing
from attnengine_explorer.run_data import RunData
from tests.explorer.synthetic_run import site, write_run
from tests.explorer.synthetic_tables import with_derived


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return RunData(with_derived(write_run(tmp_path_factory.mktemp("filter") / "run", [site(i, i) for i in range(3)])))


def test_an_interval_is_the_runs_own_or_that_of_a_type_or_follows_from_the_standard_error(run):
    own = run.run.intervals.set_index(["site", "head"]).loc[list(run.index)]
    assert np.array_equal(interval(run, "entropy")[0], own.entropy_lo, equal_nan=True)
    assert np.array_equal(interval(run, "induction_score")[1], run.heads.induction_hi, equal_nan=True)
    low, high = interval(run, "digit_mass")
    assert np.allclose(high - run.heads.digit_mass, Z95 * run.heads.digit_mass_se)
    assert np.allclose(run.heads.digit_mass - low, Z95 * run.heads.digit_mass_se)
    assert np.isnan(interval(run, "n_queries")[0]).all()


@pytest.mark.parametrize("filters", [
    (), (OfType("induction"),), (OfType("induction"), OfType("local")), (Between("entropy", 1.0, 3.0),),
    (Between("entropy", None, 3.0), OfType("local")), (Between("n_queries", 40_000, None),),
    (Between("entropy", 1.0, None), Between("p_max", None, 0.4)),
])  # fmt: skip
def test_heads_pass_whose_type_is_named_and_whose_whole_interval_lies_within(run, filters):
    intervals = run.run.intervals.set_index(["site", "head"])
    for (where, row), passes in zip(
        run.heads.set_index(["site", "head"]).iterrows(), passing(run, filters), strict=True
    ):
        wanted = [one.type for one in filters if isinstance(one, OfType)]
        expected = not wanted or any(one in row.types.split(",") for one in wanted)
        for one in (one for one in filters if isinstance(one, Between)):
            low, high = (
                (row[one.statistic],) * 2
                if f"{one.statistic}_lo" not in intervals or pd.isna(intervals.loc[where, f"{one.statistic}_lo"])
                else (intervals.loc[where, f"{one.statistic}_{end}"] for end in ("lo", "hi"))
            )
            expected &= (one.low is None or low >= one.low) and (one.high is None or high <= one.high)
        assert passes == expected


def test_a_head_without_the_number_does_not_pass(tmp_path):
    broken = RunData(write_run(tmp_path / "run", [site(0, 0, heads=3)], nan_heads=[(0, 1)], n_tokens=20))
    assert passing(broken, (Between("entropy", None, None),)).tolist() == [True, False, True]
    assert store.read_manifest(broken.path)["nan_heads"] == [[0, 1]]


def test_filters_say_what_they_keep(run):
    said = [filter_text(run, one) for one in (
        OfType("induction"), Between("entropy", 1, None), Between("entropy", None, 0.5), Between("entropy", 0, 1.25),
    )]  # fmt: skip
    assert said == ["Induction head", "Entropy ≥ 1", "Entropy ≤ 0.5", "0 ≤ Entropy ≤ 1.25"]
