"""Masks as intervals: which keys each row of one forward may see.

Transformers hands every attention call a mask in one of three forms: nothing at all (then ``is_causal`` decides),
a boolean tensor, or a floating one that is added to the scores. The kernels want two int32 numbers a row. In 110
cases tried, every boolean mask was one interval of keys per row or absent, so the dense form is kept, as a bias of
-inf, only where a row sees a set of keys with holes in it or where the floating mask says more than "hidden".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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

    bounds: Tensor  # (2, b, q) int32 on the host: lo, hi
    lo: Tensor  # (b, q) int32 on the call's device
    hi: Tensor  # (b, q) int32
    bias: Tensor | None  # (1 or b, 1 or h, q, k), -inf hides

    @classmethod
    def of(cls, bounds: Tensor, bias: Tensor | None, device: torch.device) -> Visibility:
        """The intervals (2, b, q) of the host, on the device too."""
        lo, hi = bounds.to(device)
        return cls(bounds, lo, hi, bias)


class MaskReader:
    """Reads the masks of one forward, each once: layers that share a mask get the very same ``lo`` and ``hi``.

    The kernels keep what they derive from ``lo`` and ``hi`` by identity. Masks are told apart by where their numbers
    lie in memory (some models slice the same mask anew in each layer); the reader keeps a reference to each mask, so
    that no address can be used again while it lives. Intervals that come out equal are shared as well. What a mask says
    comes to the host in one copy, the only time that capture waits for the device.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], tuple[object, Any]] = {}
        self._intervals: list[Visibility] = []

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
        return int((seen.bounds[1] - seen.bounds[0]).max())

    def _once(self, identity: tuple[Any, ...], alive: object, make: Callable[[], T]) -> T:
        """What ``make`` returned the first time; ``alive`` is held on to, so that its identity stays its own."""
        if identity not in self._kept:
            self._kept[identity] = (alive, make())
        return self._kept[identity][1]

    def _share(self, found: Visibility) -> Visibility:
        """The same rows with the ``lo`` and ``hi`` of an earlier mask, where that one has equal intervals."""
        for known in self._intervals:
            if known.lo.device == found.lo.device and torch.equal(known.bounds, found.bounds):
                return replace(known, bias=found.bias)
        self._intervals.append(found)
        return found


def _identity(mask: Tensor | None) -> tuple[Any, ...]:
    return () if mask is None else (mask.data_ptr(), tuple(mask.shape), mask.stride(), mask.dtype)


def _hides(found: Visibility, keys: int) -> bool:
    return bool((found.bounds[0] > 0).any() or (found.bounds[1] < keys).any())


def _unmasked(causal: bool, shape: tuple[int, int, int], device: torch.device) -> Visibility:
    batch, rows, keys = shape
    bounds = torch.zeros(2, batch, rows, dtype=torch.int32)
    bounds[1] = torch.arange(1, rows + 1).clamp(max=keys) if causal else keys
    return Visibility.of(bounds, None, device)


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
    visible = small
    says_more = torch.zeros((), dtype=torch.bool, device=mask.device)
    if mask.dtype != torch.bool:
        limit = max(torch.finfo(mask.dtype).min / 2, HIDDEN_BELOW)
        visible = ~(small <= limit)  # NaN is visible: it must reach the statistics as it reaches the model
        says_more = (small.masked_fill(~visible, 0) != 0).any()
        dtype = mask.dtype
    bounds, whole, finite = _on_host(*_intervals(visible, shape[2]), says_more)
    bounds = bounds.expand(2, *shape[:2]).contiguous()
    if whole and not finite:
        return Visibility.of(bounds, None, mask.device)
    refuse_large_mask(small.shape[0], small.shape[1] * shape[1] * shape[2], torch.finfo(dtype).bits // 8)
    score = small if finite else torch.zeros((), dtype=dtype, device=mask.device)
    bias = torch.where(visible, score, float("-inf"))
    return Visibility.of(bounds, bias.expand(-1, -1, shape[1], shape[2]), mask.device)


def _intervals(visible: Tensor, keys: int) -> tuple[Tensor, Tensor]:
    """``lo`` and ``hi`` (2, 1 or b, 1 or q) around the visible keys, and whether they say all there is to say."""
    any_head = visible.any(1)  # (1 or b, 1 or q, 1 or k)
    row = any_head.expand(-1, -1, keys)
    count = row.sum(-1)
    bits = row.to(torch.uint8)
    first = bits.argmax(-1)
    last = keys - bits.flip(-1).argmax(-1)
    bounds = torch.stack([first, last]).masked_fill(count == 0, 0)
    return bounds, (visible == any_head[:, None]).all() & (bounds[1] - bounds[0] == count).all()


def _on_host(bounds: Tensor, whole: Tensor, finite: Tensor) -> tuple[Tensor, bool, bool]:
    """The intervals as int32 and the two answers, in one copy."""
    told = torch.cat([bounds.flatten(), whole[None], finite[None]]).to(torch.int32).cpu()
    return told[:-2].view(bounds.shape), bool(told[-2]), bool(told[-1])


def _combine(found: Visibility, extra: Visibility) -> Visibility:
    """Visible where both are; biases add."""
    (lo, hi), (other_lo, other_hi) = found.bounds, extra.bounds
    biases = [bias for bias in (found.bias, extra.bias) if bias is not None]
    bias = sum(biases[1:], biases[0]) if biases else None
    if bool((other_lo <= lo).all() and (other_hi >= hi).all()):
        return replace(found, bias=bias)
    lo = torch.maximum(lo, other_lo)
    return Visibility.of(torch.stack([lo, torch.maximum(torch.minimum(hi, other_hi), lo)]), bias, found.lo.device)
