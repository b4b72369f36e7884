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
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from attnengine_kernels._check import hidden_pairs
from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu._blocks import RowBlocks, row_blocks
from attnengine_kernels.gpu._launch import Shipped, Tile, check_triton, keys_seen, padded_dim, seen_mean, unit_stride
from attnengine_kernels.gpu._ops import flat
from attnengine_kernels.gpu._scans_kernel import scan_kernel, totals_kernel

SUMS = ("qk", "qk_m2", "qk_min", "qk_max", "qk_positive", "n_pairs")
TILE = Tile(m=64, n=32, edge=32, warps=8, stages=1)
MAX_DIM_BLOCK = 16
TOTALS_AT_ONCE = 16


def dim_block(d: int) -> int:
    """Dims that one program takes: statistics of different dims never meet, so they run side by side."""
    return min(MAX_DIM_BLOCK, padded_dim(d))


def scan_pass(
    call: AttentionCall,
    counted: Bool[Tensor, "b q"] | None = None,
    *,
    cu_seqlens: Int[Tensor, " n"] | None = None,
) -> dict[str, Float64[Tensor, "w ..."]]:
    """``qk, qk_m2, qk_min, qk_max, qk_positive`` (w, h, d) and ``n_pairs`` (w,), fp64 on the call's device.

    Names as in :mod:`attnengine_kernels.sums`: products are unscaled; ``qk_m2 = Σ (x - mean x)^2`` about the window's
    own mean. ``counted`` leaves rows out. Scale, soft-cap, bias, sink and lse play no part. ``w`` are the windows of
    the batch, or with ``cu_seqlens`` (n + 1,) the n packed sequences of a batch of 1.

    A NaN in what a head sees makes its sums NaN (in that dim), and no other head's or sequence's. Raises ValueError for
    a bias that hides pairs (-inf): what it hides is no interval, so it does not factor; and ValueError or TypeError for
    shapes, types and widths (d <= 256) that the kernels do not take.
    """
    return dict(zip(SUMS, _scan_pass(*flat(call), counted, cu_seqlens), strict=True))


@torch.library.custom_op("attnengine::scan_pass", mutates_args=())
def _scan_pass(
    query: Tensor, key: Tensor, value: Tensor, lo: Tensor, hi: Tensor, scale: float, softcap: float | None,
    sink: Tensor | None, bias: Tensor | None, lse: Tensor | None, counted: Tensor | None, cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    check_triton(AttentionCall(query, key, value, lo, hi, scale, softcap, sink, bias, lse))
    if hidden_pairs(bias) is not None:
        raise ValueError("bias: expected finite values for the scan pass, got -inf; hide pairs with lo and hi")
    q, k = unit_stride(query), unit_stride(key)
    (b, h, n_rows, d), (hkv, n_keys) = q.shape, k.shape[1:3]
    low = lo.clamp(min=0).contiguous()
    high = hi.clamp(max=n_keys)
    high = (high if counted is None else torch.where(counted, high, low)).contiguous()
    seen = keys_seen(AttentionCall(q, k, value, low, high, scale))
    # Pilots are any numbers near the means: where one sequence holds a NaN, the others still need one.
    key_mean = seen_mean(k, seen).nan_to_num(0.0, 0.0, 0.0)  # (b, hkv, d)
    query_mean = seen_mean(q, (high > low).to(torch.int8)).nan_to_num(0.0, 0.0, 0.0)
    pilot = query_mean * key_mean.repeat_interleave(h // hkv, dim=1)  # (b, h, d)

    blocks = row_blocks(b, n_rows, TILE.m, q.device, cu_seqlens)
    n_tiles, n_blocks, dim_blocks = triton.cdiv(n_keys, TILE.n), len(blocks.table), triton.cdiv(d, dim_block(d))
    totals = torch.empty(6, b, hkv, n_tiles, d, device=q.device)
    totals_kernel[(n_tiles * b * hkv, dim_blocks)](
        k, seen, key_mean, totals, hkv, n_keys, n_tiles, *k.stride()[:3], b * hkv * n_tiles * d, D=d, BD=dim_block(d),
        T=TILE.n, **TILE.options(),
    )  # fmt: skip
    out = torch.empty(4, n_blocks, h, d, device=q.device)
    positive = torch.empty(n_blocks, h, d, dtype=torch.int32, device=q.device)
    scan_kernel[(n_blocks * h, dim_blocks)](
        q, k, low, high, seen, blocks.table, key_mean, pilot, totals, out, positive, h, h // hkv, n_rows, n_keys,
        n_tiles, *q.stride()[:3], *k.stride()[:3], b * hkv * n_tiles * d, n_blocks * h * d, D=d, BD=dim_block(d),
        M=TILE.m, T=TILE.n, C=TOTALS_AT_ONCE, **TILE.options(),
    )  # fmt: skip

    n_pairs = blocks.sum(visible_pairs(blocks, low, high))  # (w,)
    first, second = blocks.sum(out[0]), blocks.sum(out[1])  # (w, h, d), about the pilot
    pairs = n_pairs[:, None, None]
    pilots = pilot.double() if cu_seqlens is None else pilot.double().expand(blocks.outputs, -1, -1)
    m2 = second - first.square() / pairs.clamp(min=1)
    found = (m2.clamp(min=0), blocks.least(out[2]), blocks.greatest(out[3]), blocks.sum(positive))
    shown = [x.masked_fill(first.isnan(), torch.nan) for x in found]  # neither extremes nor counts keep a NaN
    return first + pairs * pilots, shown[0], shown[1], shown[2], shown[3], n_pairs


@_scan_pass.register_fake
def _(query: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    cu_seqlens = rest[-1]
    w = cu_seqlens.shape[0] - 1 if isinstance(cu_seqlens, Tensor) else query.shape[0]

    def new(*shape: int) -> Tensor:
        return query.new_empty(shape, dtype=torch.float64)

    wide = (w, query.shape[1], query.shape[3])
    return new(*wide), new(*wide), new(*wide), new(*wide), new(*wide), new(w)


def visible_pairs(blocks: RowBlocks, lo: Tensor, hi: Tensor) -> Tensor:
    """(n,) int64: visible pairs of each block's rows."""
    before = torch.nn.functional.pad((hi - lo).clamp(min=0).cumsum(1, dtype=torch.int64), (1, 0))  # (b, q + 1)
    batch, first, stop = blocks.table.long().unbind(1)
    return before[batch, stop] - before[batch, first]


def shipped(_arch: int, d: int, dtype: torch.dtype) -> list[Shipped]:
    """Every launch of this module, for the ahead-of-time compiler; the same tile on every architecture."""
    element = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}[dtype]
    strides = [f"{x}_{axis}" for x in "qk" for axis in "bhl"] + ["part_stride", "out_stride"]
    types = dict.fromkeys(["n_heads", "group", "n_rows", "n_keys", "n_tiles", *strides], "i32")
    types |= {
        "Q": element,
        "K": element,
        "LO": "*i32",
        "HI": "*i32",
        "TABLE": "*i32",
        "SEEN": "*i8",
        "POSITIVE": "*i32",
    }
    types |= dict.fromkeys(("MEAN", "PILOT", "TOTALS", "OUT"), "*fp32")
    shape = {"D": d, "BD": dim_block(d), "T": TILE.n}
    return [
        ("totals", totals_kernel, types, shape, TILE),
        ("scan", scan_kernel, types, shape | {"M": TILE.m, "C": TOTALS_AT_ONCE}, TILE),
    ]
