"""Offsets are of positions, tiles are of indices: what the passes about offsets know of the one and the other.

Positions rise by one from token to token (:class:`~attnengine_kernels.call.TokenFacts`), so that in each window the key
at the query's own position is ``j = i + shift``, one number, and keys that have a position are one range of indices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnengine_kernels.call import AttentionCall


@dataclass(frozen=True)
class Places:
    """Where the tokens of each window stand; all int32."""

    shift: Tensor  # (b,) index of the key at the query's position, less the query's index
    placed: Tensor  # (b, 2) the keys that have a position: [first, one past the last)
    row_placed: Tensor  # (b, q) 0/1
    lo: Tensor  # (b, q) the intervals, cut to pairs in which both have a position
    hi: Tensor


def find_places(call: AttentionCall, query_position: Tensor | None, key_position: Tensor | None) -> Places:
    """The places of a call's tokens; without positions every token has one, and the last query is at the last key.

    ``query_position`` (b, q) and ``key_position`` (b, k) int32, -1 for tokens without a position. Raises ValueError or
    TypeError for other shapes and types, for one given without the other, and for positions that do not rise by one.
    """
    (b, n_rows), n_keys = call.lo.shape, call.key.shape[2]
    lo, hi = call.lo.clamp(min=0), call.hi.clamp(max=n_keys)
    if query_position is None or key_position is None:
        if query_position is not key_position:
            raise ValueError("query_position, key_position: expected both or neither, got one")
        placed = torch.tensor([0, n_keys], dtype=torch.int32, device=lo.device).expand(b, -1).contiguous()
        shift = lo.new_full((b,), n_keys - n_rows)
        return Places(shift, placed, torch.ones_like(lo), lo.contiguous(), hi.contiguous())
    first_row, _, first_query, rows_placed = _run("query_position", query_position, (b, n_rows))
    first_key, last_key, first_position, keys_placed = _run("key_position", key_position, (b, n_keys))
    shift = (first_query - first_row) - (first_position - first_key)
    both = rows_placed.any(1) & keys_placed.any(1)
    shift = torch.where(both, shift, 0).to(torch.int32)
    low = torch.maximum(lo, first_key[:, None])
    high = torch.where(rows_placed, torch.minimum(hi, last_key[:, None]), low)
    placed = torch.stack([first_key, last_key], dim=1).to(torch.int32).contiguous()
    low, high = low.to(torch.int32).contiguous(), torch.maximum(high, low).to(torch.int32).contiguous()
    return Places(shift, placed, rows_placed.to(torch.int32).contiguous(), low, high)


def _run(name: str, position: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """First index, one past the last, first position (b,) and which tokens have one (b, l)."""
    if tuple(position.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(position.shape)}")
    if position.dtype != torch.int32:
        raise TypeError(f"{name}: expected int32, got {position.dtype}")
    placed = position >= 0
    first = placed.int().argmax(1)
    at_first = position.gather(1, first[:, None])  # (b, 1); -1 where none has a position
    index = torch.arange(shape[1], device=position.device)
    if bool((placed & (position - at_first != index - first[:, None])).any()):
        raise ValueError(f"{name}: expected positions that rise by one from token to token, got {position}")
    return first, first + placed.sum(1), at_first[:, 0], placed
