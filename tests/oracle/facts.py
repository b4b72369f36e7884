"""What is known of every token of a window, found again from the source text, character by character.

Nothing of ``attnengine.corpus`` is used: windows are cut, and punctuation and sentences found, a second time here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

NOWHERE = -1


@dataclass(frozen=True)
class Stream:
    """The tokens of one window as one stack reads them; None: a picture has no such fact."""

    counted: list[bool]
    position: list[int]  # NOWHERE for a picture's prefix tokens
    special: list[bool]
    ids: list[int] | None = None
    punctuation: list[bool] | None = None
    sentence: list[int] | None = None  # NOWHERE for special tokens
    patch: list[tuple[int, int]] | None = None
    spans: list[tuple[int, int]] | None = None  # characters of the document; (-1, -1) for tokens a window adds


@dataclass(frozen=True)
class Window:
    """One window: its document, where it starts there, and its streams ("" or encoder and decoder)."""

    document: int
    start: int
    streams: dict[str, Stream]

    @property
    def n_tokens(self) -> int:
        return len(next(iter(self.streams.values())).counted)


def text_windows(
    texts: Sequence[str],
    tokenizer: Any,
    *,
    prefix: list[int],
    suffix: list[int],
    length: int,
    stride: int | None = None,
    decoder_start: int | None = None,
) -> list[Window]:
    """Windows of ``length`` tokens, one each ``stride`` content tokens; what an earlier one counted is context."""
    special = {i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id}
    room = length - len(prefix) - len(suffix)
    windows = []
    for document, text in enumerate(texts):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, spans = encoded["input_ids"], [tuple(span) for span in encoded["offset_mapping"]]
        sentences = sentence_of_each_character(text)
        done = 0  # tokens of the document that some window has counted
        start = 0
        while done < len(ids):
            end = min(start + room, len(ids))
            inner = range(start, end)
            before, after = len(prefix), len(suffix)
            stream = Stream(
                counted=[True] * before + [token >= done for token in inner] + [True] * after,
                position=list(range(before + len(inner) + after)),
                special=[i in special for i in [*prefix, *ids[start:end], *suffix]],
                ids=[*prefix, *ids[start:end], *suffix],
                punctuation=[False] * before + [is_punctuation(text, *spans[t]) for t in inner] + [False] * after,
                sentence=[NOWHERE] * before
                + [NOWHERE if ids[t] in special else sentences[spans[t][0]] for t in inner]
                + [NOWHERE] * after,
                spans=[(-1, -1)] * before + [spans[t] for t in inner] + [(-1, -1)] * after,
            )
            streams = {"": stream}
            if decoder_start is not None:
                streams = {"encoder": stream, "decoder": shifted(stream, decoder_start, decoder_start in special)}
            windows.append(Window(document, start, streams))
            done, start = end, start + (stride or room)
    return windows


def shifted(stream: Stream, start: int, is_special: bool) -> Stream:
    """The decoder's teacher-forced input: ``start``, then every token but the last."""
    return replace(
        stream,
        counted=[True, *stream.counted[:-1]],
        special=[is_special, *stream.special[:-1]],
        ids=[start, *stream.ids[:-1]],
        punctuation=[False, *stream.punctuation[:-1]],
        sentence=[NOWHERE, *stream.sentence[:-1]],
        spans=None,
    )


def picture_windows(count: int, rows: int, columns: int, prefix: int) -> list[Window]:
    """One window a picture: ``prefix`` special tokens without a place, then the patches in reading order."""
    patches = [(row, column) for row in range(rows) for column in range(columns)]
    stream = Stream(
        counted=[True] * (prefix + len(patches)),
        position=[NOWHERE] * prefix + list(range(len(patches))),
        special=[True] * prefix + [False] * len(patches),
        patch=[(NOWHERE, NOWHERE)] * prefix + patches,
    )
    return [Window(document, 0, {"": stream}) for document in range(count)]


def is_punctuation(text: str, start: int, end: int) -> bool:
    """Every non-space character of the span is Unicode P, and there is one."""
    marks = [character for character in text[start:end] if not character.isspace()]
    return bool(marks) and all(unicodedata.category(mark)[0] == "P" for mark in marks)


def sentence_of_each_character(text: str) -> list[int]:
    """A sentence ends with . ! or ?, and the quotes and brackets that close behind it, before white space."""
    out, sentence = [], 0
    for at, character in enumerate(text):
        if character.isspace():
            last = at - 1
            while last >= 0 and text[last] in "\"'”’)]":
                last -= 1
            if last >= 0 and text[last] in ".!?":
                sentence += 1
        out.append(sentence)
    return out
