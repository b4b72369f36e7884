"""What colour each point of a head's cloud has, by what a person chose, and the scale or legend that says so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnengine_explorer.points.heads import HeadClouds
from attnengine_explorer.points.names import COLOUR_BY
from attnengine_explorer.points.raster import LEVELS
from attnengine_explorer.points.tokens import TOKEN_CLASSES
from attnengine_explorer.points.wording import SPACE, visible

OF_IMAGES = ("row", "col", "patch")
OF_TEXT = ("frequency", "token_class")
#: These are other numbers in every head; the rest are the tokens' own.
OF_HEADS = ("norm", "entropy")
_OTHERS = "other documents"
#: The scale of lengths ends at these percentiles: a few outliers must not take all the colours.
_ENDS = (1, 99)


@dataclass(frozen=True)
class Colouring:
    """level: (2n,) uint8 below LEVELS, queries then keys. known: (2n,) bool, points that have a value.
    kind: side, sequential or classes. low, high, log: the scale of a sequential one. names: the classes' labels.
    """

    level: np.ndarray
    known: np.ndarray
    kind: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    names: tuple[str, ...] = ()


def values(clouds: HeadClouds, site: int, head: int, by: str) -> np.ndarray:
    """(2n,) the number behind each point's colour: float, NaN where there is none; classes by their number."""
    if by == "norm":
        return clouds.norms(site, head).astype(np.float64)
    if by == "entropy":
        return clouds.entropy(site, head).astype(np.float64)
    if by == "side":
        return np.repeat([0.0, 1.0], len(clouds.tokens))
    return np.tile(of_tokens(clouds, by), 2)


def of_tokens(clouds: HeadClouds, by: str) -> np.ndarray:
    """(n,) float: a number that belongs to the token, whichever head looks at it; NaN where there is none."""
    tokens = clouds.tokens
    row, col = tokens.column("row"), tokens.column("col")
    is_patch = (row >= 0) & (col >= 0)
    if by == "position":
        return tokens.position.astype(np.float64)
    if by == "position_mod5":
        return (tokens.position % 5).astype(np.float64)
    if by == "position_share":
        return tokens.share
    if by == "frequency":
        return tokens.frequency.astype(np.float64)
    if by == "token_class":
        return tokens.token_class.astype(np.float64)
    if by == "document":
        return tokens.document.astype(np.float64)
    found = {"row": row, "col": col, "patch": row * (col.max() + 1) + col}
    if by not in found:
        raise ValueError(f"expected one of {', '.join(COLOUR_BY)}, got {by!r}")
    return np.where(is_patch, found[by], np.nan)


def colouring(clouds: HeadClouds, by: str, numbers: np.ndarray, ends: tuple[float, float] | None = None) -> Colouring:
    """The colours of ``numbers`` (m,) from :func:`values`; ``ends`` gives all heads one scale."""
    if by == "side":
        return Colouring((numbers * (LEVELS - 1)).astype(np.uint8), np.ones(len(numbers), bool), "side")
    if by in ("position_mod5", "token_class"):
        names = TOKEN_CLASSES if by == "token_class" else tuple(f"{i} mod 5" for i in range(5))
        return Colouring(numbers.astype(np.uint8), np.ones(len(numbers), bool), "classes", names=names)
    if by == "document":
        return _of_documents(clouds, numbers)
    known = np.isfinite(numbers)
    log = by == "frequency"
    low, high = scale(by, numbers) if ends is None else ends
    shown = np.log(np.maximum(numbers, 1)) if log else numbers
    first, last = (np.log(low), np.log(high)) if log else (low, high)
    unit = np.clip((np.where(known, shown, first) - first) / ((last - first) or 1.0), 0, 1)
    return Colouring(np.round(unit * (LEVELS - 1)).astype(np.uint8), known, "sequential", low, high, log)


def scale(by: str, numbers: np.ndarray) -> tuple[float, float]:
    """The ends of a sequential scale: the least and largest value, of lengths the 1st and 99th percentile."""
    finite = numbers[np.isfinite(numbers)]
    if not len(finite):
        return 0.0, 1.0
    low, high = np.percentile(finite, _ENDS) if by == "norm" else (finite.min(), finite.max())
    return float(low), float(high) if high > low else float(low) + 1.0


def _of_documents(clouds: HeadClouds, numbers: np.ndarray) -> Colouring:
    """The documents with most sampled tokens have a colour each; the rest share the grey one."""
    found, counts = np.unique(clouds.tokens.document, return_counts=True)
    largest = found[np.lexsort((found, -counts))][: LEVELS - 1]
    level = np.full(len(numbers), LEVELS - 1, np.uint8)
    for place, number in enumerate(largest):
        level[numbers == number] = place
    known = clouds.documents
    names = [visible(known.get(int(number), str(number))).replace(SPACE, " ") for number in largest]
    names += [""] * (LEVELS - 1 - len(names)) + ([_OTHERS] if len(found) > len(largest) else [""])
    return Colouring(level, np.ones(len(numbers), bool), "classes", names=tuple(names))


def offered(clouds: HeadClouds) -> list[str]:
    """The colourings that mean something for this run: patches have rows and columns, words have frequencies."""
    left_out = OF_TEXT if clouds.tokens.has_patches else OF_IMAGES
    return [name for name in COLOUR_BY if name not in left_out]
