"""Attention calls to check and to time: shapes, masks and facts, made on the device they run on."""

from __future__ import annotations

from typing import NamedTuple

import torch

from attnengine_kernels import AttentionCall, TokenFacts, intervals
from attnengine_kernels.vendor import attention_with_lse


class Shape(NamedTuple):
    """One attention call's sizes; ``skewed`` pads windows to random lengths, one of them full."""

    b: int
    h: int
    hkv: int
    length: int
    d: int
    causal: bool = True
    skewed: bool = False

    def __str__(self) -> str:
        mask = ("causal" if self.causal else "bidirectional") + (", skewed" if self.skewed else "")
        return f"B={self.b} H={self.h}/{self.hkv} L={self.length} D={self.d} {mask}"


#: KERNELS.md's reference shape R comes first.
CUDA_SHAPES = (
    Shape(8, 32, 32, 4096, 128),
    Shape(8, 32, 8, 4096, 128),
    Shape(8, 32, 8, 4096, 128, skewed=True),
    Shape(8, 12, 12, 512, 64, causal=False),
    Shape(8, 12, 12, 1024, 64),
    Shape(4, 32, 8, 8192, 128),
    Shape(1, 32, 8, 32768, 128),
)
CPU_SHAPES = (
    Shape(32, 12, 12, 128, 32, causal=False),
    Shape(8, 12, 12, 512, 32, causal=False),
    Shape(8, 12, 12, 512, 32, causal=False, skewed=True),
    Shape(4, 12, 12, 1024, 64),
    Shape(2, 8, 2, 2048, 64),
)


def make_call(shape: Shape, dtype: torch.dtype, device: str, seed: int = 0) -> tuple[AttentionCall, TokenFacts]:
    """A seeded call in the layout of transformers, with the vendor's lse where one mask serves all windows."""
    source = torch.Generator(device).manual_seed(seed)

    def random(heads: int) -> torch.Tensor:
        x = torch.randn(shape.b, shape.length, heads, shape.d, generator=source, device=device)
        return x.to(dtype).transpose(1, 2)

    query, key, value = random(shape.h), random(shape.hkv) + 0.25, random(shape.hkv)
    key = key.transpose(1, 2).contiguous().transpose(1, 2)
    length = torch.full((shape.b,), shape.length, device=device)
    if shape.skewed:
        length[1:] = torch.randint(shape.length // 8, shape.length, (shape.b - 1,), generator=source, device=device)
    position = torch.arange(shape.length, dtype=torch.int32, device=device).expand(shape.b, -1)
    real = position < length[:, None]
    whole = (intervals.causal if shape.causal else intervals.bidirectional)(
        shape.b, shape.length, shape.length, device=device
    )
    lo, hi = intervals.padded(whole, real)
    lse = None if shape.skewed else attention_with_lse(query, key, value, is_causal=shape.causal).lse
    return AttentionCall(query, key, value, lo, hi, shape.d**-0.5, lse=lse), make_facts(real, source)


def make_facts(real: torch.Tensor, source: torch.Generator) -> TokenFacts:
    """Facts of text: tokens of a Zipf-like vocabulary, sentences of some twenty tokens, three classes."""
    uniform = torch.rand(real.shape, generator=source, device=real.device)
    token = (1000**uniform - 1).long()
    position = torch.where(real, real.cumsum(1) - 1, -1).int()
    classes = {"first": position == 0, "special": real & (token == 0), "punctuation": real & (token % 11 == 1)}
    sentence = (token % 20 == 3).cumsum(1).int()
    return TokenFacts(real, real, position, classes, token, sentence)


def features_of(call: AttentionCall) -> torch.Tensor:
    """16 columns of 0 and 1 over the keys, (b, k, 16)."""
    j = torch.arange(call.key.shape[2], device=call.key.device)
    columns = torch.stack([j % (n + 1) == 0 for n in range(16)], dim=1).to(call.query.dtype)
    return columns.expand(call.key.shape[0], -1, -1)


def visible_pairs(call: AttentionCall) -> int:
    """Pairs that the mask lets through, of one head."""
    return int((call.hi.long() - call.lo).clamp(min=0).sum())
