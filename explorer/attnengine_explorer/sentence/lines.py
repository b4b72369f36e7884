"""The weights between the tokens of two windows, for the bipartite picture of a head (BertViz's head view).

A weight is a number of the exact pattern. What a page can hold is limited, so of a long window the heaviest are kept
and ``floor`` says what is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnengine.model.sentence import Attention

#: 9 bytes each: 270 kB, so that with the map of a long text a click stays under 500 kB.
MOST = 30_000


@dataclass(frozen=True)
class Lines:
    """Weights of all heads of one attention call, ordered by head, query and key.

    query, key: (m,) uint16 places within the windows; head: (m,) uint8 or uint16; weight: (m,) fp32.
    rest: (h, q) fp32, what each row gives to keys that are no special tokens, in the window or not: dividing by it
    hides the special ones and renormalises. floor: no weight above it was left out; 0.0 if none was.
    """

    query: np.ndarray
    key: np.ndarray
    head: np.ndarray
    weight: np.ndarray
    rest: np.ndarray
    floor: float


def lines(call: Attention, special: np.ndarray, queries: slice, keys: slice, most: int = MOST) -> Lines:
    """The weights of every head between two windows; ``special`` (k,) marks the key tokens that may be hidden."""
    rows = np.arange(call.shape[0])[queries]
    patterns = [call.pattern(head, rows) for head in range(len(call.query))]
    rest = np.array([pattern[:, ~special].sum(axis=1) for pattern in patterns], dtype=np.float32)
    weight = np.array([pattern[:, keys] for pattern in patterns], dtype=np.float32)  # (h, q, k)
    floor = _floor(weight, most)
    head, query, key = np.nonzero(weight > floor)
    return Lines(
        query.astype(np.uint16),
        key.astype(np.uint16),
        head.astype(np.uint8 if len(weight) < 256 else np.uint16),
        weight[head, query, key],
        rest,
        floor,
    )


def _floor(weight: np.ndarray, most: int) -> float:
    """The largest weight that is left out so that at most ``most`` stay; 0 if all that are not 0 fit."""
    flat = weight[np.isfinite(weight) & (weight > 0)]
    if len(flat) <= most:
        return 0.0
    return float(np.partition(flat, len(flat) - most - 1)[len(flat) - most - 1])
