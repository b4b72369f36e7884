"""What a page says of the colours of its points: a scale with two ends, or names."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnengine_explorer.numbers import count, number
from attnengine_explorer.points.colouring import Colouring
from attnengine_explorer.points.palette import levels


def legend(colours: Colouring | None, *, dark: bool) -> dict[str, Any]:
    """For the page's script; nothing is shown for None."""
    if colours is None:
        return {"kind": "none"}
    told: dict[str, Any] = {"kind": colours.kind, "colours": levels(colours.kind, dark), "log": colours.log}
    told |= {"low": _end(colours.low), "high": _end(colours.high), "names": []}
    told["without"] = "" if colours.known.all() else "grey: no value"
    if colours.kind == "classes":
        used = set(np.unique(colours.level).tolist())
        told["names"] = [[level, name] for level, name in enumerate(colours.names) if name and level in used]
    return told


def _end(value: float) -> str:
    """An end of a scale; whole numbers (positions, counts, rows) without decimals."""
    return count(value) if value.is_integer() else number(value, 3)
