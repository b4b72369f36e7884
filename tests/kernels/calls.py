"""Calls chosen to hurt, shared by the tests of the Triton kernels: masks, head groups, scores that lose digits, poison.

They run where Triton runs: on a CUDA device if there is one, else in the interpreter (tests/conftest.py).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from attnengine_kernels.call import AttentionCall

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def intervals(kind: str, n_query: int, n_key: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    """lo, hi (batch, n_query) int32 of a named mask; causal ones are aligned at the bottom right."""
    i = torch.arange(n_query)
    end = (i + 1 + n_key - n_query).clamp(0, n_key)
    lo, hi = {
        "full": (torch.zeros(n_query), torch.full((n_query,), n_key)),
        "causal": (torch.zeros(n_query), end),
        "window": ((end - 11).clamp(min=0), end),
        "wide window": ((end - 70).clamp(min=0), end),
        "right padding": (torch.zeros(n_query), torch.where(i < n_query - 7, n_key - 7, 0)),
        "left padding": (torch.where(i < 9, 0, 9), torch.where(i < 9, 0, end.clamp(min=9))),
        "packed": (_packed(n_query)[0].clamp(max=n_key), _packed(n_query)[1].clamp(max=n_key)),
        "one key": (i % n_key, i % n_key + 1),
    }[kind]
    return lo.int().expand(batch, -1).contiguous(), hi.int().expand(batch, -1).contiguous()


def _packed(n: int) -> tuple[Tensor, Tensor]:
    """Documents of 5, 1 and 40 tokens, two rows of padding between them, and one document of the rest."""
    bounds = [(0, 5), (5, 6), (6, 46), (46, 48), (48, max(n, 49))]
    lo = torch.cat([torch.full((b - a,), a) for a, b in bounds])[:n]
    hi = torch.cat([torch.full((b - a,), 46 if a == 46 else b) for a, b in bounds])[:n]
    return lo, hi


def make_call(
    mask: str = "causal", n_query: int = 113, n_key: int | None = None, *, batch: int = 1, h: int = 2, hkv: int = 1,
    d: int = 32, dtype: torch.dtype = torch.float32, seed: int = 0, bias: bool = False, sink: bool = False,
    softcap: float | None = None,
) -> AttentionCall:  # fmt: skip
    """A seeded random call in the layout of transformers: (b, l, h, d) storage seen as (b, h, l, d)."""
    make = torch.Generator().manual_seed(seed)
    n_key = n_query if n_key is None else n_key
    q = torch.randn(batch, n_query, h, d, generator=make).to(DEVICE, dtype).transpose(1, 2)
    k = (torch.randn(batch, n_key, hkv, d, generator=make) + 0.5).to(DEVICE, dtype).transpose(1, 2)
    lo, hi = intervals(mask, n_query, n_key, batch)
    slope = -0.1 * (torch.arange(n_query)[:, None] - torch.arange(n_key)[None, :]).abs().float()
    return AttentionCall(
        query=q, key=k, value=k, lo=lo.to(DEVICE), hi=hi.to(DEVICE), scale=d**-0.5, softcap=softcap,
        sink=torch.linspace(-1.0, 2.0, h).to(DEVICE) if sink else None,
        bias=(slope * torch.linspace(0.5, 1.0, h)[:, None, None])[None].to(DEVICE) if bias else None,
    )  # fmt: skip


def poisoned(call: AttentionCall) -> AttentionCall:
    """NaN in every key that no row sees and in every query row that sees none."""
    j = torch.arange(call.key.shape[2], device=call.lo.device)
    seen = ((call.lo[..., None] <= j) & (j < call.hi[..., None])).any(dim=1)  # (b, k)
    query = torch.where((call.hi > call.lo)[:, None, :, None], call.query, torch.nan)
    return replace(call, query=query, key=torch.where(seen[:, None, :, None], call.key, torch.nan))


def adversarial(name: str, n: int = 65, d: int = 32) -> AttentionCall:
    """A causal call whose scores are of one extreme kind."""
    call = make_call("causal", n, d=d)
    q, k = call.query.clone(), call.key.clone()
    if name == "all equal":
        k = k[:, :, :1].expand_as(k).contiguous()
    elif name == "one sink":  # every row puts nearly all of its mass on key 0
        q[..., 0], k[..., 0] = 20.0, 0.0
        k[:, :, 0, 0] = 10.0
    elif name == "offset":  # every score is 115 larger: raw sums of p s and of s^2 lose their digits
        q[..., 0], k[..., 0] = 10.0, 11.5 * d**0.5
    return replace(call, query=q, key=k)
