"""How the tokens of a sentence are written beside lines and heatmaps."""

from __future__ import annotations

import numpy as np

from attnengine.model.sentence import Tokens

SPACE, NEWLINE, TAB = "␣", "↵", "⇥"
LONGEST = 18
_MARKS = str.maketrans({" ": SPACE, "\n": NEWLINE, "\r": NEWLINE, "\t": TAB})


def shown(text: str, longest: int = LONGEST) -> str:
    """A token as it is drawn: white space visible, other control characters as U+FFFD, long ones cut."""
    marked = text[: longest + 1].translate(_MARKS)
    marked = "".join(c if c.isprintable() else "\ufffd" for c in marked)
    return marked if len(marked) <= longest else marked[: longest - 1] + "…"


def labels(tokens: Tokens, longest: int = LONGEST) -> list[str]:
    """Every token as it is drawn."""
    return [shown(text, longest) for text in tokens.texts]


def windows(n: int, at: int, size: int) -> slice:
    """The ``size`` places of ``n`` that are shown from ``at`` on: the last full window where ``at`` is too late."""
    first = max(0, min(at, n - size))
    return slice(first, min(first + size, n))


def segments(tokens: Tokens) -> np.ndarray:
    """(n,) uint8: 0 for sentence A, 1 for B."""
    return tokens.segment.astype(np.uint8)
