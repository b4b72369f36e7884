"""The one place that knows transformers' attention interface.

Our attention function and our mask function are registered together under one name: a name without a mask function
gets ``attention_mask=None`` everywhere, without a message. Registering happens at first use, not at import, and
changes no model; a model runs under the name only inside :func:`running`, which puts everything back.

Which forward a call belongs to is held in a context variable, so several threads may each capture their own model.
One model serves one capture at a time: its configuration is changed while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

from attnengine.errors import CaptureError
from attnengine.model.masks import refuse_large_mask

NAME = "attnengine"
STOCK = "stock"  # for `running`: what transformers itself would choose, SDPA where the model supports it, else eager


class Receiver(Protocol):
    """Computes the attention calls of one forward."""

    def attend(
        self, module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
    ) -> Tensor:
        """Output (b, q, h, dv) of query (b, h, q, d), key (b, hkv, k, d) and value (b, hkv, k, dv)."""
        ...


_receiver: ContextVar[Receiver | None] = ContextVar("attnengine_receiver", default=None)


@contextmanager
def receiving(receiver: Receiver) -> Iterator[None]:
    """Attention calls made by this thread inside the block go to ``receiver``."""
    token = _receiver.set(receiver)
    try:
        yield
    finally:
        _receiver.reset(token)


@contextmanager
def running(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    """Inside the block ``model`` runs under ``implementation``, without cache, in eval mode; then as it was before.

    Raises CaptureError if the model is being captured already.
    """
    if implementation == NAME:
        AttentionInterface.register(NAME, _attention)
        AttentionMaskInterface.register(NAME, _mask)
    configs = _configs(model)
    if any(config._attn_implementation == NAME for config in configs):
        raise CaptureError(f"{type(model).__name__} is being captured already: one capture of a model at a time")
    without_sdpa = {id(config) for config in configs_without_sdpa(model)}
    before = [(config, config._attn_implementation, getattr(config, "use_cache", None)) for config in configs]
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        for config, _, use_cache in before:
            name = implementation
            if implementation == STOCK:
                name = "eager" if id(config) in without_sdpa else "sdpa"
            config._attn_implementation_internal = name  # the public setter also writes to every sub-configuration
            if use_cache:
                config.use_cache = False
        yield
    finally:
        for config, name, use_cache in before:
            config._attn_implementation_internal = name
            if use_cache:
                config.use_cache = use_cache
        for module in training:
            module.training = True


def configs_without_sdpa(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """Configurations of the parts of ``model`` that SDPA does not compute right; empty for most models.

    Transformers says so itself, except that up to 5.17 it let Gemma2 run under SDPA, which drops the soft-cap.
    """
    parts = (part for part in model.modules() if isinstance(part, PreTrainedModel))
    return [part.config for part in parts if not part._supports_sdpa or _is_capped(part.config)]


def _is_capped(config: PreTrainedConfig) -> bool:
    return getattr(config, "attn_logit_softcapping", None) is not None


def _configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """Every configuration object that the model, its parts and their sub-configurations read, each once."""
    waiting = [getattr(module, "config", None) for module in model.modules()]
    found: dict[int, PreTrainedConfig] = {}
    while waiting:
        config = waiting.pop()
        if isinstance(config, PreTrainedConfig) and id(config) not in found:
            found[id(config)] = config
            waiting.extend(getattr(config, name, None) for name in config.sub_configs)
    return list(found.values())


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: query (b, h, q, d), key (b, hkv, k, d), value (b, hkv, k, dv) → (b, q, h, dv)."""
    receiver = _receiver.get()
    if receiver is None:
        raise CaptureError(
            f"{type(module).__name__} runs while its model is being captured, but outside Capture.forward or in "
            "another thread: call Capture.forward, or leave the with-block first"
        )
    return receiver.attend(module, query, key, value, attention_mask, **kwargs), None


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """The boolean mask stock SDPA gets, or None where stock leaves it out; refused where it would be too large."""
    function = kwargs.get("mask_function")
    if function is not None and function is not bidirectional_mask_function:  # that one stays (b, 1, 1, k)
        kwargs["mask_function"] = _guarded(function, kwargs)
    return sdpa_mask(*args, **kwargs)


def _guarded(function: Callable[..., Any], kwargs: dict[str, Any]) -> Callable[..., Any]:
    """``function``, evaluated only if the mask of (batch, q, k) fits; sdpa_mask calls it only for a dense mask."""

    def guarded(*indices: Tensor) -> Any:
        width = 1 + torch.finfo(kwargs.get("dtype", torch.float32)).bits // 8  # boolean, and additive for the kernel
        refuse_large_mask(kwargs["batch_size"], kwargs["q_length"] * kwargs["kv_length"], width)
        return function(*indices)

    return guarded
