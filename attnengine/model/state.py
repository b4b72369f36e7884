"""The weights of a model in memory: what identifies them, and whether they are all there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from attnengine.errors import ModelError, UnsupportedModelError

UNUSED = ("pooler", "mask_token")  # weights that no attention call depends on; checkpoints often lack them


def require_whole(model: PreTrainedModel) -> None:
    """UnsupportedModelError for a model of which this process holds a part, ModelError for weights not in memory.

    Under tensor parallelism a rank's attention calls have its own share of the heads (transformers 5.23, Llama with
    tp_plan="auto" on two ranks: 4 of 8), so that what looks like a whole run would be that of half the heads.
    """
    ranks = getattr(model, "tp_size", None) or 1
    if ranks > 1:
        raise UnsupportedModelError(
            f"the model is split over {ranks} ranks by tensor parallelism, and each sees its own heads only; load it "
            "whole, with device_map='auto' if one device is too small"
        )
    away = [name for name, value in model.named_parameters() if value.device.type == "meta"]
    if away:
        raise ModelError(
            f"{len(away)} weights of the model are not in memory (the first: {away[0]}), as when device_map offloads "
            "them; load it with a device_map of devices that hold it all"
        )


def hash_state(model: PreTrainedModel) -> str:
    """SHA-256 over names, types, shapes and bytes of the sorted state dict: what identifies a model in memory.

    What no attention call depends on is left out: a pooler is there or not, and often random, as the class has it.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if any(part in name for part in UNUSED):
            continue
        for part, tensor in _plain(name, value):
            digest.update(f"{part} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """The plain tensors that a state dict's entry is made of: quantised weights are data, scales and zero points."""
    if isinstance(value, tuple | list):  # packed parameters of torch's own quantised layers
        for index, one in enumerate(value):
            yield from _plain(f"{name}.{index}", one)
    elif not isinstance(value, Tensor):
        yield f"{name}={value}", torch.zeros(0)
    elif value.is_quantized:
        yield name, value.dequantize()
    elif hasattr(value, "__tensor_flatten__"):  # how subclasses tell torch.compile what they hold
        for inner in value.__tensor_flatten__()[0]:
            yield from _plain(f"{name}.{inner}", getattr(value, inner))
    else:
        yield name, value
