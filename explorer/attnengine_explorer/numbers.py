"""How numbers are written: with as many digits as their standard error supports, and never as "nan"."""

from __future__ import annotations

import math

MINUS = "\u2212"
SIGNIFICANT = 4
NONE = "\u2013"


def number(value: float, digits: int = SIGNIFICANT) -> str:
    """A number with ``digits`` significant figures; plain between 1e-4 and 1e7, else in powers of ten."""
    if not math.isfinite(value):
        return NONE if math.isnan(value) else ("∞" if value > 0 else MINUS + "∞")
    if value == 0:
        return "0"
    size = abs(value)
    if not 1e-4 <= size < 1e7:
        text = f"{value:.{digits - 1}e}"
    elif size >= 1e3 and float(value).is_integer():
        text = f"{value:,.0f}"
    else:
        text = f"{value:,.{max(0, digits - 1 - math.floor(math.log10(size)))}f}"
    return text.replace("-", MINUS)


def estimate(value: float, error: float) -> str:
    """``0.3421 ± 0.0012``: two significant figures of the error, the value to the same decimal.

    Without a standard error the value stands alone.
    """
    if not math.isfinite(value) or not math.isfinite(error) or error <= 0:
        return number(value)
    decimals = 1 - math.floor(math.log10(error))
    size = max(abs(value), error)
    if not 1e-4 <= size < 1e7:
        exponent = math.floor(math.log10(size))
        places = min(max(decimals + exponent, 0), 8)
        scale = 10.0**exponent
        text = f"({value / scale:.{places}f} ± {error / scale:.{places}f})e{exponent:+03d}"
    else:
        places = min(max(decimals, 0), 8)
        text = (
            f"{value:,.{places}f} ± {error:,.{places}f}" if error >= 1e-8 else f"{number(value)} ± {number(error, 2)}"
        )
    return text.replace("-", MINUS)


def count(value: object) -> str:
    """A count with thousands separated, or a dash if it is no count (a manifest may hold anything)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return NONE
    return f"{value:,.0f}"
