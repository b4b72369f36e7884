"""One text through a model: its tokens, and of every attention call what its scores and patterns are made of.

Numpy only: a page, a notebook or a test reads this without torch. Vectors are stored in fp32, as attention saw them
(after RoPE and QK-norm, before key heads are repeated); everything computed from them is fp64 and made on demand, one
head at a time, so that a text of 2,000 tokens never asks for all heads' L×L. :mod:`attnengine.model.live` makes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attnengine.records import Site, head_name

Rows = np.ndarray | slice | None  # rows of a matrix; None: all
ROWS_A_TILE = 256  # of scores held at once where only a number a row is asked for


@dataclass(frozen=True)
class Tokens:
    """The tokens of one stack, n of them, in order.

    ``stack`` is "encoder", "decoder" or "" for models with one. ``texts`` are the source's own characters, a special
    token's name, or a patch's place (r0c3). ``start`` and ``end`` (n,) count characters of :attr:`source` and are -1
    where a token stands for none. ``segment`` (n,) is 0 for text A and 1 for text B, special tokens included: as in
    BERT the one between the texts closes A, the last one B. ``patch`` (n, 2) is the (row, column) of an image's patch,
    -1 for its prefix tokens, None for text.
    """

    stack: str
    source: str
    ids: np.ndarray
    texts: tuple[str, ...]
    start: np.ndarray
    end: np.ndarray
    special: np.ndarray
    segment: np.ndarray
    patch: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def is_pair(self) -> bool:
        """Whether some tokens are of a second text."""
        return bool((self.segment == 1).any())


@dataclass(frozen=True)
class Bias:
    """What a model adds to the scores of visible pairs; -inf hides a pair.

    ``values`` is (1 or h, q, k); with ``by_offset`` (T5's kin) it is (1 or h, q + k − 1), its entry q − 1 − i + j
    being that of every pair (i, j) of one offset, so that a long text needs no dense matrix a head.
    """

    values: np.ndarray
    by_offset: bool = False

    def rows(self, head: int, rows: np.ndarray, n_keys: int) -> np.ndarray:
        """(rows, k) for one head."""
        values = self.values[head if len(self.values) > 1 else 0]
        if not self.by_offset:
            return values[rows]
        n_queries = len(values) - n_keys + 1
        return values[(n_queries - 1 - rows)[:, None] + np.arange(n_keys)]


@dataclass(frozen=True)
class Attention:
    """One attention call on one text: what the model gave it, and on demand what it computes.

    query: (h, q, d) and key: (hkv, k, d) fp32; query head h reads key head ``h // (n_heads // n_kv_heads)``. Row i sees
    keys lo[i] <= j < hi[i] (int32), and of them those whose bias is not -inf. sink: (h,) learned sink scores or None.
    The score of a visible pair is ``scale * q.k``, soft-capped where the site has a cap, plus the bias; the pattern is
    its softmax over the visible keys and the sink, so that with a sink rows sum to less than 1.
    """

    site: Site
    query: np.ndarray
    key: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    bias: Bias | None = None
    sink: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(query positions, key positions)."""
        return self.query.shape[1], self.key.shape[1]

    def name(self, head: int) -> str:
        """``L5H3``."""
        return head_name(self.site, head)

    def queries_of(self, head: int) -> np.ndarray:
        """(q, d) fp64."""
        return self.query[self._head(head)].astype(np.float64)

    def keys_of(self, head: int) -> np.ndarray:
        """(k, d) fp64 of the key head that ``head`` reads."""
        return self.key[self._head(head) * len(self.key) // len(self.query)].astype(np.float64)

    def visible(self, rows: Rows = None, head: int = 0) -> np.ndarray:
        """(rows, k) bool: the pairs that take part in the softmax."""
        which = self._rows(rows)
        position = np.arange(self.shape[1])
        seen: np.ndarray = (position >= self.lo[which, None]) & (position < self.hi[which, None])
        if self.bias is not None:
            seen &= self.bias.rows(self._head(head), which, self.shape[1]) > -np.inf
        return seen

    def score(self, head: int, rows: Rows = None) -> np.ndarray:
        """(rows, k) fp64 scores of one head; -inf where a pair is hidden."""
        which = self._rows(rows)
        with np.errstate(invalid="ignore", over="ignore"):  # a broken head is NaN, and says so by being NaN
            score = self.site.scale * (self.queries_of(head)[which] @ self.keys_of(head).T)
        if self.site.softcap is not None:
            score = self.site.softcap * np.tanh(score / self.site.softcap)
        if self.bias is not None:
            score = score + self.bias.rows(head, which, self.shape[1])
        return np.where(self.visible(which, head), score, -np.inf)

    def lse(self, head: int, rows: Rows = None) -> np.ndarray:
        """(rows,) fp64 log of the sum of exp(score), the sink's included; -inf for a row that sees nothing."""
        which = self._rows(rows)
        out = np.empty(len(which))
        for first in range(0, len(which), ROWS_A_TILE):
            tile = which[first : first + ROWS_A_TILE]
            out[first : first + ROWS_A_TILE] = self._lse(head, self.score(head, tile))
        return out

    def pattern(self, head: int, rows: Rows = None) -> np.ndarray:
        """(rows, k) fp64 softmax of the scores; 0 where hidden, and everywhere in a row that sees nothing."""
        score = self.score(head, rows)
        lse = self._lse(head, score)
        return np.exp(score - np.where(np.isinf(lse), 0.0, lse)[:, None])

    def sink_mass(self, head: int, rows: Rows = None) -> np.ndarray:
        """(rows,) fp64: what the learned sink takes of each row; 0 without one."""
        if self.sink is None:
            return np.zeros(len(self._rows(rows)))
        return np.exp(np.float64(self.sink[self._head(head)]) - self.lse(head, rows))

    def products(self, head: int, query_pos: int, keys: Rows = None) -> np.ndarray:
        """(keys, d) fp64 q ⊙ k of one query with the keys: ``scale`` times a row's sum is q·k as the softmax has it."""
        return self.queries_of(head)[query_pos] * self.keys_of(head)[slice(None) if keys is None else keys]

    def _lse(self, head: int, score: np.ndarray) -> np.ndarray:
        sink = -np.inf if self.sink is None else np.float64(self.sink[self._head(head)])
        top = np.maximum(score.max(axis=1, initial=-np.inf), sink)
        safe = np.where(np.isinf(top), 0.0, top)
        total = np.exp(score - safe[:, None]).sum(axis=1) + np.exp(sink - safe)
        with np.errstate(divide="ignore"):
            return safe + np.log(total)

    def _head(self, head: int) -> int:
        if not 0 <= head < len(self.query):
            raise ValueError(f"{self.site.name} has heads 0 to {len(self.query) - 1}, got {head}")
        return head

    def _rows(self, rows: Rows) -> np.ndarray:
        every = np.arange(self.shape[0])
        if rows is None:
            return every
        return every[rows] if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)


@dataclass(frozen=True)
class Sentence:
    """One text (or pair, or image) through a model: the tokens of each stack, and its attention calls in order.

    ``attentions[s]`` is site s of the model, numbered as a run's table ``sites``. ``text_b`` is None unless there is
    a second text.
    """

    text: str
    text_b: str | None
    streams: dict[str, Tokens]
    attentions: tuple[Attention, ...]

    def query_tokens(self, site: int) -> Tokens:
        """The tokens that ask in a site's attention."""
        call = self.attentions[site]
        return self._tokens(call.site.stack, call.shape[0])

    def key_tokens(self, site: int) -> Tokens:
        """The tokens that answer: in cross-attention the encoder's."""
        call = self.attentions[site]
        return self._tokens("encoder" if call.site.kind == "cross" else call.site.stack, call.shape[1])

    def _tokens(self, stack: str, length: int) -> Tokens:
        """The stream of a stack, or numbered places where an attention runs over what is no token of the text."""
        found = self.streams.get(stack)
        return found if found is not None and len(found) == length else numbered(stack, length)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the stored vectors and biases."""
        arrays = [array for call in self.attentions for array in (call.query, call.key)]
        biases = {id(call.bias): call.bias.values for call in self.attentions if call.bias is not None}
        return sum(array.nbytes for array in (*arrays, *biases.values()))


def numbered(stack: str, length: int) -> Tokens:
    """Places without text, such as the learned latents of a Perceiver."""
    nowhere = np.full(length, -1, dtype=np.int64)
    return Tokens(
        stack, "", nowhere, tuple(f"#{i}" for i in range(length)), nowhere, nowhere, np.zeros(length, dtype=bool),
        np.zeros(length, dtype=np.int8),
    )  # fmt: skip
