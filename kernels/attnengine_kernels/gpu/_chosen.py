"""Chosen query rows: what the passes over some rows of a call (:mod:`.product`, :mod:`.top_keys`) check first."""

from __future__ import annotations

import torch
from torch import Tensor

from attnengine_kernels.call import AttentionCall


def check_rows(call: AttentionCall, rows: Tensor) -> Tensor:
    """``rows`` as contiguous int64 on the call's device; ValueError for a shape that is not (n, 2) or rows outside."""
    b, n_query = call.query.shape[0], call.query.shape[2]
    if rows.ndim != 2 or rows.shape[1] != 2:
        raise ValueError(f"rows: expected (n, 2) pairs of window and query, got {tuple(rows.shape)}")
    if rows.is_floating_point() or rows.dtype == torch.bool:
        raise TypeError(f"rows: expected integers, got {rows.dtype}")
    bound = torch.tensor([b, n_query], device=rows.device)
    if bool(((rows < 0) | (rows >= bound)).any()):
        raise ValueError(f"rows: expected windows below {b} and queries below {n_query}, got {rows.amax(0).tolist()}")
    return rows.to(call.query.device, torch.int64).contiguous()


def chosen_visible(call: AttentionCall, rows: Tensor, hidden: Tensor | None) -> Tensor:
    """(n, k) bool: the keys that each chosen row sees; ``hidden`` as :func:`.._check.hidden_pairs` gives it."""
    window, position = rows.unbind(1)
    j = torch.arange(call.key.shape[2], device=rows.device)
    visible = (call.lo[window, position, None] <= j) & (j < call.hi[window, position, None])
    return visible if hidden is None else visible & ~hidden[window % hidden.shape[0], position]


def chosen_lse(call: AttentionCall, rows: Tensor, total: Tensor) -> Tensor:
    """Log-sum-exp (n, h) fp32 of the chosen rows: the call's own, or ``total`` (over their keys) with the sink."""
    if call.lse is not None:
        return call.lse[rows[:, 0], :, rows[:, 1]].float()
    return total if call.sink is None else torch.logaddexp(total, call.sink.float())
