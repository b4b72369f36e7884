"""Documents to token streams: ids, source spans, punctuation and sentence of every token."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnengine.corpus.sources import Document
from attnengine.errors import CorpusError

#: A sentence ends after . ! ? (and a closing quote or bracket) before white space.
SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s)")
NO_SENTENCE = -1  # special tokens stand in no sentence: they are never "another sentence", nor look at one


@dataclass(frozen=True)
class TokenStream:
    """The tokens of all documents, one after the other, without the special tokens a window adds."""

    ids: np.ndarray  # (n,) int32
    start: np.ndarray  # (n,) int32: first character of the token's span in its document
    end: np.ndarray  # (n,) int32
    punctuation: np.ndarray  # (n,) bool: every non-space character of the span is Unicode P
    sentence: np.ndarray  # (n,) int32: rank of the token's sentence in its document
    first: np.ndarray  # (documents + 1,) int64: where each document's tokens begin


def tokenise(
    documents: Sequence[Document], tokenizer: Any, on_progress: Callable[[int], None] = lambda _: None
) -> TokenStream:
    """Tokenise every document without special tokens, remembering where each token came from.

    Raises CorpusError if no document has a token. ``tokenizer`` must be a fast one (it knows offsets).
    """
    ids, spans, marks, sentences, first = [], [], [], [], [0]
    for done, document in enumerate(documents):
        encoded = tokenizer(document.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        span = np.asarray(encoded["offset_mapping"], dtype=np.int32).reshape(-1, 2)
        ids.append(np.asarray(encoded["input_ids"], dtype=np.int32))
        spans.append(span)
        marks.append(punctuation_of(document.text, span))
        sentences.append(sentences_of(document.text, span[:, 0]))
        first.append(first[-1] + len(span))
        on_progress(done + 1)
    if first[-1] == 0:
        raise CorpusError("the corpus has no tokens for this tokenizer; expected text it can tokenise")
    span = np.concatenate(spans)
    return TokenStream(
        ids=np.concatenate(ids),
        start=span[:, 0].copy(),
        end=span[:, 1].copy(),
        punctuation=np.concatenate(marks),
        sentence=np.concatenate(sentences),
        first=np.asarray(first, dtype=np.int64),
    )


def punctuation_of(text: str, span: np.ndarray) -> np.ndarray:
    """(n,) bool: the span has a non-space character, and every one is in Unicode category P."""
    kinds = {character: _kind(character) for character in set(text)}  # 0 space, 1 punctuation, 2 anything else
    kind = np.fromiter((kinds[character] for character in text), dtype=np.int8, count=len(text))
    marks = np.concatenate([[0], np.cumsum(kind == 1)])
    others = np.concatenate([[0], np.cumsum(kind == 2)])
    start, end = span[:, 0], span[:, 1]
    result: np.ndarray = (marks[end] > marks[start]) & (others[end] == others[start])
    return result


def _kind(character: str) -> int:
    if character.isspace():
        return 0
    return 1 if unicodedata.category(character).startswith("P") else 2


def sentences_of(text: str, start: np.ndarray) -> np.ndarray:
    """(n,) int32 rank of the sentence that each character offset lies in."""
    ends = np.fromiter((match.end() for match in SENTENCE_END.finditer(text)), dtype=np.int64)
    return np.searchsorted(ends, start, side="right").astype(np.int32)
