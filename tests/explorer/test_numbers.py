"""Numbers are written with the digits they deserve."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnengine_explorer.numbers import count, estimate, number


def read(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


@pytest.mark.parametrize(("value", "text"), [
    (0.0, "0"), (0.123456, "0.1235"), (-2.5, "−2.500"), (12.3456, "12.35"), (123456.0, "123,456"), (1234.5, "1,234"),
    (1.5e-7, "1.500e−07"), (float("nan"), "–"), (float("inf"), "∞"), (-math.inf, "−∞"),
])  # fmt: skip
def test_a_number_shows_four_figures(value, text):
    assert number(value) == text


@pytest.mark.parametrize(("value", "error", "text"), [
    (0.34214, 0.0012, "0.3421 ± 0.0012"), (-2.0, 0.5, "−2.00 ± 0.50"), (1234.5, 123.0, "1,234 ± 123"),
    (7.12e-6, 3.6e-7, "(7.12 ± 0.36)e−06"), (0.5, math.nan, "0.5000"), (0.5, 0.0, "0.5000"), (math.nan, 0.1, "–"),
])  # fmt: skip
def test_an_estimate_shows_two_figures_of_its_error(value, error, text):
    assert estimate(value, error) == text


@given(st.floats(-1e6, 1e6))
def test_what_is_written_is_within_its_last_figure(value):
    assert read(number(value)) == pytest.approx(value, rel=6e-4, abs=1e-300)


@given(st.floats(1e-3, 1e5), st.floats(1e-4, 1.0))
def test_an_estimate_is_written_to_a_twentieth_of_its_error(value, relative):
    error = value * relative
    shown, shown_error = map(read, estimate(value, error).split(" ± "))
    assert abs(shown - value) <= max(error / 10, 0.5 if error >= 10 else 0)
    assert shown_error == pytest.approx(error, rel=0.06, abs=0.5 if error >= 10 else 0)


@pytest.mark.parametrize("stranger", [None, "12", True, math.nan, [1]])
def test_what_is_no_count_is_a_dash(stranger):
    assert count(stranger) == "–"
    assert count(1234) == "1,234"
