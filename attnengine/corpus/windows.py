"""What a text model sees at once: windows of text with their special tokens, cut, batched and described."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from attnengine.corpus.documents import Corpus, Document
from attnengine.corpus.feed import Feed as Feed
from attnengine.corpus.feed import WindowBatch as WindowBatch
from attnengine.corpus.layout import Layout, cut_pairs, cut_texts
from attnengine.corpus.special_tokens import SpecialTokens as SpecialTokens
from attnengine.corpus.tokenise import NO_SENTENCE, TOKEN, TokenStream
from attnengine.errors import PlanError

if TYPE_CHECKING:
    import torch

    from attnengine_kernels.call import TokenFacts

LONGEST_DEFAULT = 1024  # tokens of a window, where the model has positions for more


def window_length(asked: int | None, max_positions: int | None) -> int:
    """Tokens of a full window: min(model positions, 1024), or what was asked for if the model has the positions."""
    if asked is None:
        return min(max_positions or LONGEST_DEFAULT, LONGEST_DEFAULT)
    if max_positions is not None and asked > max_positions:
        raise PlanError(f"--window {asked} is longer than the model's {max_positions} positions; use at most that")
    return asked


class TextWindows:
    """Windows over tokenised documents.

    ``length`` tokens each, special tokens included; ``stride`` content tokens from one to the next (all of them by
    default). The tokens a window shares with the one before are context there and not counted again. A pair of texts
    is one window, "A [SEP] B" as its tokenizer lays pairs out; one that is too long is cut at the end of the longer
    text until it fits (as tokenizers' "longest_first"), and ``left_out`` counts such pairs and their lost tokens.
    ``decoder_start`` is the id that opens the shifted decoder input of an encoder–decoder model, else None.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        stream: TokenStream,
        special: SpecialTokens,
        *,
        length: int,
        stride: int | None = None,
        decoder_start: int | None = None,
        pad_id: int = 0,
        model_inputs: frozenset[str] = frozenset({"input_ids", "attention_mask"}),
        max_tokens: int | None = None,
    ) -> None:
        room = length - special.count
        if room < 1 + (stream.second is not None):
            raise PlanError(f"a window of {length} tokens leaves no room beside the special tokens; ask for more")
        if stride is not None and stream.second is not None:
            raise PlanError("--stride has no meaning for pairs, each of which is one window; leave it out")
        if stride is not None and not 1 <= stride <= room:
            raise PlanError(f"--stride must lie in 1 … {room} (the window's content), got {stride}")
        self.documents, self.stream, self.special = documents, stream, special
        self.decoder_start, self.pad_id, self.model_inputs = decoder_start, pad_id, model_inputs
        self._special = np.zeros(max(special.ids, default=0) + 2, dtype=bool)  # by id; larger ids meet the last entry
        self._special[list(special.ids)] = True
        if stream.second is None:
            self._lay(cut_texts(stream.first, room, stride or room))
        else:
            self._lay(cut_pairs(stream.first, stream.second, room))
        if max_tokens is not None:  # whole windows, in order, until max_tokens are in
            self._keep(1 + int(np.searchsorted(np.cumsum(self.n_tokens), max_tokens)))

    def _lay(self, layout: Layout) -> None:
        self._layout = layout
        self.document = layout.document
        self.start = layout.begin - self.stream.first[layout.document]
        self.n_tokens = layout.a + layout.b + np.int32(self.special.count)

    def _keep(self, windows: int) -> None:
        self._lay(self._layout.head(windows))
        self.documents = self.documents[: int(self.document[-1]) + 1]

    @property
    def left_out(self) -> dict[str, int]:
        """What of the corpus is in no window, counted."""
        lost = self._layout.lost
        found = dict(self.documents.left_out) if isinstance(self.documents, Corpus) else {}
        found["documents_without_tokens"] = len(self.documents) - len(np.unique(self.document))
        if self.stream.second is not None:
            found |= {"shortened_pairs": int(np.count_nonzero(lost)), "tokens_cut_from_pairs": int(lost.sum())}
        return found

    def batch(self, windows: Sequence[int], device: str) -> WindowBatch:
        """Model inputs and token facts of these windows, padded on the right to the longest."""
        import torch

        columns = self._columns(windows)
        ids, real = torch.from_numpy(columns["ids"]), torch.from_numpy(columns["real"])
        inputs = {"input_ids": ids, "attention_mask": real.to(torch.int64)}
        if "token_type_ids" in self.model_inputs:
            inputs["token_type_ids"] = torch.from_numpy(columns["types"])
        if self.decoder_start is None:
            return WindowBatch.on_host(inputs, {"": self._facts(columns)}).to(device)
        shifted = {name: _shift(column, self._opening(name)) for name, column in columns.items()}
        inputs["decoder_input_ids"] = torch.from_numpy(shifted["ids"])
        inputs["decoder_attention_mask"] = inputs["attention_mask"]
        # A window of n tokens gives n decoder tokens, so both streams are padded alike.
        shifted["real"] = columns["real"]
        streams = {"encoder": self._facts(columns), "decoder": self._facts(shifted)}
        return WindowBatch.on_host(inputs, streams).to(device)

    def _opening(self, column: str) -> Any:
        """What the decoder's start token has in each column."""
        start = self.decoder_start
        return {"ids": start, "special": start in self.special.ids, "sentence": NO_SENTENCE, "counted": True}.get(
            column, False
        )

    def tokens(self, windows: Sequence[int] | np.ndarray) -> np.ndarray:
        """(b, l) of dtype TOKEN, padded on the right to the longest; special tokens and padding start at -1."""
        which = np.asarray(windows)
        layout, special = self._layout, self.special
        rows, before = np.arange(len(which)), len(special.prefix)
        table = np.zeros((len(which), int(self.n_tokens[which].max())), dtype=TOKEN)
        table["id"], table["sentence"], table["start"], table["end"] = self.pad_id, NO_SENTENCE, -1, -1
        table["id"][:, :before] = special.prefix
        a, b = layout.a[which], layout.b[which]
        middle = before + a
        for place, ids in ((middle, special.middle), (middle + len(special.middle) + b, special.suffix)):
            for offset, token in enumerate(ids):
                table["id"][rows, place + offset] = token
        spans = (layout.begin[which], a, layout.second[which], b)
        for line, begin, n_a, second, n_b in zip(table, *(span.tolist() for span in spans), strict=True):
            line[before : before + n_a] = self.stream.rows(begin, begin + n_a)
            if n_b:
                at = before + n_a + len(special.middle)
                line[at : at + n_b] = self.stream.rows(second, second + n_b)
        return table

    def _columns(self, windows: Sequence[int]) -> dict[str, np.ndarray]:
        """(b, l) arrays by name, padded on the right."""
        which, table = np.asarray(windows), self.tokens(windows)
        index = np.arange(table.shape[1])  # (l,)
        n_tokens, context = self.n_tokens[which, None], self._layout.context[which, None]  # (b, 1)
        ids, inner = table["id"].astype(np.int64), table["start"] >= 0  # (b, l)
        real = index < n_tokens
        special = self._special[np.minimum(ids, len(self._special) - 1)]
        return {
            "ids": ids,
            "real": real,
            "counted": real & (~inner | (index >= context + len(self.special.prefix))),
            "special": special,
            "sentence": np.where(special, NO_SENTENCE, table["sentence"]).astype(np.int32),
            "classes": table["classes"],
            "types": self._types(which, index),
        }

    def _types(self, which: np.ndarray, index: np.ndarray) -> np.ndarray:
        """(b, l) int64 token types as the tokenizer gives them; 0 for padding."""
        a, b = self._layout.a[which], self._layout.b[which]
        special = self.special
        lengths = [len(special.prefix), a, len(special.middle), b, len(special.suffix)]
        types, end = np.zeros((len(which), len(index)), dtype=np.int64), np.zeros(len(which), dtype=np.int64)
        for kind, length in zip(special.types, lengths, strict=True):
            if kind:
                types[(index >= end[:, None]) & (index < (end + length)[:, None])] = kind
            end = end + length
        return types

    def _facts(self, columns: dict[str, np.ndarray]) -> TokenFacts:
        import torch

        from attnengine_kernels.call import TokenFacts

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array))

        real = columns["real"]
        position = np.where(real, np.arange(real.shape[1]), -1).astype(np.int32)
        classes = {"first": position == 0, "special": columns["special"] & real}
        classes |= {name: real & _bit(columns["classes"], bit) for bit, name in enumerate(self._named_bits())}
        return TokenFacts(
            real=tensor(real),
            counted=tensor(columns["counted"] & real),
            position=tensor(position),
            classes={name: tensor(mask) for name, mask in classes.items()},
            token_id=tensor(columns["ids"]),
            sentence=tensor(columns["sentence"]),
        )

    def _named_bits(self) -> tuple[str, ...]:
        """The classes that bits of TOKEN's ``classes`` stand for, from bit 0."""
        return ("punctuation", *self.stream.class_names)

    def describe(self, window: np.ndarray, position: np.ndarray, *, text: bool) -> pd.DataFrame:
        """The columns of table ``tokens`` for sampled (window, position) pairs; text only if ``text``."""
        rows = np.empty(len(window), dtype=TOKEN)
        for which in np.unique(window):
            here = window == which
            rows[here] = self.tokens([which])[0, position[here]]
        document, start, end = self.document[window], rows["start"].astype(np.int64), rows["end"].astype(np.int64)
        return pd.DataFrame(
            {
                "token": np.arange(len(window), dtype=np.int64),
                "document": document,
                "window": window.astype(np.int32),
                "position": position.astype(np.int32),
                "token_id": rows["id"].astype(np.int64),
                "text": pd.Series(
                    self._words(document, rows) if text else None, index=range(len(window)), dtype=object
                ),
                "text_start": start,
                "text_end": end,
                "is_first": position == 0,
                "is_special": np.isin(rows["id"], list(self.special.ids)),
                **{f"is_{name}": _bit(rows["classes"], bit) for bit, name in enumerate(self._named_bits())},
                "row": np.full(len(window), -1, np.int32),
                "col": np.full(len(window), -1, np.int32),
            }
        )

    def _words(self, document: np.ndarray, rows: np.ndarray) -> list[str]:
        """The source text of each token, or a special token's name; a document's text is read once for all of them."""
        words, text, known = [], "", -1
        order = np.argsort(document, kind="stable")
        for index in order.tolist():
            if document[index] != known:
                known = int(document[index])
                text = self.documents[known].text
            token = rows[index]
            inside = token["start"] >= 0
            words.append(text[token["start"] : token["end"]] if inside else self.special.names[int(token["id"])])
        return [words[place] for place in np.argsort(order, kind="stable").tolist()]


def _bit(words: np.ndarray, bit: int) -> np.ndarray:
    found: np.ndarray = (words >> np.uint32(bit)) & np.uint32(1)
    return found.astype(bool)


def _shift(column: np.ndarray, opening: Any) -> np.ndarray:
    """One step to the right, ``opening`` in front: a decoder's teacher-forced input."""
    first = np.full((len(column), 1), opening, dtype=column.dtype)
    return np.concatenate([first, column[:, :-1]], axis=1)
