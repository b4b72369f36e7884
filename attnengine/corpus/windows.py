"""What a model sees at once: windows of text with their special tokens, cut, batched and described.

A *feed* turns window numbers into model inputs and token facts. :class:`TextWindows` is the one for text,
``attnengine.corpus.images.ImageWindows`` the one for pictures; the engine treats them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from attnengine.corpus.sources import Document
from attnengine.corpus.tokenise import NO_SENTENCE, TokenStream
from attnengine.errors import PlanError

if TYPE_CHECKING:
    import torch

    from attnengine_kernels.call import TokenFacts

LONGEST_DEFAULT = 1024  # tokens of a window, where the model has positions for more
BOS = ("auto", "always", "never")


@dataclass(frozen=True)
class WindowBatch:
    """A padded batch: what the model is called with, and the facts of each stream ("" or encoder and decoder)."""

    inputs: dict[str, torch.Tensor]
    streams: dict[str, TokenFacts]


class Feed(Protocol):
    """What the engine needs of a corpus: windows by number."""

    documents: Sequence[Document]
    document: np.ndarray  # (windows,) int32: the document of each window
    start: np.ndarray  # (windows,) int64: first token of the window in its document
    n_tokens: np.ndarray  # (windows,) int32: real tokens of the window, special ones included

    def batch(self, windows: Sequence[int], device: str) -> WindowBatch:
        """Model inputs and token facts of these windows, padded on the right to the longest."""
        ...

    def describe(self, window: np.ndarray, position: np.ndarray, *, text: bool) -> pd.DataFrame:
        """The columns of table ``tokens`` for sampled (window, position) pairs."""
        ...


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens that open and close a window."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    ids: frozenset[int]  # every special id but unk: the targets of special_mass
    names: dict[int, str]  # how they are written: [CLS], <s>

    @classmethod
    def of(cls, tokenizer: Any, bos: str = "auto") -> SpecialTokens:
        """What ``tokenizer`` puts around one sequence; ``bos`` "always" adds its BOS, "never" adds nothing."""
        if bos not in BOS:
            raise ValueError(f"bos must be one of {', '.join(BOS)}; got {bos!r}")
        bare = tokenizer("a", add_special_tokens=False)["input_ids"]
        full = tokenizer("a", add_special_tokens=True)["input_ids"]
        at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), None)
        if at is None:
            raise PlanError("the tokenizer does not put its special tokens around the text; use --bos never")
        prefix, suffix = tuple(full[:at]), tuple(full[at + len(bare) :])
        if bos == "never":
            prefix, suffix = (), ()
        elif bos == "always" and tokenizer.bos_token_id is None:
            raise PlanError("--bos always: this tokenizer has no BOS token; use --bos auto")
        elif bos == "always" and tokenizer.bos_token_id not in prefix:
            prefix = (tokenizer.bos_token_id, *prefix)
        unk = tokenizer.unk_token_id
        ids = frozenset(i for i in tokenizer.all_special_ids if i != unk)
        around = sorted(ids | set(prefix) | set(suffix))
        return cls(prefix, suffix, ids, dict(zip(around, tokenizer.convert_ids_to_tokens(around), strict=True)))


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
    default). The tokens a window shares with the one before are context there and not counted again.
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
        room = length - len(special.prefix) - len(special.suffix)
        if room < 1:
            raise PlanError(f"a window of {length} tokens leaves no room beside the special tokens; ask for more")
        if stride is not None and not 1 <= stride <= room:
            raise PlanError(f"--stride must lie in 1 … {room} (the window's content), got {stride}")
        self.documents, self.stream, self.special = documents, stream, special
        self.decoder_start, self.pad_id, self.model_inputs = decoder_start, pad_id, model_inputs
        self._cut(room, stride or room)
        if max_tokens is not None:  # whole windows, in order, until max_tokens are in
            self._keep(1 + int(np.searchsorted(np.cumsum(self.n_tokens), max_tokens)))

    def _cut(self, room: int, stride: int) -> None:
        document, start, content, context = [], [], [], []
        for index, n in enumerate(np.diff(self.stream.first).tolist()):
            at = 0
            while at < n:
                document.append(index)
                start.append(at)
                content.append(min(room, n - at))
                context.append(room - stride if at else 0)
                if at + room >= n:  # the last window reaches the end; a further one would only repeat
                    break
                at += stride
        self.document = np.asarray(document, dtype=np.int32)
        self.start = np.asarray(start, dtype=np.int64)
        self.content = np.asarray(content, dtype=np.int32)
        self.context = np.asarray(context, dtype=np.int32)
        around = len(self.special.prefix) + len(self.special.suffix)
        self.n_tokens = self.content + np.int32(around)

    def _keep(self, windows: int) -> None:
        for name in ("document", "start", "content", "context", "n_tokens"):
            setattr(self, name, getattr(self, name)[:windows])
        self.documents = self.documents[: int(self.document[-1]) + 1]

    def rows(self, window: int) -> np.ndarray:
        """(n_tokens,) row of the token stream for each position; -1 for special tokens."""
        begin = self.stream.first[self.document[window]] + self.start[window]
        inner = np.arange(begin, begin + self.content[window], dtype=np.int64)
        before, after = len(self.special.prefix), len(self.special.suffix)
        return np.concatenate([np.full(before, -1), inner, np.full(after, -1)])

    def ids(self, window: int) -> np.ndarray:
        """(n_tokens,) int64 token ids, special tokens included."""
        begin = self.stream.first[self.document[window]] + self.start[window]
        inner = self.stream.ids[begin : begin + self.content[window]]
        return np.concatenate([self.special.prefix, inner, self.special.suffix]).astype(np.int64)

    def batch(self, windows: Sequence[int], device: str) -> WindowBatch:
        """Model inputs and token facts of these windows, padded on the right to the longest."""
        import torch

        columns = self._columns(windows)
        ids = torch.from_numpy(columns["ids"]).to(device)
        real = torch.from_numpy(columns["real"]).to(device)
        inputs = {"input_ids": ids, "attention_mask": real.to(torch.int64)}
        if "token_type_ids" in self.model_inputs:
            inputs["token_type_ids"] = torch.zeros_like(ids)
        if self.decoder_start is None:
            return WindowBatch(inputs, {"": self._facts(columns, device)})
        shifted = {name: _shift(column, self._opening(name)) for name, column in columns.items()}
        inputs["decoder_input_ids"] = torch.from_numpy(shifted["ids"]).to(device)
        inputs["decoder_attention_mask"] = inputs["attention_mask"]
        # A window of n tokens gives n decoder tokens, so both streams are padded alike.
        shifted["real"] = columns["real"]
        return WindowBatch(inputs, {"encoder": self._facts(columns, device), "decoder": self._facts(shifted, device)})

    def _opening(self, column: str) -> Any:
        """What the decoder's start token has in each column."""
        start = self.decoder_start
        return {"ids": start, "special": start in self.special.ids, "sentence": NO_SENTENCE, "counted": True}.get(
            column, False
        )

    def _columns(self, windows: Sequence[int]) -> dict[str, np.ndarray]:
        """(b, l) arrays by name, padded on the right."""
        width = int(self.n_tokens[list(windows)].max())
        shape = (len(windows), width)
        columns = {
            "ids": np.full(shape, self.pad_id, dtype=np.int64),
            "real": np.zeros(shape, dtype=bool),
            "counted": np.zeros(shape, dtype=bool),
            "special": np.zeros(shape, dtype=bool),
            "punctuation": np.zeros(shape, dtype=bool),
            "sentence": np.full(shape, NO_SENTENCE, dtype=np.int32),
        }
        special_ids = np.asarray(sorted(self.special.ids), dtype=np.int64)
        for b, window in enumerate(windows):
            n, rows = int(self.n_tokens[window]), self.rows(window)
            inner = rows >= 0
            columns["ids"][b, :n] = self.ids(window)
            columns["real"][b, :n] = True
            columns["counted"][b, :n] = ~inner | (np.cumsum(inner) > self.context[window])
            columns["special"][b, :n] = np.isin(columns["ids"][b, :n], special_ids)
            columns["punctuation"][b, :n][inner] = self.stream.punctuation[rows[inner]]
            columns["sentence"][b, :n][inner] = self.stream.sentence[rows[inner]]
        columns["sentence"][columns["special"]] = NO_SENTENCE
        return columns

    def _facts(self, columns: dict[str, np.ndarray], device: str) -> TokenFacts:
        import torch

        from attnengine_kernels.call import TokenFacts

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        real = columns["real"]
        position = np.where(real, np.cumsum(real, axis=1) - 1, -1).astype(np.int32)
        classes = {
            "first": position == 0,
            "special": columns["special"] & real,
            "punctuation": columns["punctuation"] & real,
        }
        return TokenFacts(
            real=tensor(real),
            counted=tensor(columns["counted"] & real),
            position=tensor(position),
            classes={name: tensor(mask) for name, mask in classes.items()},
            token_id=tensor(columns["ids"]),
            sentence=tensor(columns["sentence"]),
        )

    def describe(self, window: np.ndarray, position: np.ndarray, *, text: bool) -> pd.DataFrame:
        """The columns of table ``tokens`` for sampled (window, position) pairs; text only if ``text``."""
        rows, ids = np.empty(len(window), np.int64), np.empty(len(window), np.int64)
        for which in np.unique(window):
            here = window == which
            rows[here], ids[here] = self.rows(which)[position[here]], self.ids(which)[position[here]]
        inner = rows >= 0
        safe = np.where(inner, rows, 0)
        start = np.where(inner, self.stream.start[safe], -1).astype(np.int64)
        end = np.where(inner, self.stream.end[safe], -1).astype(np.int64)
        document = self.document[window]
        words = None
        if text:
            spans = zip(document.tolist(), start.tolist(), end.tolist(), ids.tolist(), strict=True)
            words = [self.documents[d].text[a:b] if a >= 0 else self.special.names[i] for d, a, b, i in spans]
        return pd.DataFrame(
            {
                "token": np.arange(len(window), dtype=np.int64),
                "document": document,
                "window": window.astype(np.int32),
                "position": position.astype(np.int32),
                "token_id": ids,
                "text": pd.Series(words, index=range(len(window)), dtype=object),
                "text_start": start,
                "text_end": end,
                "is_first": position == 0,
                "is_special": np.isin(ids, list(self.special.ids)),
                "is_punctuation": inner & self.stream.punctuation[safe],
                "row": np.full(len(window), -1, np.int32),
                "col": np.full(len(window), -1, np.int32),
            }
        )


def _shift(column: np.ndarray, opening: Any) -> np.ndarray:
    """One step to the right, ``opening`` in front: a decoder's teacher-forced input."""
    first = np.full((len(column), 1), opening, dtype=column.dtype)
    return np.concatenate([first, column[:, :-1]], axis=1)
