"""What a call and its facts must look like: every path checks this first, in microseconds."""

from __future__ import annotations

import torch
from torch import Tensor

from attnengine_kernels.call import AttentionCall, TokenFacts


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")


def _shapes(call: AttentionCall) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in (call.query, call.key, call.value))


def check_call(call: AttentionCall) -> None:
    """Raise ValueError if the tensors of a call do not fit together."""
    if call.query.ndim != 4 or call.key.ndim != 4 or call.value.ndim != 4:
        raise ValueError(
            "query, key, value: expected 4 dimensions (window, head, position, feature), got "
            f"{call.query.ndim}, {call.key.ndim}, {call.value.ndim}"
        )
    if 0 in call.query.shape or 0 in call.key.shape or 0 in call.value.shape:
        raise ValueError(f"query, key, value: expected no empty dimension, got {_shapes(call)}")
    b, h, n_query, d = call.query.shape
    hkv, n_key = call.key.shape[1:3]
    if hkv == 0 or h % hkv:
        raise ValueError(f"query heads: expected a multiple of the {hkv} key heads, got {h}")
    _expect("key", call.key, (b, hkv, n_key, d))
    _expect("value", call.value, (b, hkv, n_key, call.value.shape[3]))
    _expect("lo", call.lo, (b, n_query))
    _expect("hi", call.hi, (b, n_query))
    if call.sink is not None:
        _expect("sink", call.sink, (h,))
    if call.lse is not None:
        _expect("lse", call.lse, (b, h, n_query))
    if call.bounds is not None:
        _expect("bounds", call.bounds, (2, b, n_query))
    if call.softcap is not None and not call.softcap > 0:
        raise ValueError(f"softcap: expected a positive number or None, got {call.softcap}")
    if call.bias is not None:
        _check_bias(call.bias, (b, h, n_query, n_key))
    for name, tensor in (("query", call.query), ("key", call.key), ("value", call.value)):
        if not tensor.is_floating_point():
            raise ValueError(f"{name}: expected a floating dtype, got {tensor.dtype}")
    for name in ("key", "value", "lo", "hi", "sink", "bias", "lse"):
        tensor = getattr(call, name)
        if tensor is not None and tensor.device != call.query.device:
            raise ValueError(f"{name}: expected the device of query, {call.query.device}, got {tensor.device}")


def _check_bias(bias: Tensor, full: tuple[int, ...]) -> None:
    fits = bias.ndim == 4 and all(size in (1, whole) for size, whole in zip(bias.shape[:2], full[:2], strict=True))
    if not fits or tuple(bias.shape[2:]) != full[2:]:
        raise ValueError(f"bias: expected shape {full}, the first two sizes also 1, got {tuple(bias.shape)}")


def hidden_pairs(bias: Tensor | None) -> Tensor | None:
    """(1 or b, q, k) bool: pairs that a bias of -inf hides, or None if it hides none.

    Counts of rows and pairs belong to a window, not to a head (:mod:`attnengine_kernels.sums`), so a bias that
    hides different pairs in different heads is refused with a ValueError.
    """
    if bias is None:
        return None
    hidden = torch.isneginf(bias)
    if not bool(hidden.any()):
        return None
    if not torch.equal(hidden, hidden[:, :1].expand_as(hidden)):
        raise ValueError("bias: expected -inf at the same pairs in every head, got heads that see different keys")
    return hidden[:, 0]


def check_facts(facts: TokenFacts, side: str, batch: int, length: int) -> None:
    """Raise ValueError if the facts of one stream do not fit the call, or its positions do not rise by one."""
    for name in ("real", "counted", "position"):
        _expect(f"{side}.{name}", getattr(facts, name), (batch, length))
    for name, tensor in facts.classes.items():
        _expect(f"{side}.classes[{name!r}]", tensor, (batch, length))
    for name in ("token_id", "sentence"):
        tensor = getattr(facts, name)
        if tensor is not None:
            _expect(f"{side}.{name}", tensor, (batch, length))
    if facts.patch is not None:
        _expect(f"{side}.patch", facts.patch, (batch, length, 2))
    # Offsets are added as shifted vectors, which needs position = index - constant wherever there is a position.
    start = torch.arange(length, device=facts.position.device) - facts.position
    placed = facts.position >= 0
    low = start.masked_fill(~placed, length).amin(dim=1) if length else start.sum(dim=1)
    if bool((placed & (start != low[:, None])).any()):
        raise ValueError(
            f"{side}.position: expected positions that rise by one from token to token, got {facts.position}"
        )


def check_length(queries: TokenFacts, keys: TokenFacts, max_length: int) -> None:
    """Raise ValueError if a position lies outside the profile that ``max_length`` makes."""
    last = max((int(facts.position.max()) for facts in (queries, keys) if facts.position.numel()), default=-1)
    if last >= max_length:
        raise ValueError(f"max_length: expected more than the last position, {last}, got {max_length}")
