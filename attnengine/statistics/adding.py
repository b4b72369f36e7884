"""Sums by index, in an order that is always the same."""

from __future__ import annotations

from torch import Tensor


def add_at(total: Tensor, index: Tensor, value: Tensor) -> None:
    """``total[index[n]] += value[n]`` for n = 0, 1, …; ``index`` (n,) int64, all on one device, none is waited for.

    On the CPU index_add_ goes through the rows in order. On CUDA it adds as threads come; index_put_ sorts by index
    first, so that the same rows give the same bits (torch 2.13, ``aten/src/ATen/native/cuda/Indexing.cu``).
    """
    if total.device.type == "cpu":
        total.index_add_(0, index, value)
    else:
        total.index_put_((index,), value, accumulate=True)
