"""The patterns of many heads, each a few pixels: one picture of a whole model (BertViz's model view).

A thumbnail's pixel is the largest weight in its block of pairs. Of a text of more than :data:`ROWS` tokens only as many
queries, evenly spread, are computed: 1,024 heads of 2,000 tokens would take minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from attnengine.model.sentence import Sentence, Tokens
from attnengine_explorer.sentence.heatmap import edges
from attnengine_explorer.sentence.tokens import shown

Head = tuple[int, int]

ROWS = 64
#: Of the composed picture; at one byte each it stays under what a click may cost.
MAX_PIXELS = 450_000
LARGEST, BORDER = 32, 1


def thumbnail_size(n_cells: int) -> int:
    """Pixels a side so that ``n_cells`` of them stay within :data:`MAX_PIXELS`."""
    return max(4, min(LARGEST, int((MAX_PIXELS / n_cells) ** 0.5) - 2 * BORDER))


def drawn_rows(n_queries: int) -> np.ndarray:
    """The queries that a thumbnail is made of."""
    return np.unique(np.linspace(0, n_queries - 1, min(n_queries, ROWS)).round().astype(np.int64))


def thumbnail(pattern: np.ndarray, size: int) -> np.ndarray:
    """(rows, columns) fp32 of at most ``size`` pixels a side, of a pattern (queries, keys)."""
    rows, columns = edges(len(pattern), size), edges(pattern.shape[1], size)
    blocks = np.maximum.reduceat(pattern, columns[:-1], axis=1)
    picture: np.ndarray = np.maximum.reduceat(blocks, rows[:-1], axis=0).astype(np.float32)
    return picture


def levels(picture: np.ndarray) -> np.ndarray:
    """uint8 in 1 … 255 by the square root of the weight itself, so that heads compare; 1 is no attention."""
    return (1 + np.round(254 * np.sqrt(np.clip(np.nan_to_num(picture), 0, 1)))).astype(np.uint8)


@dataclass(frozen=True)
class Thumbnails:
    """pictures: (site, head) → uint8 (size, size); strongest: where each head looks most, as ``cat → it 0.43``."""

    pictures: dict[Head, np.ndarray]
    strongest: dict[Head, str]
    size: int


def thumbnails(
    sentence: Sentence, heads: Sequence[Head], between: str = "all", on_head: Callable[[int], None] = lambda _: None
) -> Thumbnails:
    """A thumbnail of each of ``heads``, stretched where a side has fewer tokens than pixels.

    ``between`` ("ab": queries of sentence A, keys of B) blanks the other pairs. ``on_head`` is told how many are done,
    and stops the work by raising.
    """
    size = thumbnail_size(len(heads))
    pictures, strongest = {}, {}
    for done, (site, head) in enumerate(heads):
        on_head(done)
        call, queries, keys = sentence.attentions[site], sentence.query_tokens(site), sentence.key_tokens(site)
        rows = drawn_rows(call.shape[0])
        pattern = np.nan_to_num(call.pattern(head, rows)) * joined(queries, keys, between)[rows]
        pictures[site, head] = stretched(levels(thumbnail(pattern, size)), size)
        i, j = np.unravel_index(int(pattern.argmax()), pattern.shape)
        strongest[site, head] = f"{shown(queries.texts[rows[i]])} → {shown(keys.texts[j])} {pattern[i, j]:.3g}"
    return Thumbnails(pictures, strongest, size)


def joined(queries: Tokens, keys: Tokens, between: str) -> np.ndarray:
    """(q, k) bool: the pairs that ``between`` (all, aa, ab, ba, bb) keeps."""
    if between == "all":
        return np.ones((len(queries), len(keys)), dtype=bool)
    asks, answers = ("ab".index(letter) for letter in between)
    both: np.ndarray = (queries.segment == asks)[:, None] & (keys.segment == answers)
    return both


def stretched(picture: np.ndarray, size: int) -> np.ndarray:
    """Every pixel repeated so that the picture has ``size`` a side."""
    rows = (np.arange(size) * len(picture)) // size
    columns = (np.arange(size) * picture.shape[1]) // size
    return picture[rows[:, None], columns]


def compose(
    found: dict[tuple[int, int], np.ndarray], places: dict[tuple[int, int], tuple[int, int]], size: int
) -> np.ndarray:
    """One picture of all of them, ``places`` giving (row from the top, column); 0 where none is.

    Row 0 is the lowest: Bokeh draws upwards.
    """
    cell = size + 2 * BORDER
    n_rows = 1 + max((row for row, _ in places.values()), default=0)
    n_columns = 1 + max((column for _, column in places.values()), default=0)
    picture = np.zeros((n_rows * cell, n_columns * cell), dtype=np.uint8)
    for head, (row, column) in places.items():
        top, left = row * cell + BORDER, column * cell + BORDER
        picture[top : top + size, left : left + size] = found[head]
    return picture[::-1]
