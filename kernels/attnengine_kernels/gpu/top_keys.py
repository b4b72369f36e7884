"""The heaviest keys of chosen query rows, in one sweep over each row's visible keys.

    top-r of s_ij over j, p_ij = exp(s_ij - lse_i), H_i = -Σ_j p^_ij log p^_ij

A score and its key's index are packed into one integer that sorts as (score, lower index first), so the running top-r
of a tile's r and the list's r is a bitonic network without ties. 2 D FLOPs a visible pair, on plain fp32 units (rows
are vectors), K read once a row and query head, from L2 where rows share a window; O(r) bytes a row and head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from jaxtyping import Float32, Int, Int32
from torch import Tensor

from attnengine_kernels._check import hidden_pairs
from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu._chosen import check_rows
from attnengine_kernels.gpu._launch import Shipped, Tile, check_triton, padded_dim, unit_stride
from attnengine_kernels.gpu._ops import flat
from attnengine_kernels.gpu._top_keys_kernel import top_kernel

MAX_TOP = 64
ELEMENTS = 16384  # of a program's (keys, dims) tile: 64 a thread


@dataclass(frozen=True)
class TopKeys:
    """Per chosen row and head, heaviest first, equal scores by lower index; -1 and 0 beyond the visible keys."""

    weights: Float32[Tensor, "n h r"]  # p_ij
    keys: Int32[Tensor, "n h r"]
    entropy: Float32[Tensor, "n h"]  # of p renormalised over the keys, nats


def top_keys(call: AttentionCall, rows: Int[Tensor, "n 2"], *, top: int = 16) -> TopKeys:
    """The ``top`` (1 to 64) heaviest keys of the (window, query) pairs ``rows``, see :class:`TopKeys`.

    What :func:`attnengine_kernels.sampled_rows` gives, from fp32 scores as there; keys whose scores agree to fp32's
    rounding may change places. ``call.lse`` is trusted, and made here (with the sink) if None. A NaN score counts as
    the greatest and makes the row's weights and entropy NaN. Raises ValueError or TypeError for rows outside the call,
    a bias that hides other pairs in other heads, and what the kernels do not take.
    """
    return TopKeys(*_top_keys(*flat(call), rows, top))


@torch.library.custom_op("attnengine::top_keys", mutates_args=())
def _top_keys(
    query: Tensor, key: Tensor, value: Tensor, lo: Tensor, hi: Tensor, scale: float, softcap: float | None,
    sink: Tensor | None, bias: Tensor | None, lse: Tensor | None, rows: Tensor, top: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    call = AttentionCall(query, key, value, lo, hi, scale, softcap, sink, bias, lse)
    check_triton(call)
    if not 1 <= top <= MAX_TOP:
        raise ValueError(f"top: expected 1…{MAX_TOP}, got {top}")
    hidden_pairs(bias)  # refuses heads that see different keys
    chosen = check_rows(call, rows)
    q, k = unit_stride(query), unit_stride(key)
    (b, h, n_rows, d), (hkv, n_keys) = q.shape, k.shape[1:3]
    weights, entropy = (torch.empty(len(chosen), h, *s, device=q.device) for s in ((top,), ()))
    keys = torch.empty(len(chosen), h, top, dtype=torch.int32, device=q.device)
    dense, tile = None if bias is None else bias.expand(b, h, n_rows, n_keys), top_tile(d, query.dtype)
    if len(chosen):
        top_kernel[(len(chosen) * h,)](
            q, k, lo.contiguous(), hi.contiguous(), chosen, None if lse is None else lse.float().contiguous(),
            None if sink is None else sink.float(), dense, weights, keys, entropy, h, h // hkv, n_rows, n_keys, top,
            scale, softcap or 0.0, *q.stride()[:3], *k.stride()[:3],
            *(dense.stride() if dense is not None else (0,) * 4), D=d, DP=padded_dim(d), N=tile.n,
            R=max(2, triton.next_power_of_2(top)), SOFTCAP=softcap is not None, HAS_LSE=lse is not None,
            HAS_SINK=sink is not None, HAS_BIAS=dense is not None, **tile.options(),
        )  # fmt: skip
    return weights, keys, entropy


@_top_keys.register_fake
def _(query: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor]:
    rows, top = rest[-2:]
    assert isinstance(rows, Tensor)
    assert isinstance(top, int)
    n, h = rows.shape[0], query.shape[1]
    weights = query.new_empty((n, h, top), dtype=torch.float32)
    return weights, torch.empty_like(weights, dtype=torch.int32), query.new_empty((n, h), dtype=torch.float32)


def top_tile(d: int, dtype: torch.dtype) -> Tile:
    """Keys of a tile, 64 at least so that it holds the greatest ``top``; one row, so ``m`` is 1."""
    if dtype == torch.float32 and padded_dim(d) == 128:  # eight warps spill
        return Tile(1, 64, 64, 4, 1)
    n = min(max(ELEMENTS // padded_dim(d), MAX_TOP), 256)
    return Tile(1, n, n, 8, 1)


def shipped(_arch: int, d: int, dtype: torch.dtype) -> list[Shipped]:
    """The launches of this module on a plain call, for the ahead-of-time compiler: the default and the longest list."""
    element = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}[dtype]
    strides = [f"{x}_{axis}" for x in "qk" for axis in "bhl"]
    types = dict.fromkeys(["n_heads", "group", "n_rows", "n_keys", "top", *strides], "i32")
    types |= {"Q": element, "K": element, "LO": "*i32", "HI": "*i32", "ROWS": "*i64", "KEYS": "*i32"}
    types |= dict.fromkeys(("scale", "softcap"), "fp32") | dict.fromkeys(("WEIGHTS", "ENTROPY"), "*fp32")
    absent = dict.fromkeys(("LSE", "SINK", "BIAS", "a_b", "a_h", "a_q", "a_k"))
    tile = top_tile(d, dtype)
    shape = {"D": d, "DP": padded_dim(d), "N": tile.n, "SOFTCAP": False, "HAS_BIAS": False}
    shape |= {"HAS_LSE": False, "HAS_SINK": False}
    return [(f"top keys {r}", top_kernel, types, absent | shape | {"R": r}, tile) for r in (16, MAX_TOP)]
