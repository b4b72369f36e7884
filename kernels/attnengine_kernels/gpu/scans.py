"""The scan pass: statistics of the element-wise products x_ijd = q_id k_jd over all visible pairs, without L x L work.

With S_i, M_i, m_i the sum, maximum and minimum of the keys that row i sees, Σ_ij x = Σ_i q_i S_i, max x = max_i
(q_i >= 0 ? q_i M_i : q_i m_i), and so on: all factor over the rows. A row's keys [lo, hi) are whole tiles that all rows
of its block share, which enter as totals, and ragged ends, which enter as a 0/1 product with the tile. So intervals
may be anything (causal, windows, padding, packed), and no sum is a difference of running sums, which loses digits.

FLOPs: O(L T D) for tiles of T = 32 keys (about 12 T D a row and head), and (L / T)^2 D / 2 for adding totals. Bytes: q
and k once or twice from memory. Second moments are taken about a pilot (mean query times mean key), in fp32 per row
block, then moved to the window's mean in fp64.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from attnengine_kernels._check import hidden_pairs
from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu._launch import Shipped, Tile, check_triton, keys_seen, padded_dim, seen_mean, unit_stride
from attnengine_kernels.gpu._scans_kernel import scan_kernel, totals_kernel

TILE = Tile(m=64, n=32, edge=32, warps=8, stages=1)
MAX_DIM_BLOCK = 16
TOTALS_AT_ONCE = 16


def dim_block(d: int) -> int:
    """Dims that one program takes: statistics of different dims never meet, so they run side by side."""
    return min(MAX_DIM_BLOCK, padded_dim(d))


def scan_pass(call: AttentionCall, counted: Tensor | None = None) -> dict[str, Tensor]:
    """``qk, qk_m2, qk_min, qk_max, qk_positive`` (b, h, d) and ``n_pairs`` (b,), fp64 on the call's device.

    Names as in :mod:`attnengine_kernels.sums`: products are unscaled; ``qk_m2 = Σ (x - mean x)^2`` about the window's
    own mean. ``counted`` (b, q) bool leaves rows out. Scale, soft-cap, bias, sink and lse play no part.

    Raises ValueError for a bias that hides pairs (-inf): what it hides is no interval, so it does not factor.
    """
    check_triton(call)
    if hidden_pairs(call.bias) is not None:
        raise ValueError("bias: expected finite values for the scan pass, got -inf; hide pairs with lo and hi")
    q, k = unit_stride(call.query), unit_stride(call.key)
    (b, h, n_rows, d), (hkv, n_keys) = q.shape, k.shape[1:3]
    lo = call.lo.clamp(min=0).contiguous()
    hi = call.hi.clamp(max=n_keys)
    hi = (hi if counted is None else torch.where(counted, hi, lo)).contiguous()
    seen = keys_seen(call)
    n_pairs = (hi - lo).clamp(min=0).sum(1).double()  # (b,)
    key_mean = seen_mean(k, seen)  # (b, hkv, d)
    pilot = seen_mean(q, (hi > lo).to(torch.int8)) * key_mean.repeat_interleave(h // hkv, dim=1)  # (b, h, d)

    n_tiles, blocks, dim_blocks = triton.cdiv(n_keys, TILE.n), triton.cdiv(n_rows, TILE.m), triton.cdiv(d, dim_block(d))
    totals = torch.empty(6, b, hkv, n_tiles, d, device=q.device)
    totals_kernel[(n_tiles * b * hkv, dim_blocks)](
        k, seen, key_mean, totals, hkv, n_keys, n_tiles, *k.stride()[:3], b * hkv * n_tiles * d, D=d, BD=dim_block(d),
        T=TILE.n, **TILE.options(),
    )  # fmt: skip
    out = torch.empty(4, b, h, blocks, d, device=q.device)
    positive = torch.empty(b, h, blocks, d, dtype=torch.int32, device=q.device)
    scan_kernel[(blocks * b * h, dim_blocks)](
        q, k, lo, hi, seen, key_mean, pilot, totals, out, positive, h, h // hkv, n_rows, n_keys, n_tiles,
        *q.stride()[:3], *k.stride()[:3], b * hkv * n_tiles * d, b * h * blocks * d, D=d, BD=dim_block(d), M=TILE.m,
        T=TILE.n, C=TOTALS_AT_ONCE, **TILE.options(),
    )  # fmt: skip

    first, second = out[0].double().sum(2), out[1].double().sum(2)  # (b, h, d), about the pilot
    pairs = n_pairs[:, None, None]
    return {
        "qk": first + pairs * pilot.double(),
        "qk_m2": (second - first.square() / pairs.clamp(min=1)).clamp(min=0),
        "qk_min": out[2].double().amin(2),
        "qk_max": out[3].double().amax(2),
        "qk_positive": positive.sum(2, dtype=torch.int64).double(),
        "n_pairs": n_pairs,
    }


def shipped(_arch: int, d: int, dtype: torch.dtype) -> list[Shipped]:
    """Every launch of this module, for the ahead-of-time compiler; the same tile on every architecture."""
    element = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}[dtype]
    strides = [f"{x}_{axis}" for x in "qk" for axis in "bhl"] + ["part_stride", "out_stride"]
    types = dict.fromkeys(["n_heads", "group", "n_rows", "n_keys", "n_tiles", *strides], "i32")
    types |= {"Q": element, "K": element, "LO": "*i32", "HI": "*i32", "SEEN": "*i8", "POSITIVE": "*i32"}
    types |= dict.fromkeys(("MEAN", "PILOT", "TOTALS", "OUT"), "*fp32")
    shape = {"D": d, "BD": dim_block(d), "T": TILE.n}
    return [
        ("totals", totals_kernel, types, shape, TILE),
        ("scan", scan_kernel, types, shape | {"M": TILE.m, "C": TOTALS_AT_ONCE}, TILE),
    ]
