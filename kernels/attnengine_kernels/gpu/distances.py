"""The distance pass: how the products x_ijd = q_id k_jd go with the distance of their tokens, over all visible pairs.

Distance factors: on one side of the diagonal Σ_j (i - j) k_j = i Σ_j k_j - Σ_j j k_j. Key tiles that all rows of a
block see and that lie on one side enter by those two totals, the others as a product of the distances with the tile.
Between image patches distances are Euclidean and do not factor, so there every tile is multiplied.

FLOPs: O(L T D) for tiles of T = 32 keys and (L / T)^2 D / 2 for adding totals; images 2 D per pair. Bytes: q and k once
or twice from memory. Products are taken about a pilot (mean query times mean key), so that a large common product
costs no digits; fp32 in a block of rows, fp64 over blocks in a fixed order.
Source: the factoring is that of linear attention, Katharopoulos et al., arXiv 2006.16236, with positions for features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
from jaxtyping import Float32, Float64, Int
from torch import Tensor

from attnengine_kernels._check import hidden_pairs
from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu._blocks import row_blocks
from attnengine_kernels.gpu._distances_kernel import distance_kernel
from attnengine_kernels.gpu._launch import (
    Shipped,
    Tile,
    check_triton,
    keys_seen,
    padded_dim,
    rows_seeing,
    seen_mean,
    unit_stride,
)
from attnengine_kernels.gpu._ops import flat
from attnengine_kernels.gpu._positions import find_places
from attnengine_kernels.gpu.places import PlaceFacts, pair

TILE = Tile(m=128, n=32, edge=32, warps=8, stages=1)  # 64 rows spill between patches on sm_80 or sm_100
TOTALS_AT_ONCE = 16


@dataclass(frozen=True)
class DistanceSums:
    """Over the pairs that are visible and both have a position; δ is |i - j|, with patches the Euclidean distance."""

    distance_qk: Float64[Tensor, "n h d"]  # Σ_ij δ_ij (q_id k_jd - pilot_d); n windows or packed sequences
    pilot: Float32[Tensor, "b h d"]  # what products are taken about, per window


def distance_pass(
    call: AttentionCall,
    facts: PlaceFacts | None = None,
    cu_seqlens: Int[Tensor, " s"] | None = None,
) -> DistanceSums:
    """Σ δ (x - pilot) of every neuron, see :class:`DistanceSums`; of ``facts`` only positions and patches are read.

    Scale, soft-cap, bias, sink and lse play no part. Error against fp64: 1e-5 of Σ δ |x - pilot|. NaN in a query or key
    that is seen makes that head NaN. Raises ValueError for a bias that hides pairs (-inf), and ValueError or TypeError
    for positions and patches that do not fit and for what the kernels do not take.
    """
    f = PlaceFacts() if facts is None else facts
    found = _distances(*flat(call), f.query_position, f.key_position, f.query_patch, f.key_patch, cu_seqlens)
    return DistanceSums(*found)


@torch.library.custom_op("attnengine::distances", mutates_args=())
def _distances(
    query: Tensor, key: Tensor, value: Tensor, lo: Tensor, hi: Tensor, scale: float, softcap: float | None,
    sink: Tensor | None, bias: Tensor | None, lse: Tensor | None, query_position: Tensor | None,
    key_position: Tensor | None, query_patch: Tensor | None, key_patch: Tensor | None, cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    call = AttentionCall(query, key, value, lo, hi, scale, softcap, sink, bias, lse)
    check_triton(call)
    if hidden_pairs(bias) is not None:
        raise ValueError("bias: expected finite values for the distance pass, got -inf; hide pairs with lo and hi")
    q, k = unit_stride(query), unit_stride(key)
    (b, h, n_rows, d), (hkv, n_keys) = q.shape, k.shape[1:3]
    patch, key_side = pair("patch", query_patch, key_patch, b, n_rows, n_keys)
    places = find_places(call, query_position, key_position)
    cut = replace(call, lo=places.lo, hi=places.hi)
    seen, sees = keys_seen(cut), rows_seeing(cut)
    mean = seen_mean(k, seen)  # (b, hkv, d)
    pilot = seen_mean(q, sees) * mean.repeat_interleave(h // hkv, dim=1)
    totals = _totals(k, seen, mean)
    blocks = row_blocks(b, n_rows, TILE.m, q.device, cu_seqlens)
    out = q.new_empty((len(blocks.table), h, d), dtype=torch.float32)
    dim_block = min(padded_dim(d), 16)
    distance_kernel[(len(blocks.table) * h, triton.cdiv(d, dim_block))](
        q, k, blocks.table, places.lo, places.hi, sees, seen, places.shift, patch, key_side, mean, pilot, totals, out,
        h, h // hkv, n_rows, n_keys, totals.shape[3], *q.stride()[:3], *k.stride()[:3], totals[0].numel(), D=d,
        BD=dim_block, M=TILE.m, T=TILE.n, C=TOTALS_AT_ONCE, PATCHES=patch is not None, **TILE.options(),
    )  # fmt: skip
    return blocks.sum(out), pilot


@_distances.register_fake
def _(query: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    b, h, _, d = query.shape
    n = rest[-1].shape[0] - 1 if isinstance(rest[-1], Tensor) else b
    return query.new_empty((n, h, d), dtype=torch.float64), query.new_empty((b, h, d), dtype=torch.float32)


def _totals(k: Tensor, seen: Tensor, mean: Tensor) -> Tensor:
    """(2, b, hkv, tiles, d) fp32: Σ k' and Σ (j - the tile's first) k' of every key tile, k' = k - mean where seen."""
    b, hkv, n_keys, d = k.shape
    centred = torch.where(seen[:, None, :, None] != 0, k - mean[:, :, None], 0.0)
    tiles = torch.nn.functional.pad(centred, (0, 0, 0, -n_keys % TILE.n)).view(b, hkv, -1, TILE.n, d)
    step = torch.arange(TILE.n, dtype=torch.float32, device=k.device)[:, None]
    return torch.stack([tiles.sum(3), (tiles * step).sum(3)]).contiguous()


def shipped(_arch: int, d: int, dtype: torch.dtype) -> list[Shipped]:
    """The launches of this module, for the ahead-of-time compiler; the same tile on every architecture."""
    element = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}[dtype]
    strides = [f"{x}_{axis}" for x in "qk" for axis in "bhl"] + ["part_stride"]
    types = dict.fromkeys(["n_heads", "group", "n_rows", "n_keys", "n_tiles", *strides], "i32")
    types |= {"Q": element, "K": element, "SEES": "*i8", "SEEN": "*i8"}
    types |= dict.fromkeys(("BLOCKS", "LO", "HI", "SHIFT"), "*i32")
    types |= dict.fromkeys(("PATCH", "KEY_PATCH", "MEAN", "PILOT", "TOTALS", "OUT"), "*fp32")
    shape = {"D": d, "BD": min(padded_dim(d), 16), "M": TILE.m, "T": TILE.n, "C": TOTALS_AT_ONCE}
    return [
        ("distances", distance_kernel, types, shape | {"PATCHES": False, "PATCH": None, "KEY_PATCH": None}, TILE),
        ("distances images", distance_kernel, types, shape | {"PATCHES": True}, TILE),
    ]
