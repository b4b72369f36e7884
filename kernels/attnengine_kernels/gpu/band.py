"""The band pass: exact attention by offset, for the offsets -127 … 127, from the tiles about the diagonal alone.

A block of S rows meets 256 / S + 1 square tiles of keys. In each, ``tl.gather`` skews the pattern so that its diagonals
become columns, whose sums are the masses of single offsets; S = 64, since the gather of larger tiles spills.

FLOPs: 2 D (256 + S) per row, whatever its length. Bytes: q once, k five times (from L2), 12 per row and head, and 1 kB
of partial sums per block and head. Scores, ``exp`` and sums of a block are fp32, sums over blocks fp64 in their order.
Source: diagonal sums by skewing as in Huang et al., Music Transformer, arXiv 1809.04281 (there the other way round).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float32, Float64, Int, Int32
from torch import Tensor

from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu._band_kernel import band_kernel
from attnengine_kernels.gpu._blocks import row_blocks
from attnengine_kernels.gpu._launch import (
    Shipped,
    Tile,
    check_triton,
    compute_type,
    keys_seen,
    padded_dim,
    rows_seeing,
    unit_stride,
)
from attnengine_kernels.gpu._ops import flat
from attnengine_kernels.gpu._positions import find_places
from attnengine_kernels.gpu.rows import row_lse
from attnengine_kernels.sums import EXACT_OFFSETS


@dataclass(frozen=True)
class BandSums:
    """Attention by exact offset ``position_i - position_j``; pairs without positions are left out."""

    profile: Float64[Tensor, "n h 255"]  # Σ_i p_ij by offset, that of offset o at o + 127; n windows or sequences
    previous: Float32[Tensor, "b h q"]  # p on the token before
    itself: Float32[Tensor, "b h q"]  # p on the query's own token
    next: Float32[Tensor, "b h q"]  # p on the token after


def band_pass(
    call: AttentionCall,
    query_position: Int32[Tensor, "b q"] | None = None,
    key_position: Int32[Tensor, "b k"] | None = None,
    cu_seqlens: Int[Tensor, " s"] | None = None,
) -> BandSums:
    """Pattern by exact offset, summed over each window's rows, and per row for three offsets, see :class:`BandSums`.

        profile_o = Σ_i p_ij [position_i - position_j = o],  |o| < 128,  p_ij = exp(s_ij - lse_i)

    ``query_position`` and ``key_position`` rise by one from token to token, -1 where a token has none (padding, prefix
    tokens of images). Without them every token has a position and the last query is at the last key, as in a causal
    mask; in packed sequences (``cu_seqlens`` (n + 1,), batch of 1) that is each token's own place, and the profile is
    per sequence. ``call.lse`` is trusted as it is and made by :func:`.rows.row_lse` if None.

    Errors against fp64: <= 1e-5 a row. NaN in a query or key that is seen makes the offsets it meets NaN. Raises
    ValueError or TypeError for positions that do not rise by one and for what the kernel does not take.
    """
    profile, near = _band(*flat(call), query_position, key_position, cu_seqlens)
    previous, itself, following = near.unbind()
    return BandSums(profile, previous, itself, following)


@torch.library.custom_op("attnengine::band", mutates_args=())
def _band(
    query: Tensor, key: Tensor, value: Tensor, lo: Tensor, hi: Tensor, scale: float, softcap: float | None,
    sink: Tensor | None, bias: Tensor | None, lse: Tensor | None, query_position: Tensor | None,
    key_position: Tensor | None, cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    call = AttentionCall(query, key, value, lo, hi, scale, softcap, sink, bias, lse)
    check_triton(call)
    q, k = unit_stride(query), unit_stride(key)
    (b, h, n_rows, d), (hkv, n_keys) = q.shape, k.shape[1:3]
    known = (row_lse(call) if lse is None else lse.float()).contiguous()
    known = known.masked_fill(known == -torch.inf, 0.0)  # rows without keys: -inf minus -inf would be NaN
    places = find_places(call, query_position, key_position)
    cut = replace(call, lo=places.lo, hi=places.hi)
    tile = band_tile(d, q.dtype)
    blocks = row_blocks(b, n_rows, tile.m, q.device, cu_seqlens)
    dense = None if bias is None else bias.expand(b, h, n_rows, n_keys)
    partial = q.new_empty((len(blocks.table), h, 2 * EXACT_OFFSETS), dtype=torch.float32)
    near = q.new_zeros((3, b, h, n_rows), dtype=torch.float32)  # rows after the last packed sequence are in no block
    band_kernel[(len(blocks.table) * h,)](
        q, k, blocks.table, places.lo, places.hi, rows_seeing(cut), keys_seen(cut), places.shift, dense, known,
        partial, near, h, h // hkv, n_rows, n_keys, b * h * n_rows, scale, softcap or 0.0, *q.stride()[:3],
        *k.stride()[:3], *(dense.stride() if dense is not None else (0,) * 4), D=d, DP=padded_dim(d), S=tile.m,
        BAND=EXACT_OFFSETS, COMPUTE=compute_type(q.dtype), SOFTCAP=softcap is not None, HAS_BIAS=dense is not None,
        **tile.options(),
    )  # fmt: skip
    profile = blocks.sum(partial)[..., 1:]  # offset -128 lies outside the band
    return profile.clone(memory_format=torch.contiguous_format), near


@_band.register_fake
def _(query: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    b, h, n_rows = query.shape[:3]
    n = rest[-1].shape[0] - 1 if isinstance(rest[-1], Tensor) else b
    profile = query.new_empty((n, h, 2 * EXACT_OFFSETS - 1), dtype=torch.float64)
    return profile, query.new_empty((3, b, h, n_rows), dtype=torch.float32)


def band_tile(d: int, dtype: torch.dtype) -> Tile:
    """Square tiles, the same on every architecture; fp32 products are plain FMA, which take smaller ones."""
    if dtype == torch.float32:
        return Tile(16, 16, 16, 4, 1) if padded_dim(d) == 256 else Tile(32, 32, 32, 8, 1)
    return Tile(64, 64, 64, 8, 1)


def shipped(_arch: int, d: int, dtype: torch.dtype) -> list[Shipped]:
    """The launch of this module on a plain call, for the ahead-of-time compiler."""
    element = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}[dtype]
    strides = [f"{x}_{axis}" for x in "qk" for axis in "bhl"]
    types = dict.fromkeys(["n_heads", "group", "n_rows", "n_keys", "near_stride", *strides], "i32")
    types |= {"scale": "fp32", "softcap": "fp32", "SEES": "*i8", "SEEN": "*i8", "Q": element, "K": element}
    types |= dict.fromkeys(("BLOCKS", "LO", "HI", "SHIFT"), "*i32") | dict.fromkeys(("LSE", "PROFILE", "NEAR"), "*fp32")
    tile = band_tile(d, dtype)
    constants = dict.fromkeys(("BIAS", "a_b", "a_h", "a_q", "a_k")) | {"SOFTCAP": False, "HAS_BIAS": False}
    constants |= {"D": d, "DP": padded_dim(d), "S": tile.m, "BAND": EXACT_OFFSETS, "COMPUTE": compute_type(dtype)}
    return [("band", band_kernel, types, constants, tile)]
