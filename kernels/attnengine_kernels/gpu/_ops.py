"""Attention calls as the arguments of a ``torch.library`` operator: plain tensors and numbers, in one fixed order.

A pass is one operator ``attnengine::<pass>``, so that ``torch.compile(fullgraph=True)`` of a caller sees a single node
with known shapes; its checks, and whatever must wait for the device, run inside the operator.
"""

from __future__ import annotations

from torch import Tensor

from attnengine_kernels.call import AttentionCall

FlatCall = tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, float, float | None, Tensor | None, Tensor | None, Tensor | None
]


def flat(call: AttentionCall) -> FlatCall:
    """The fields of a call in their order: what every operator of this package takes first."""
    return (
        call.query, call.key, call.value, call.lo, call.hi, call.scale, call.softcap, call.sink, call.bias, call.lse,
    )  # fmt: skip


def present(x: Tensor) -> Tensor | None:
    """An operator cannot return None: outputs that were not asked for come back empty."""
    return x if x.numel() else None
