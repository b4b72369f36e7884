"""Where windows lie in the token stream: cut from long documents, or made of the two texts of a pair."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class Layout:
    """One entry a window: ``a`` tokens of the stream from ``begin``, and for pairs ``b`` more from ``second``.

    ``context`` leading tokens were counted in the window before; ``lost`` tokens of the document are in no window.
    """

    document: np.ndarray  # int32
    begin: np.ndarray  # int64
    a: np.ndarray  # int32
    second: np.ndarray  # int64
    b: np.ndarray  # int32
    context: np.ndarray  # int32
    lost: np.ndarray  # int32

    def head(self, windows: int) -> Layout:
        """The first ``windows`` of them."""
        return Layout(*(getattr(self, field.name)[:windows] for field in fields(self)))


def cut_texts(first: np.ndarray, room: int, stride: int) -> Layout:
    """Windows of ``room`` tokens, ``stride`` apart; the last one of a document reaches its end.

    ``first`` (documents + 1,) is where the tokens of each document begin.
    """
    n = np.diff(first)
    count = np.where(n > 0, 1 - (-np.maximum(n - room, 0) // stride), 0)
    document = np.repeat(np.arange(len(n)), count)
    rank = np.arange(len(document)) - np.repeat(np.cumsum(count) - count, count)
    at = rank * stride
    a = np.minimum(room, n[document] - at)
    return _layout(document, first[document] + at, a, context=np.where(rank > 0, room - stride, 0))


def cut_pairs(first: np.ndarray, second: np.ndarray, room: int) -> Layout:
    """One window a pair of at least one token; what does not fit is cut from the longer text, then from both alike.

    ``second`` (documents,) is where the second text of each pair begins.
    """
    n_a, n_b = second - first[:-1], first[1:] - second
    a, b = longest_first(n_a, n_b, room)
    document = np.flatnonzero(n_a + n_b > 0)
    lost = n_a + n_b - a - b
    return _layout(document, first[document], a[document], second[document], b[document], lost=lost[document])


def longest_first(n_a: np.ndarray, n_b: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens of A and of B are kept so that both fit into ``room``, as tokenizers' "longest_first" has it.

    The longer text is cut to what the shorter leaves; if that is less than half, both to half, the odd token going to
    the longer one (to B if they are equal).
    """
    short, long = np.minimum(n_a, n_b), np.maximum(n_a, n_b)
    fits = short <= room // 2
    long = np.minimum(long, np.where(fits, room - short, room - room // 2))
    short = np.where(fits | (short + long <= room), short, room // 2)
    return np.where(n_a > n_b, long, short), np.where(n_a > n_b, short, long)


def _layout(
    document: np.ndarray,
    begin: np.ndarray,
    a: np.ndarray,
    second: np.ndarray | None = None,
    b: np.ndarray | None = None,
    context: np.ndarray | None = None,
    lost: np.ndarray | None = None,
) -> Layout:
    def column(values: np.ndarray | None, kind: type) -> np.ndarray:
        return np.zeros(len(document), dtype=kind) if values is None else values.astype(kind)

    return Layout(
        column(document, np.int32),
        column(begin, np.int64),
        column(a, np.int32),
        column(second, np.int64),
        column(b, np.int32),
        column(context, np.int32),
        column(lost, np.int32),
    )
