"""What is known of every sampled token: its text, place and class. Made once for a run, shared by all heads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa

from attnengine_explorer.points.search import Vocabulary

TOKEN_CLASSES = ("special", "punctuation", "digit", "word start", "inside a word", "other", "unknown")


@dataclass(frozen=True)
class Tokens:
    """The table ``tokens`` of a run as columns (n,), and the length of each token's window, 0 where unknown."""

    table: pd.DataFrame
    window_length: np.ndarray

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str, missing: int = -1) -> np.ndarray:
        """(n,) int64 of a column of numbers, ``missing`` everywhere if the run has none."""
        if name not in self.table.columns:
            return np.full(len(self), missing, np.int64)
        return self.table[name].fillna(missing).to_numpy(np.int64)

    def flag(self, name: str) -> np.ndarray:
        """(n,) bool of a column of flags."""
        return self.column(name, 0) != 0

    @cached_property
    def position(self) -> np.ndarray:
        """(n,) position in the window."""
        return self.column("position")

    @cached_property
    def window(self) -> np.ndarray:
        """(n,) number of the window."""
        return self.column("window")

    @cached_property
    def document(self) -> np.ndarray:
        """(n,) number of the document."""
        return self.column("document")

    @cached_property
    def has_patches(self) -> bool:
        """Whether the tokens are patches of images."""
        return bool((self.column("row") >= 0).any())

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The distinct texts; of images and of runs without text there are none."""
        text = self.table["text"] if "text" in self.table.columns else pd.Series([None] * len(self))
        try:
            return Vocabulary(pa.array(text, pa.string(), from_pandas=True))
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # a stranger's column may hold anything
            return Vocabulary(pa.array([value if isinstance(value, str) else None for value in text], pa.string()))

    def text(self, row: int) -> str | None:
        """The text of a token, if the run keeps it."""
        code = int(self.vocabulary.codes[row])
        return None if code < 0 else str(self.vocabulary.texts[code].as_py())

    @cached_property
    def frequency(self) -> np.ndarray:
        """(n,) how often a token's id occurs in the sample."""
        _, which, counts = np.unique(self.column("token_id"), return_inverse=True, return_counts=True)
        return counts[which]

    @cached_property
    def share(self) -> np.ndarray:
        """(n,) position / last position of the window, 0 … 1; NaN where the window's length is not known."""
        last = self.window_length - 1.0
        return np.where(last > 0, self.position / np.maximum(last, 1), np.nan)

    @cached_property
    def token_class(self) -> np.ndarray:
        """(n,) uint8 index into :data:`TOKEN_CLASSES`.

        A token starts a word if white space, or anything but a letter or digit, comes before it in the text; of the
        first token of a sampled segment that is known only if the token itself begins with a space.
        """
        texts = self.vocabulary.texts.to_pylist()
        kind = np.array([_kind(text) for text in texts] + [6], np.uint8)[self.vocabulary.codes]
        starts = np.array([text[:1].isspace() for text in texts] + [False])[self.vocabulary.codes]
        alnum_end = np.array([text[-1:].isalnum() for text in texts] + [False])[self.vocabulary.codes]
        follows = np.zeros(len(self), bool)
        follows[1:] = (np.diff(self.window) == 0) & (np.diff(self.position) == 1)
        touches = np.zeros(len(self), bool)
        touches[1:] = (self.column("text_end")[:-1] >= self.column("text_start")[1:]) & alnum_end[:-1]
        word = kind == 3
        kind[word & follows & touches & ~starts] = 4
        kind[word & ~follows & ~starts & (self.position > 0)] = 6
        kind[self.flag("is_punctuation")] = 1
        kind[self.flag("is_special")] = 0
        return kind


def _kind(text: str) -> int:
    """Digit, word or other, by the token's first character that is no space."""
    first = text.strip()[:1]
    if first.isdigit():
        return 2
    return 3 if first.isalpha() else 5


def read_tokens(table: pd.DataFrame, windows: pd.DataFrame | None) -> Tokens:
    """The tokens of a run's tables ``tokens`` and ``windows``."""
    length = np.zeros(len(table), np.int64)
    if windows is not None and "window" in table.columns and {"window", "n_tokens"} <= set(windows.columns):
        lengths = windows.drop_duplicates("window").set_index("window")["n_tokens"]
        length = lengths.reindex(table["window"]).fillna(0).to_numpy(np.int64)
    return Tokens(table, length)
