"""Finding tokens by their text: exactly, by beginning, or by a regular expression that cannot hang.

Expressions run in RE2 (through pyarrow): its time grows with the length of the text only, whatever the pattern, so
that nobody can freeze the server with ``(a+)+$``. Distinct texts are searched, not tokens.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MODES = ("exact", "prefix", "regex")
MAX_PATTERN = 200
#: What some tokenizers write in front of a word, or of a word's later pieces, and people do not type.
_BEFORE = (" ", "##", "Ġ", "▁")


class Vocabulary:
    """The distinct texts of n tokens. ``codes`` (n,) int32 leads from a token to its text; -1: its text is not kept."""

    def __init__(self, texts: pa.Array | pa.ChunkedArray) -> None:
        encoded = pc.dictionary_encode(texts.cast(pa.string()))
        chunk = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        self.texts: pa.Array = chunk.dictionary
        self.codes = chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)

    def find(self, pattern: str, mode: str) -> np.ndarray:
        """(n,) bool: the tokens whose text fits. ValueError says what is wrong with the pattern.

        Without a capital letter in the pattern, capitals do not matter. "exact" and "prefix" overlook what the
        tokenizer puts before a word (a space, ``##``), unless the pattern begins with it.
        """
        fits = np.append(self._fitting(checked_pattern(pattern), mode), False)
        return fits[self.codes]

    def _fitting(self, pattern: str, mode: str) -> np.ndarray:
        relaxed = pattern == pattern.lower()
        if mode == "regex":
            return _numpy(_regex(self.texts, pattern, relaxed))
        texts = pc.utf8_lower(self.texts) if relaxed else self.texts
        test = pc.equal if mode == "exact" else pc.starts_with
        found = np.zeros(len(texts), bool)
        for before in ("", *_BEFORE):
            found |= _numpy(test(texts, before + pattern))
        return found


def checked_pattern(pattern: str) -> str:
    """The pattern, if it can be looked for at all."""
    if not 0 < len(pattern) <= MAX_PATTERN:
        raise ValueError(f"expected a search of 1 to {MAX_PATTERN} characters, got {len(pattern)}")
    if not pattern.isascii():
        try:
            pattern.encode()
        except UnicodeEncodeError:
            raise ValueError("the search holds half a character (a lone surrogate); type it again") from None
    return pattern


def _regex(texts: pa.Array, pattern: str, relaxed: bool) -> pa.Array:
    try:
        return pc.match_substring_regex(texts, pattern, ignore_case=relaxed)
    except pa.ArrowInvalid as error:
        told = str(error).removeprefix("Invalid regular expression: ").splitlines()[0]
        raise ValueError(f"not a regular expression of RE2: {told}") from None


def _numpy(found: pa.Array) -> np.ndarray:
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=bool)
