"""Masks as intervals: which keys each row of one forward may see.

Transformers hands every attention call a mask in one of three forms: nothing at all (then ``is_causal`` decides),
a boolean tensor, or a floating one that is added to the scores. The kernels want two int32 numbers a row. In 110
cases tried, every boolean mask was one interval of keys per row or absent, so the dense form is kept, as a bias of
-inf, only where a row sees a set of keys with holes in it or where the floating mask says more than "hidden".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from attnengine.errors import CaptureError

T = TypeVar("T")

DENSE_MASK_LIMIT = 64 * 2**20  # bytes; above it the batch is to be split instead
HIDDEN_BELOW = -1e8  # an additive entry this low leaves exp(score) = 0 whatever the score: the pair is hidden


class DenseMaskError(CaptureError):
    """A batch needs a dense mask larger than :data:`DENSE_MASK_LIMIT`: run ``rows`` windows at a time instead."""

    def __init__(self, needed: int, batch: int):
        self.rows = max(batch * DENSE_MASK_LIMIT // needed, 1)
        super().__init__(
            f"a batch of {batch} windows needs a dense attention mask of {needed / 2**20:.0f} MB, more than "
            f"{DENSE_MASK_LIMIT // 2**20} MB: split it into batches of {self.rows}"
        )


def refuse_large_mask(batch: int, pairs: int, bytes_per_pair: int) -> None:
    """Raise :class:`DenseMaskError` if several windows, of ``pairs`` pairs each, together exceed the limit.

    One window alone is never refused: there is nothing to split, and the model itself needs that mask.
    """
    needed = batch * pairs * bytes_per_pair
    if batch > 1 and needed > DENSE_MASK_LIMIT:
        raise DenseMaskError(needed, batch)


@dataclass(frozen=True)
class Visibility:
    """What the rows of one attention call see; see :class:`attnengine_kernels.call.AttentionCall`."""

    lo: Tensor  # (b, q) int32
    hi: Tensor  # (b, q) int32
    bias: Tensor | None  # (1 or b, 1 or h, q, k), -inf hides


class MaskReader:
    """Reads the masks of one forward, each once: layers that share a mask get the very same ``lo`` and ``hi``.

    The kernels keep what they derive from ``lo`` and ``hi`` by identity. Masks are told apart by where their numbers
    lie in memory (some models slice the same mask anew in each layer); the reader keeps a reference to each mask, so
    that no address can be used again while it lives. Intervals that come out equal are shared as well.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], tuple[object, Any]] = {}
        self._intervals: list[tuple[Tensor, Tensor]] = []

    def read(
        self, mask: Tensor | None, position_bias: Tensor | None, causal: bool, query: Tensor, key: Tensor
    ) -> Visibility:
        """The visibility of a call of ``query`` (b, h, q, d) on ``key`` (b, hkv, k, d).

        ``causal`` counts only where ``mask`` is None, as in stock SDPA: row i then sees the keys j <= i.
        """
        shape = (query.shape[0], query.shape[2], key.shape[2])
        found = self._visibility(mask, causal, shape, query)
        if position_bias is None:
            return found
        extra = self._visibility(position_bias, False, shape, query)
        if extra.bias is None and not _hides(extra, shape[2]):
            return found
        identity = ("sum", id(found), id(extra))
        return self._once(identity, (found, extra), lambda: _combine(found, extra))

    def additive(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """A boolean mask as 0 and -inf of ``dtype``, with the broadcast (stride 0) dimensions kept broadcast."""

        def make() -> Tensor:
            small = _without_broadcast(mask)
            zero = torch.zeros((), dtype=dtype, device=mask.device)
            return torch.where(small, zero, float("-inf")).expand(mask.shape)

        return self._once(("additive", dtype, *_identity(mask)), mask, make)

    def _visibility(self, mask: Tensor | None, causal: bool, shape: tuple[int, int, int], query: Tensor) -> Visibility:
        identity = ("mask", *_identity(mask), causal, shape, query.device, query.dtype)

        def make() -> Visibility:
            found = _unmasked(causal, shape, query.device) if mask is None else _read(mask, shape, query.dtype)
            return self._share(found)

        return self._once(identity, mask, make)

    def widest(self, seen: Visibility) -> int:
        """The largest number of keys between ``lo`` and ``hi`` of any row."""
        return self._once(("widest", id(seen)), seen, lambda: int((seen.hi - seen.lo).max()))

    def _once(self, identity: tuple[Any, ...], alive: object, make: Callable[[], T]) -> T:
        """What ``make`` returned the first time; ``alive`` is held on to, so that its identity stays its own."""
        if identity not in self._kept:
            self._kept[identity] = (alive, make())
        return self._kept[identity][1]

    def _share(self, found: Visibility) -> Visibility:
        """The same rows with the ``lo`` and ``hi`` of an earlier mask, where that one has equal intervals."""
        for lo, hi in self._intervals:
            if lo.device == found.lo.device and torch.equal(lo, found.lo) and torch.equal(hi, found.hi):
                return Visibility(lo, hi, found.bias)
        self._intervals.append((found.lo, found.hi))
        return found


def _identity(mask: Tensor | None) -> tuple[Any, ...]:
    return () if mask is None else (mask.data_ptr(), tuple(mask.shape), mask.stride(), mask.dtype)


def _hides(found: Visibility, keys: int) -> bool:
    return bool((found.lo > 0).any() or (found.hi < keys).any())


def _unmasked(causal: bool, shape: tuple[int, int, int], device: torch.device) -> Visibility:
    batch, rows, keys = shape
    lo = torch.zeros(batch, rows, dtype=torch.int32, device=device)
    if not causal:
        return Visibility(lo, torch.full_like(lo, keys), None)
    hi = torch.arange(1, rows + 1, dtype=torch.int32, device=device).clamp(max=keys)
    return Visibility(lo, hi.expand(batch, rows).contiguous(), None)


def _without_broadcast(mask: Tensor) -> Tensor:
    """The same numbers with every stride-0 dimension cut to length 1."""
    for axis, (length, stride) in enumerate(zip(mask.shape, mask.stride(), strict=True)):
        if stride == 0 and length > 1:
            mask = mask.narrow(axis, 0, 1)
    return mask


def _read(mask: Tensor, shape: tuple[int, int, int], dtype: torch.dtype) -> Visibility:
    """Intervals (and, where they do not say all, a bias) of one boolean or additive mask."""
    if mask.dim() != 4:
        raise CaptureError(f"an attention mask of 4 dimensions was expected, got {tuple(mask.shape)}")
    small = _without_broadcast(mask)  # (1 or b, 1 or h, 1 or q, 1 or k)
    visible, finite = small, None
    if mask.dtype != torch.bool:
        limit = max(torch.finfo(mask.dtype).min / 2, HIDDEN_BELOW)
        visible = ~(small <= limit)  # NaN is visible: it must reach the statistics as it reaches the model
        if bool((small.masked_fill(~visible, 0) != 0).any()):
            finite = small
        dtype = mask.dtype
    lo, hi, whole = _intervals(visible, shape)
    if whole and finite is None:
        return Visibility(lo, hi, None)
    refuse_large_mask(small.shape[0], small.shape[1] * shape[1] * shape[2], torch.finfo(dtype).bits // 8)
    score = torch.zeros((), dtype=dtype, device=mask.device) if finite is None else finite
    bias = torch.where(visible, score, float("-inf"))
    return Visibility(lo, hi, bias.expand(-1, -1, shape[1], shape[2]))


def _intervals(visible: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, bool]:
    """``lo`` and ``hi`` (b, q) around the visible keys, and whether they say all there is to say."""
    batch, rows, keys = shape
    any_head = visible.any(1)  # (1 or b, 1 or q, 1 or k)
    alike = visible.shape[1] == 1 or bool((visible == any_head[:, None]).all())
    row = any_head.expand(-1, -1, keys)
    count = row.sum(-1)
    bits = row.to(torch.uint8)
    first = bits.argmax(-1)
    last = keys - bits.flip(-1).argmax(-1)
    empty = count == 0
    lo, hi = first.masked_fill(empty, 0), last.masked_fill(empty, 0)
    whole = alike and bool((hi - lo == count).all())
    lo, hi = (bound.to(torch.int32).expand(batch, rows).contiguous() for bound in (lo, hi))
    return lo, hi, whole


def _combine(found: Visibility, extra: Visibility) -> Visibility:
    """Visible where both are; biases add."""
    lo, hi = found.lo, found.hi
    if not (torch.equal(torch.maximum(lo, extra.lo), lo) and torch.equal(torch.minimum(hi, extra.hi), hi)):
        lo = torch.maximum(lo, extra.lo)
        hi = torch.maximum(torch.minimum(hi, extra.hi), lo)
    biases = [bias for bias in (found.bias, extra.bias) if bias is not None]
    return Visibility(lo, hi, sum(biases[1:], biases[0]) if biases else None)
