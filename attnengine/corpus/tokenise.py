"""Documents to token streams: ids, source spans, punctuation, sentence and classes of every token."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from attnengine.corpus.documents import PAIR_JOINT, Document
from attnengine.corpus.spool import Spool
from attnengine.corpus.token_classes import TokenClasses
from attnengine.errors import CorpusError

#: A sentence ends after . ! ? (and a closing quote or bracket) before white space.
SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s)")
NO_SENTENCE = -1  # special tokens stand in no sentence: they are never "another sentence", nor look at one
BATCH_CHARACTERS = 1 << 19  # given to the tokenizer at a time: it works on several documents at once
BATCH_DOCUMENTS = 1024

#: What is known of a token. ``start`` and ``end`` are characters of its document's text; bit 0 of ``classes`` says
#: that every non-space character of the span is Unicode P, bit c + 1 that it is of the user's class c.
TOKEN = np.dtype([("id", "<i4"), ("start", "<i4"), ("end", "<i4"), ("sentence", "<i4"), ("classes", "<u4")])
PUNCTUATION = 0


class TokenStream:
    """The tokens of all documents, one after the other, without the special tokens a window adds; kept on disk.

    ``first`` (documents + 1,) int64 says where each document's tokens begin, ``second`` (documents,) int64 where
    those of the second text of a pair do; None for a corpus without pairs. ``class_names`` are the user's.
    """

    def __init__(self, spool: Spool, first: np.ndarray, second: np.ndarray | None, class_names: Sequence[str]) -> None:
        self._spool, self.first, self.second = spool, first, second
        self.class_names = tuple(class_names)

    def __len__(self) -> int:
        return int(self.first[-1])

    def rows(self, begin: int, end: int) -> np.ndarray:
        """(end − begin,) of dtype TOKEN: tokens ``begin`` to ``end`` of the stream, read-only."""
        data = self._spool.read(begin * TOKEN.itemsize, (end - begin) * TOKEN.itemsize)
        return np.frombuffer(data, dtype=TOKEN)


def tokenise(
    documents: Iterable[Document],
    tokenizer: Any,
    *,
    classes: TokenClasses | None = None,
    max_tokens: int | None = None,
    longest: int | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> TokenStream:
    """Tokenise documents without special tokens, remembering where each token came from.

    Stops reading documents once ``max_tokens`` tokens are in, of one document counting at most ``longest``.
    ``tokenizer`` must be a fast one (it knows offsets). Raises CorpusError if no document has a token.
    """
    classes = classes or TokenClasses()
    spool, first, second = Spool(), [0], []
    counted = 0
    for batch in batches(documents):
        for rows in tokenised(batch, tokenizer, classes):
            for part in rows:
                spool.append(part.tobytes())
            second.append(first[-1] + len(rows[0]) if len(rows) == 2 else -1)
            first.append(first[-1] + sum(map(len, rows)))
            counted += min(first[-1] - first[-2], longest or first[-1])
        on_progress(len(second))
        if max_tokens is not None and counted >= max_tokens:
            break
    if first[-1] == 0:
        raise CorpusError("the corpus has no tokens for this tokenizer; expected text it can tokenise")
    pairs = np.asarray(second, dtype=np.int64) if second[0] >= 0 else None
    return TokenStream(spool, np.asarray(first, dtype=np.int64), pairs, classes.names)


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents in order, as many at a time as have BATCH_CHARACTERS characters together, but at least one."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += sum(map(len, document.parts))
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def tokenised(documents: Sequence[Document], tokenizer: Any, classes: TokenClasses) -> Iterator[list[np.ndarray]]:
    """For each document the tokens of its text, or of both its texts: arrays (n,) of dtype TOKEN."""
    texts = [part for document in documents for part in document.parts]
    encoded = tokenizer(
        texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False,
        return_token_type_ids=False, verbose=False,
    )  # fmt: skip
    rows = map(token_rows, texts, encoded["input_ids"], encoded["offset_mapping"], itertools.repeat(classes))
    for document in documents:
        found = list(itertools.islice(rows, len(document.parts)))
        for segment, one in enumerate(found if document.is_pair else ()):
            one["sentence"] = segment
        if document.is_pair:
            found[1]["start"] += len(document.parts[0]) + len(PAIR_JOINT)
            found[1]["end"] += len(document.parts[0]) + len(PAIR_JOINT)
        yield found


def token_rows(text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]], classes: TokenClasses) -> np.ndarray:
    """(n,) of dtype TOKEN for one text."""
    span = np.fromiter(itertools.chain.from_iterable(offsets), np.int32, 2 * len(ids)).reshape(-1, 2)
    rows = np.empty(len(ids), dtype=TOKEN)
    rows["id"], rows["start"], rows["end"] = ids, span[:, 0], span[:, 1]
    rows["sentence"] = sentences_of(text, span[:, 0])
    rows["classes"] = classes.bits(text, span[:, 0], span[:, 1]) << np.uint32(PUNCTUATION + 1)
    rows["classes"] |= punctuation_of(text, span).astype(np.uint32) << np.uint32(PUNCTUATION)
    return rows


def punctuation_of(text: str, span: np.ndarray) -> np.ndarray:
    """(n,) bool: the span has a non-space character, and every one is in Unicode category P."""
    kind = _kinds(np.frombuffer(text.encode("utf-32-le"), dtype="<u4"))
    marks, others = _counts(kind == _MARK), _counts(kind == _OTHER)
    start, end = span[:, 0], span[:, 1]
    result: np.ndarray = (marks[end] > marks[start]) & (others[end] == others[start])
    return result


_UNKNOWN, _SPACE, _MARK, _OTHER = range(4)
_KIND = np.zeros(0x110000, dtype=np.uint8)  # of every code point that has been met


def _kinds(codes: np.ndarray) -> np.ndarray:
    kinds: np.ndarray = _KIND[codes]
    if not kinds.all():
        for code in np.unique(codes[kinds == _UNKNOWN]).tolist():
            _KIND[code] = _kind(chr(code))
        kinds = _KIND[codes]
    return kinds


def _kind(character: str) -> int:
    if character.isspace():
        return _SPACE
    return _MARK if unicodedata.category(character).startswith("P") else _OTHER


def _counts(where: np.ndarray) -> np.ndarray:
    """(n + 1,) int32: how many are true before each place."""
    out = np.zeros(len(where) + 1, dtype=np.int32)
    np.cumsum(where, out=out[1:])
    return out


def sentences_of(text: str, start: np.ndarray) -> np.ndarray:
    """(n,) int32 rank of the sentence that each character offset lies in."""
    ends = np.fromiter((match.end() for match in SENTENCE_END.finditer(text)), dtype=np.int64)
    return np.searchsorted(ends, start, side="right").astype(np.int32)
