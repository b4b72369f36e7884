"""What the kernels are given: one attention call of a model, and the facts about its tokens.

Nothing here knows a model or a corpus; every field is a tensor or a number. Shapes use
``b`` windows of a batch, ``h`` query heads, ``hkv`` key heads (h % hkv == 0), ``q`` query
positions, ``k`` key positions, ``d`` the width of queries and keys, ``dv`` that of values.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class AttentionCall:
    """One attention call, exactly as the model made it (after RoPE, after QK-norm, before GQA expansion).

    The score of a visible pair is ``s = scale * q.k``, then ``softcap * tanh(s / softcap)`` if there is a
    soft-cap, then ``+ bias`` if there is one. The pattern is ``p = exp(s - lse)`` over the visible keys,
    ``lse`` counting the learned sink of the head where there is one. A pair is visible if
    ``lo[b, i] <= j < hi[b, i]`` and the bias there is not -inf.
    """

    query: Tensor  # (b, h, q, d) floating
    key: Tensor  # (b, hkv, k, d)
    value: Tensor  # (b, hkv, k, dv)
    lo: Tensor  # (b, q) int32: first visible key of the row
    hi: Tensor  # (b, q) int32: one past the last visible key; hi == lo sees nothing
    scale: float
    softcap: float | None = None
    sink: Tensor | None = None  # (h,) learned sink scores, as they enter the softmax
    bias: Tensor | None = None  # (1 or b, 1 or h, q, k) added to the score; -inf hides the pair
    lse: Tensor | None = None  # (b, h, q) fp32, natural log, the vendor's, sink included; None: the kernel makes it


@dataclass(frozen=True)
class TokenFacts:
    """Facts about the tokens of one stream (encoder or decoder) of a batch of windows, length ``l``.

    ``position`` counts the window's real tokens from 0 and is what offsets, distances, neighbours and relative
    bins are taken from; -1 marks padding, and in images the prefix tokens, which have no place in the picture.
    """

    real: Tensor  # (b, l) bool: a token of the window, not padding
    counted: Tensor  # (b, l) bool: real, and counted in this window (a token of two overlapping windows counts once)
    position: Tensor  # (b, l) int32
    classes: dict[str, Tensor] = field(default_factory=dict)  # name -> (b, l) bool: "first", "special", …
    token_id: Tensor | None = None  # (b, l) int64; None: no token-identity masses (images)
    sentence: Tensor | None = None  # (b, l) int32, -1 in none (special tokens); None: no cross_sentence_mass
    patch: Tensor | None = None  # (b, l, 2) int32 (row, column), -1 for prefix tokens; given for images only


HeadSums = dict[str, Tensor]
"""Name -> fp64 tensor on the CPU, one row per window; the names are those of :mod:`attnengine_kernels.sums`."""


def empty_facts(batch: int, length: int) -> TokenFacts:
    """Facts of ``batch`` unpadded windows of ``length`` anonymous tokens: what someone with only q and k has."""
    real = torch.ones(batch, length, dtype=torch.bool)
    position = torch.arange(length, dtype=torch.int32).expand(batch, length)
    return TokenFacts(real=real, counted=real, position=position, classes={"first": position == 0})
