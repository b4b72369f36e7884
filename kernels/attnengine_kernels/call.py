"""What the kernels are given: one attention call of a model, and the facts about its tokens.

Nothing here knows a model or a corpus; every field is a tensor or a number. Shapes use
``b`` windows of a batch, ``h`` query heads, ``hkv`` key heads (h % hkv == 0), ``q`` query
positions, ``k`` key positions, ``d`` the width of queries and keys, ``dv`` that of values, ``l`` tokens of one stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor


@dataclass(frozen=True)
class AttentionCall:
    """One attention call, exactly as the model made it (after RoPE, after QK-norm, before GQA expansion).

    The score of a visible pair is ``s = scale * q.k``, then ``softcap * tanh(s / softcap)`` if there is a
    soft-cap, then ``+ bias`` if there is one. The pattern is ``p = exp(s - lse)`` over the visible keys,
    ``lse`` counting the learned sink of the head where there is one. A pair is visible if
    ``lo[b, i] <= j < hi[b, i]`` and the bias there is not -inf.
    """

    query: Float[Tensor, "b h q d"]
    key: Float[Tensor, "b hkv k d"]
    value: Float[Tensor, "b hkv k dv"]
    lo: Int32[Tensor, "b q"]  # first visible key of the row
    hi: Int32[Tensor, "b q"]  # one past the last visible key; hi == lo sees nothing
    scale: float
    softcap: float | None = None
    sink: Float[Tensor, h] | None = None  # learned sink scores, as they enter the softmax
    bias: Float[Tensor, "#b #h q k"] | None = None  # added to the score; -inf hides the pair
    lse: Float[Tensor, "b h q"] | None = None  # natural log, the vendor's, sink included; None: the kernel makes it
    bounds: Int32[Tensor, "2 b q"] | None = None  # lo and hi on the host, from whoever has them: saves a wait

    def on_host(self) -> Int32[Tensor, "2 b q"]:
        """``lo`` and ``hi`` on the host; waits for the device unless the call brings them."""
        return torch.stack([self.lo, self.hi]).cpu() if self.bounds is None else self.bounds


@dataclass(frozen=True)
class TokenFacts:
    """Facts about the tokens of one stream (encoder or decoder) of a batch of windows, length ``l``.

    ``position`` counts the window's real tokens from 0 and is what offsets, distances, neighbours and relative
    bins are taken from; -1 marks padding, and in images the prefix tokens, which have no place in the picture.
    """

    real: Bool[Tensor, "b l"]  # a token of the window, not padding
    counted: Bool[Tensor, "b l"]  # real, and counted in this window (a token of two overlapping windows counts once)
    position: Int32[Tensor, "b l"]
    classes: dict[str, Bool[Tensor, "b l"]] = field(default_factory=dict)  # "first", "special", …
    token_id: Int64[Tensor, "b l"] | None = None  # None: no token-identity masses (images)
    sentence: Int32[Tensor, "b l"] | None = None  # -1 in none (special tokens); None: no cross_sentence_mass
    patch: Int32[Tensor, "b l 2"] | None = None  # (row, column), -1 for prefix tokens; given for images only


HeadSums = dict[str, Tensor]
"""Name -> fp64 tensor on the call's device, one row per window; the names: :mod:`attnengine_kernels.sums`."""


def empty_facts(batch: int, length: int) -> TokenFacts:
    """Facts of ``batch`` unpadded windows of ``length`` anonymous tokens: what someone with only q and k has."""
    real = torch.ones(batch, length, dtype=torch.bool)
    position = torch.arange(length, dtype=torch.int32).expand(batch, length)
    return TokenFacts(real=real, counted=real, position=position, classes={"first": position == 0})
