"""Attention that somebody computed elsewhere, as a :class:`~attnengine.model.sentence.Sentence` without vectors.

What BertViz takes: a tensor a layer, (1, heads, queries, keys), and the tokens. Patterns are shown as they are given;
there is no q and no k, so no neuron view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attnengine.model.sentence import Attention, Rows, Sentence, Tokens
from attnengine.records import Site

#: How tokenizers write a space or a piece inside a word, and what BertViz shows instead.
_PRETTY = (("Ġ", " "), ("▁", " "), ("</w>", " "))
_BRACKETS = ("[]", "<>")


@dataclass(frozen=True)
class GivenAttention(Attention):
    """One layer of given weights (h, q, k)."""

    weights: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0)))

    def pattern(self, head: int, rows: Rows = None) -> np.ndarray:
        """(rows, k) fp64, as given."""
        return np.asarray(self.weights[self._head(head)][self._rows(rows)], dtype=np.float64)


def given(
    attention: Any = None,
    tokens: Sequence[str] | None = None,
    sentence_b_start: int | None = None,
    *,
    prettify_tokens: bool = True,
    encoder_attention: Any = None,
    decoder_attention: Any = None,
    cross_attention: Any = None,
    encoder_tokens: Sequence[str] | None = None,
    decoder_tokens: Sequence[str] | None = None,
) -> Sentence:
    """The sentence of given attention: ``attention`` with ``tokens``, or an encoder–decoder's three with theirs.

    Raises ValueError where shapes and tokens do not fit together, TypeError where one of them is missing.
    """
    parts: list[tuple[str, str, Any]] = [
        ("", "self", attention), ("encoder", "self", encoder_attention), ("decoder", "self", decoder_attention),
        ("decoder", "cross", cross_attention),
    ]  # fmt: skip
    texts = {"": tokens, "encoder": encoder_tokens, "decoder": decoder_tokens}
    if attention is None and all(layers is None for _, _, layers in parts):
        raise TypeError("expected attention, or encoder_attention, decoder_attention or cross_attention")
    calls: list[Attention] = []
    for stack, kind, layers in parts:
        keys = "encoder" if kind == "cross" else stack
        for layer, weights in enumerate(() if layers is None else _layers(layers)):
            for name in (stack, keys):
                if texts[name] is None:
                    raise TypeError(f"expected {name + '_' if name else ''}tokens for the {kind}-attention")
            expected = (len(texts[stack] or ()), len(texts[keys] or ()))
            if weights.shape[1:] != expected:
                raise ValueError(f"attention is over {weights.shape[1:]} positions, but there are {expected} tokens")
            calls.append(_call(len(calls), stack, kind, layer, weights))
    streams = {
        stack: _tokens(stack, words, sentence_b_start if stack == "" else None, prettify_tokens)
        for stack, words in texts.items()
        if words is not None
    }
    return Sentence(" ".join(next(iter(streams.values())).texts), None, streams, tuple(calls))


def _layers(layers: Any) -> list[np.ndarray]:
    """(h, q, k) of each layer, from tensors or arrays with or without a batch of one."""
    found = []
    for layer in layers:
        weights = np.asarray(layer.detach().float().cpu() if hasattr(layer, "detach") else layer)
        if weights.ndim == 4 and len(weights) == 1:
            weights = weights[0]
        if weights.ndim != 3 or weights.dtype.kind != "f":
            raise ValueError(f"expected a float tensor (1, heads, queries, keys) a layer, got {weights.shape}")
        found.append(weights)
    return found


def _call(site: int, stack: str, kind: str, layer: int, weights: np.ndarray) -> GivenAttention:
    h, n, m = weights.shape
    return GivenAttention(
        site=Site(
            site=site, module="", ordinal=0, stack=stack, kind=kind, layer=layer, n_heads=h, n_kv_heads=h, d_qk=0,
            d_v=0, scale=1.0, window=None, softcap=None, has_sink=False, has_bias=False,
        ),
        query=np.zeros((h, n, 0), dtype=np.float32), key=np.zeros((h, m, 0), dtype=np.float32),
        lo=np.zeros(n, dtype=np.int32), hi=np.full(n, m, dtype=np.int32), weights=weights,
    )  # fmt: skip


def _tokens(stack: str, words: Sequence[str], b_start: int | None, prettify: bool) -> Tokens:
    n = len(words)
    if b_start is not None and not 0 <= b_start <= n:
        raise ValueError(f"sentence_b_start is from 0 to {n}, got {b_start}")
    nowhere = np.full(n, -1, dtype=np.int64)
    special = np.array([len(word) > 2 and word[0] + word[-1] in _BRACKETS for word in words], dtype=bool)
    segment = (np.arange(n) >= (n if b_start is None else b_start)).astype(np.int8)
    texts = tuple(_pretty(str(word)) if prettify else str(word) for word in words)
    return Tokens(stack, "", nowhere, texts, nowhere, nowhere, special, segment)


def _pretty(word: str) -> str:
    for mark, shown in _PRETTY:
        word = word.replace(mark, shown)
    return word
