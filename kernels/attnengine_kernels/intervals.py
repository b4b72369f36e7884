"""Masks as intervals: the keys [lo, hi) that each query row sees, O(L) numbers instead of an L x L mask.

What :class:`~attnengine_kernels.call.AttentionCall` asks for, made from what people have: lengths, a window, packed
sequences. Causal masks are aligned at the bottom right, as Hugging Face decodes with a cache: the last query sees
every key. A sliding window counts the query's own key, so ``window=1`` sees that one alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Int32
from torch import Tensor

Interval = tuple[Int32[Tensor, "b q"], Int32[Tensor, "b q"]]


def bidirectional(batch: int, n_query: int, n_key: int, *, device: torch.device | str = "cpu") -> Interval:
    """Every row sees every key."""
    lo = torch.zeros(batch, n_query, dtype=torch.int32, device=device)
    return lo, torch.full_like(lo, n_key)


def causal(
    batch: int, n_query: int, n_key: int, *, window: int | None = None, device: torch.device | str = "cpu"
) -> Interval:
    """Row i sees the keys up to its own, i + n_key - n_query, and with ``window`` only the last ``window`` of those.

    Raises ValueError for a window below 1.
    """
    if window is not None and window < 1:
        raise ValueError(f"window: expected at least 1, got {window}")
    end = torch.arange(1, n_query + 1, dtype=torch.int32, device=device) + (n_key - n_query)
    hi = end.clamp(min=0)
    lo = torch.zeros_like(hi) if window is None else (end - window).clamp(min=0)
    return lo.expand(batch, -1).contiguous(), hi.expand(batch, -1).contiguous()


def padded(interval: Interval, real: Tensor) -> Interval:
    """``interval`` of self-attention cut to the real tokens; rows of padding see nothing (lo == hi).

    ``real`` (b, l) bool marks one run of real tokens a window, so padding lies on either side or on both. Raises
    ValueError where padding lies between real tokens: that is no interval.
    """
    lo, hi = interval
    if real.shape != lo.shape or real.dtype != torch.bool:
        raise ValueError(f"real: expected bool of shape {tuple(lo.shape)}, got {real.dtype} {tuple(real.shape)}")
    first = real.int().argmax(dim=1, keepdim=True).int()  # (b, 1)
    last = first + real.sum(dim=1, keepdim=True, dtype=torch.int32)
    position = torch.arange(real.shape[1], device=real.device)
    if not torch.equal((first <= position) & (position < last), real):
        raise ValueError("real: expected one run of real tokens a window, got padding between real tokens")
    low = torch.maximum(lo, first)
    high = torch.where(real, torch.minimum(hi, last), low)
    return low, torch.maximum(high, low)


def packed(
    cu_seqlens: Tensor, total: int, *, causal: bool = True, window: int | None = None
) -> tuple[Int32[Tensor, "1 q"], Int32[Tensor, "1 q"]]:
    """Sequences one after the other in one window of ``total`` tokens: a row sees keys of its own sequence only.

    ``cu_seqlens`` (n + 1,) int32 as FlashAttention has it: sequence s holds tokens [cu_seqlens[s], cu_seqlens[s + 1]),
    of any length, 0 and 1 included; tokens after the last see nothing. No transfer to the host. Raises ValueError or
    TypeError for another shape or type, and for a window below 1 or without ``causal``.
    """
    if cu_seqlens.ndim != 1 or len(cu_seqlens) < 1:
        raise ValueError(f"cu_seqlens: expected shape (n + 1,), got {tuple(cu_seqlens.shape)}")
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"cu_seqlens: expected int32, got {cu_seqlens.dtype}")
    if window is not None and (window < 1 or not causal):
        raise ValueError(f"window: expected at least 1 and causal=True, got {window} and causal={causal}")
    edges = cu_seqlens.to(torch.int64)
    row = torch.arange(total, device=cu_seqlens.device)
    sequence = torch.searchsorted(edges, row, right=True)  # 1 + the row's sequence, n + 1 after the last
    bounds = torch.cat([edges.new_zeros(1), edges, edges.new_full((1,), total)])
    start, end = bounds[sequence], bounds[sequence + 1]
    inside = (sequence >= 1) & (sequence < len(edges))
    hi = torch.minimum(row + 1, end) if causal else end
    lo = start if window is None else torch.maximum(start, row + 1 - window)
    hi = torch.where(inside, hi, lo)
    return lo.to(torch.int32)[None], hi.to(torch.int32)[None]
