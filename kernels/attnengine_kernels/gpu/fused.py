"""The fused forward: attention's output and its statistics from one sweep, for those who own the attention.

Online softmax: with the running maximum m_i, every sum is of exp(s_ij - m_i) and is rescaled when m_i grows. Entropy
comes from two of them, l = Σ_j e^{t_j} and W = Σ_j e^{t_j} t_j with t_j = s_j - m <= 0:

    W <- α (W + (m_old - m_new) l) + Σ_tile e^t t,  α = exp(m_old - m_new),  H = log l - W / l

The unshifted Σ p s loses digits where scores are large; this form does not. Where the model's own attention must stay
what it is bit for bit, take its lse (:mod:`attnengine_kernels.vendor`) and the row pass instead.

FLOPs: 2 (D + Dv) per visible pair (+ 64 with features in half precision). Bytes: q, k, v once from memory (keys and
values again from L2 per row block), Dv elements of output and 24 bytes per row. Scores, ``exp`` and sums are fp32.
Source: Milakov & Gimelshein, arXiv 1805.02867 (online softmax); Dao et al., arXiv 2205.14135 (tiles).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from jaxtyping import Float, Float32, Int32
from torch import Tensor

from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu._fused_kernel import fused_kernel
from attnengine_kernels.gpu._launch import (
    MAX_FEATURES,
    MAX_HEAD_DIM,
    TILE_STRIDE_LIMIT,
    Shipped,
    Tile,
    architecture,
    check_triton,
    compute_type,
    keys_seen,
    padded_dim,
    unit_stride,
)
from attnengine_kernels.gpu._ops import flat, present
from attnengine_kernels.gpu.rows import feature_columns, mass_defect

STATS = ("row_sum", "entropy", "p_max", "score_max", "mass_defect")


@dataclass(frozen=True)
class FusedStats:
    """Attention and its statistics per row; a row that sees no key has zeros everywhere but in ``lse``.

    Names and meanings are those of :class:`.rows.RowStats`; a NaN in what a row sees makes its statistics NaN.
    """

    output: Float[Tensor, "b h q dv"]  # Σ_j p_ij v_j, in the inputs' type
    lse: Float32[Tensor, "b h q"]  # natural log, learned sink included; -inf without keys and without a sink
    visible: Int32[Tensor, "b h q"]  # visible keys of the row
    row_sum: Float32[Tensor, "b h q"]  # Σ_j p_ij = 1 - p_sink
    mass_defect: Float32[Tensor, "b h q"]  # |Σ_j p_ij + p_sink - 1|: rounding, or NaN
    entropy: Float32[Tensor, "b h q"]  # -Σ_j p^ log p^, nats
    p_max: Float32[Tensor, "b h q"]  # max_j p^
    score_max: Float32[Tensor, "b h q"]  # max_j s
    masses: Float32[Tensor, "b h q f"] | None  # Σ_j p_ij features_jf


#: Rows, keys and stages of half precision launches, by architecture and the wider of the two padded widths (8 warps, 16
#: edge keys). Larger tiles spill: the features, their low halves and the pointers cost registers too.
HALF_TILES = {
    90: {16: (128, 64, 2), 32: (128, 64, 2), 64: (128, 64, 2), 128: (128, 32, 2), 256: (64, 16, 2)},
    80: {16: (128, 64, 2), 32: (128, 64, 2), 64: (128, 64, 2), 128: (64, 32, 2), 256: (64, 16, 1)},
}


def fused_tile(arch: int, d: int, dv: int, dtype: torch.dtype) -> Tile:
    """Tile of the launch on ``arch`` (80 or 90) for queries of width ``d`` and values of width ``dv``."""
    width = max(padded_dim(d), padded_dim(dv))
    if dtype == torch.float32:  # plain FMA
        return Tile(16, 16, 16, 4, 1) if width == 256 else Tile(32, 16, 16, 8, 2 if width == 128 else 1)
    if width == 256 and padded_dim(dv) <= 128:  # wide keys pass through; it is the output that stays in registers
        return Tile(128, 32, 16, 8, 2)
    m, n, stages = HALF_TILES[arch][width]
    return Tile(m, n, 16, 8, stages)


def fused_attention(call: AttentionCall, features: Float[Tensor, "b k f"] | None = None) -> FusedStats:
    """Attention with entropy, maxima and feature masses of every query row, see :class:`FusedStats`.

        p_ij = exp(s_ij - lse_i),  o_i = Σ_j p_ij v_j,  H_i = -Σ_j p^_ij log p^_ij,  mass_if = Σ_j p_ij f_jf

    ``features`` (b, k, f) as in :func:`.rows.row_pass`; values may be of another width than queries and keys, at most
    256, and are of their type; ``call.lse`` plays no part. Forward only.

    Errors against fp64: entropy <= 1e-4 nats, masses <= 1e-5, output <= 1e-5 (fp32) or 2e-3 (fp16; bf16 besides the
    rounding of the output itself) of the largest value. Raises ValueError or TypeError for shapes, types and widths
    that the kernel does not take.
    """
    output, lse, visible, stats, masses = _fused_attention(*flat(call)[:-1], features)
    named = dict(zip(STATS, stats.unbind(), strict=True))
    return FusedStats(output=output, lse=lse, visible=visible, **named, masses=present(masses))


@torch.library.custom_op("attnengine::fused_attention", mutates_args=())
def _fused_attention(
    query: Tensor, key: Tensor, value: Tensor, lo: Tensor, hi: Tensor, scale: float, softcap: float | None,
    sink: Tensor | None, bias: Tensor | None, features: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """What :func:`fused_attention` returns: output, lse, visible, all STATS, masses (empty without features)."""
    call = AttentionCall(query, key, value, lo, hi, scale, softcap, sink, bias, None)
    check_triton(call)
    _check_value(value, query.dtype)
    q, k, v = unit_stride(query), unit_stride(key), unit_stride(value)
    (b, h, n_rows, d), (hkv, n_keys), dv = q.shape, k.shape[1:3], v.shape[3]
    columns = feature_columns(features, (b, n_keys), q.dtype)

    def new(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=q.device)

    output = torch.empty(b, h, n_rows, dv, dtype=q.dtype, device=q.device)
    made, stats = new(b, h, n_rows), new(len(STATS), b, h, n_rows)
    visible = torch.empty(b, h, n_rows, dtype=torch.int32, device=q.device)
    masses = None if columns is None else new(b, h, n_rows, MAX_FEATURES)
    dense = None if bias is None else bias.expand(b, h, n_rows, n_keys)
    tile = fused_tile(architecture(q.device), d, dv, q.dtype)
    fused_kernel[(triton.cdiv(n_rows, tile.m) * b * h,)](
        q, k, v, columns, lo.contiguous(), hi.contiguous(), keys_seen(call), None if sink is None else sink.float(),
        dense, output, made, stats, visible, masses, h, h // hkv, n_rows, n_keys, scale, softcap or 0.0,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *(dense.stride() if dense is not None else (0,) * 4),
        b * h * n_rows, D=d, DP=padded_dim(d), DV=dv, DVP=padded_dim(dv), M=tile.m, N=tile.n, EDGE=tile.edge,
        F=0 if columns is None else MAX_FEATURES, COMPUTE=compute_type(q.dtype),
        P_BITS=15 if q.dtype == torch.float16 else 0, SOFTCAP=softcap is not None, HAS_SINK=sink is not None,
        HAS_BIAS=dense is not None, **tile.options(),
    )  # fmt: skip
    stats[-1] = mass_defect(stats[0], visible, made, sink)
    asked = new(0) if masses is None or features is None else masses[..., : features.shape[2]].contiguous()
    return output, made, visible, stats, asked


@_fused_attention.register_fake
def _(query: Tensor, _key: Tensor, value: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    features, (b, h, n_rows) = rest[-1], query.shape[:3]
    fp32 = query.new_empty((b, h, n_rows), dtype=torch.float32)
    shape = (b, h, n_rows, features.shape[2]) if isinstance(features, Tensor) else (0,)
    return (
        query.new_empty((b, h, n_rows, value.shape[3])), fp32, query.new_empty((b, h, n_rows), dtype=torch.int32),
        fp32.new_empty((len(STATS), b, h, n_rows)), fp32.new_empty(shape),
    )  # fmt: skip


def _check_value(value: Tensor, dtype: torch.dtype) -> None:
    if value.dtype != dtype:
        raise TypeError(f"value: expected the type of query, {dtype}, got {value.dtype}")
    if value.shape[3] > MAX_HEAD_DIM:
        raise ValueError(f"value: expected 1…{MAX_HEAD_DIM} dims, got {tuple(value.shape)}")
    if value.stride(2) >= TILE_STRIDE_LIMIT:
        raise ValueError(f"value: expected rows < {TILE_STRIDE_LIMIT} elements apart, got {value.stride(2)}")


#: Widths of values that differ from their queries': multi-head latent attention, and a narrow one.
UNEQUAL = {192: (128,), 72: (64,)}


def shipped(arch: int, d: int, dtype: torch.dtype) -> list[Shipped]:
    """Every launch of this module on a plain call with features, for the ahead-of-time compiler."""
    element = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}[dtype]
    strides = [f"{x}_{axis}" for x in "qkv" for axis in "bhl"]
    types = dict.fromkeys(["n_heads", "group", "n_rows", "n_keys", "stat_stride", *strides], "i32")
    types |= {"scale": "fp32", "softcap": "fp32", "LO": "*i32", "HI": "*i32", "COUNT": "*i32", "SEEN": "*i8"}
    types |= dict.fromkeys(("Q", "K", "V", "FEATURES", "O"), element)
    types |= dict.fromkeys(("LSE", "OUT", "MASS_OUT"), "*fp32")
    constants = dict.fromkeys(("SINK", "BIAS", "a_b", "a_h", "a_q", "a_k")) | {
        "D": d, "DP": padded_dim(d), "COMPUTE": compute_type(dtype), "P_BITS": 15 if dtype == torch.float16 else 0,
        "F": MAX_FEATURES, "SOFTCAP": False, "HAS_SINK": False, "HAS_BIAS": False,
    }  # fmt: skip
    found: list[Shipped] = []
    for dv in (d, *UNEQUAL.get(d, ())):
        tile = fused_tile(arch, d, dv, dtype)
        shape = {"DV": dv, "DVP": padded_dim(dv), "M": tile.m, "N": tile.n, "EDGE": tile.edge}
        name = "fused" if dv == d else f"fused dv={dv}"
        found.append((name, fused_kernel, types, constants | shape, tile))
    return found
