"""What a picked point is: its token, where it stands, the text around it, whom it attends to, and its neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnengine.errors import RunFormatError
from attnengine_explorer.points.attended import attending, top_keys
from attnengine_explorer.points.heads import HeadClouds

AROUND = 14
NEIGHBOURS = 10
ATTENDING = 16


@dataclass(frozen=True)
class Link:
    """The other end of an attention line: its row of ``tokens`` (-1: not in the sample), position and weight."""

    row: int
    position: int
    weight: float


def around(clouds: HeadClouds, row: int, width: int = AROUND) -> np.ndarray:
    """Rows of the sampled tokens up to ``width`` positions before and after one, in the order of the text."""
    position = clouds.tokens.position[row] + np.arange(-width, width + 1)
    rows = clouds.rows_at(np.full(len(position), clouds.tokens.window[row]), position)
    return rows[rows >= 0]


def links(clouds: HeadClouds, site: int, head: int, point: int) -> list[Link]:
    """Attention lines of a point: of a query its stored top keys, of a key the sampled queries that list it.

    Weights fall. Empty where the run stores no top keys.
    """
    n = len(clouds.tokens)
    try:
        if point >= n:
            pairs = attending(clouds, site, head, point - n)[:ATTENDING]
            return [Link(row, int(clouds.tokens.position[row]), weight) for row, weight in pairs]
        found = top_keys(clouds, site, head, np.array([point]))
    except RunFormatError:
        return []
    columns = zip(found.rows[0], found.positions[0], found.weights[0], strict=True)
    return [Link(int(row), int(at), float(weight)) for row, at, weight in columns if at >= 0]


def neighbours(clouds: HeadClouds, site: int, head: int, point: int) -> list[tuple[int, float]]:
    """The points nearest to one in the head's own space, both sides, and their cosine, largest first."""
    vectors = clouds.vectors(site, head)
    cosine = vectors @ vectors[point]
    cosine[point] = -np.inf
    most = min(NEIGHBOURS, len(cosine) - 1)
    near = np.argpartition(-cosine, most - 1)[:most]
    near = near[np.lexsort((near, -cosine[near]))]
    return [(int(other), float(cosine[other])) for other in near]
