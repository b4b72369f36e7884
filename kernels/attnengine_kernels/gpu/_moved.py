"""Facts of a batch as the Triton passes read them, on their device: moved once, and shared by all layers of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnengine_kernels._facts import Prepared
from attnengine_kernels.call import TokenFacts
from attnengine_kernels.gpu.places import PlaceFacts
from attnengine_kernels.sums import PATTERN_BINS


@dataclass(frozen=True)
class Moved:
    """What :class:`.._facts.Prepared` knows, as tensors on one device."""

    lo: Tensor  # (b, q) int32, lo == hi for rows that do not count
    hi: Tensor  # (b, q) int32
    rows: Tensor  # (b, q) bool: counted rows that see a key
    near_lo: Tensor  # (b, q) int32, the intervals cut to pairs in which both have a position
    near_hi: Tensor  # (b, q) int32
    all_placed: bool  # the cut leaves them as they were
    visible: Tensor  # (b, q) fp64: visible keys of those rows, else 0
    counted_keys: Tensor  # (b, k) bool
    told: Tensor  # (b, k) fp64 0/1: real keys that stand in a sentence
    row_bins: Tensor  # (b, q, 32) bool: the relative bin of each row
    key_bins: Tensor  # (b, k, 32) fp64 0/1: that of each key
    places: PlaceFacts


def moved(facts: Prepared, device: torch.device) -> Moved:
    """The facts on a device; the second call with the same facts costs nothing."""
    if device not in facts.moved:
        facts.moved[device] = _move(facts, device)
    found: Moved = facts.moved[device]
    return found


def _move(facts: Prepared, device: torch.device) -> Moved:
    def on(array: Any, dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array), dtype=dtype).to(device)

    bins, index = np.arange(PATTERN_BINS), np.arange(facts.real.shape[1])[None, :, None]
    edges = facts.key_edges[:, None]  # (b, 1, 33)
    low = np.maximum(facts.lo, facts.placed[:, :1])
    high = np.maximum(np.where(facts.position >= 0, np.minimum(facts.hi, facts.placed[:, 1:]), low), low)
    uncut = (low == facts.lo) & (high == facts.hi)
    return Moved(
        lo=on(facts.lo, torch.int32),
        hi=on(facts.hi, torch.int32),
        rows=on(facts.seen > 0, torch.bool),
        near_lo=on(low, torch.int32),
        near_hi=on(high, torch.int32),
        all_placed=bool(uncut[facts.seen > 0].all()),
        visible=on(facts.seen, torch.float64),
        counted_keys=on(facts.counted_keys, torch.bool),
        told=on(facts.classes[:, -1], torch.float64),
        row_bins=on(facts.query_bin[:, :, None] == bins, torch.bool),
        key_bins=on((edges[:, :, :-1] <= index) & (index < edges[:, :, 1:]), torch.float64),
        places=_place_facts(facts, device),
    )


def _place_facts(facts: Prepared, device: torch.device) -> PlaceFacts:
    """Ids as the pass wants them: int32 from 0, -1 where there is none."""
    queries, keys, real = facts.queries, facts.keys, torch.from_numpy(facts.real)
    given: dict[str, Tensor] = {"first": torch.from_numpy(facts.first)}
    if queries.token_id is not None and keys.token_id is not None:
        given["query_token"], token = _ranks(queries, keys)
        given["key_token"] = token.masked_fill(~real, -1)
    if not facts.cross:
        given |= {"query_position": queries.position.int(), "key_position": keys.position.int()}
        if queries.sentence is not None and keys.sentence is not None:
            given["query_sentence"] = queries.sentence.int()
            given["key_sentence"] = keys.sentence.cpu().int().masked_fill(~real, -1)
        if queries.patch is not None and keys.patch is not None:
            given |= {"query_patch": queries.patch.float(), "key_patch": keys.patch.float()}
    return PlaceFacts(facts.cross, **{name: x.to(device).contiguous() for name, x in given.items()})


def _ranks(queries: TokenFacts, keys: TokenFacts) -> tuple[Tensor, Tensor]:
    """Token ids of both sides by their rank among those that occur, whatever their range."""
    assert queries.token_id is not None
    assert keys.token_id is not None
    mine, theirs = queries.token_id.cpu(), keys.token_id.cpu()
    ranks = torch.unique(torch.cat([mine.flatten(), theirs.flatten()]), return_inverse=True)[1].int()
    return ranks[: mine.numel()].view(mine.shape), ranks[mine.numel() :].view(theirs.shape)
