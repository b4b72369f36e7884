"""The row pass: everything that one sweep over the score tiles gives per query row, without an L x L matrix.

With ``lse`` known, ``p_ij = exp(s_ij - lse_i)`` needs no running maximum and no rescaling: one loop over key tiles,
two matrix products per tile (scores, then ``p`` against the keys), a third against the features. Where ``lse`` is not
known a first, cheaper sweep makes it.

FLOPs: 4 D per visible pair (+ 2 D with ``ak2``, + 64 with features in half precision). Bytes: q, k once from memory
(keys again from L2 per row block) and 4 D per row and output. Scores, ``exp`` and sums are fp32.
Source: the known-lse form is the recomputation of FlashAttention's backward pass, Dao et al., arXiv 2205.14135.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from jaxtyping import Float, Float32, Int32
from torch import Tensor

from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu._launch import (
    MAX_FEATURES,
    architecture,
    check_triton,
    compute_type,
    keys_seen,
    padded_dim,
    seen_mean,
    unit_stride,
)
from attnengine_kernels.gpu._ops import flat, present
from attnengine_kernels.gpu._row_tiles import WITH_AK, launches, row_tile
from attnengine_kernels.gpu._rows_kernel import lse_kernel, row_kernel

#: Statistics of a row in the order of the kernel's output; the mass defect is added behind them.
STATS = ("row_sum", "entropy", "p_max", "score_max", "score_min", "score_mean", "score_m2", "mass_defect")


@dataclass(frozen=True)
class RowStats:
    """Per-row results; a row that sees no key has zeros everywhere (``lse`` as it came, -inf if made here).

    ``p^ = p / Σ_j p``. Masses use p, the others p^, as the definitions say; without a learned sink they are equal.
    A NaN in what a row sees makes its statistics NaN, the mass defect first of all (and ``ak`` of the rows that share a
    tile with it).
    """

    lse: Float32[Tensor, "b h q"]  # natural log, learned sink included: the one given, or made here
    visible: Int32[Tensor, "b h q"]  # visible keys of the row
    row_sum: Float32[Tensor, "b h q"]  # Σ_j p_ij: 1 - p_sink up to the mass defect
    mass_defect: Float32[Tensor, "b h q"]  # |Σ_j p_ij + p_sink - 1|: does the lse belong to these scores and this mask?
    entropy: Float32[Tensor, "b h q"]  # -Σ_j p^ log p^, nats
    p_max: Float32[Tensor, "b h q"]  # max_j p^
    score_max: Float32[Tensor, "b h q"]  # max_j s
    score_min: Float32[Tensor, "b h q"]  # min_j s
    score_mean: Float32[Tensor, "b h q"]  # (1/n) Σ_j s over the n visible keys
    score_m2: Float32[Tensor, "b h q"]  # Σ_j (s - score_mean)^2
    ak: Float32[Tensor, "b h q d"] | None  # Σ_j p^ k_j
    ak2: Float32[Tensor, "b h q d"] | None  # Σ_j p^ (k_j - key_shift)^2
    key_shift: Float32[Tensor, "b hkv d"] | None  # the mean key that ak2 is taken about, so that no digits are lost
    masses: Float32[Tensor, "b h q f"] | None  # Σ_j p_ij features_jf


def row_lse(call: AttentionCall) -> Float32[Tensor, "b h q"]:
    """``lse_i = log(Σ_j exp s_ij + exp sink)``, natural; -inf for a row without keys and without a sink.

    One sweep of 2 D FLOPs per visible pair; ``call.lse`` plays no part. Raises what :func:`row_pass` raises.
    """
    return _row_lse(*flat(call))


def row_pass(
    call: AttentionCall,
    features: Float[Tensor, "b k f"] | None = None,
    *,
    want_ak: bool = True,
    want_ak2: bool = False,
) -> RowStats:
    """Entropy, maxima, score moments, ``A K``, ``A K^2`` and feature masses of every query row, see :class:`RowStats`.

        p_ij = exp(s_ij - lse_i),  H_i = -Σ_j p^_ij log p^_ij,  ak_id = Σ_j p^_ij k_jd,  mass_if = Σ_j p_ij f_jf

    ``features`` (b, k, f), f <= 16, are columns over the keys. In half precision they enter the tensor cores in the
    inputs' type, so they must be exact in it (0, 1, integers to 256; a position as two digits): ValueError if not.
    ``call.lse`` is trusted as it is (``mass_defect`` shows its error) and made by :func:`row_lse` if None. A row whose
    whole key mass underflows fp32 (a learned sink 87 nats above every score) has zeros like a row without keys.

    Errors against fp64: entropy <= 1e-4 nats, masses <= 1e-5, ak <= 1e-5 (fp32) or 2e-3 (half) of the largest key; ak2
    twice that in bf16, where the squared key is itself rounded. Raises
    ValueError or TypeError for shapes, types and widths (d <= 256) that the kernels do not take.
    """
    lse, visible, stats, ak, ak2, shift, masses = _row_pass(*flat(call), features, want_ak, want_ak2)
    return RowStats(
        lse=lse if call.lse is None else call.lse.float(), visible=visible,
        **dict(zip(STATS, stats.unbind(), strict=True)), ak=present(ak), ak2=present(ak2), key_shift=present(shift),
        masses=present(masses),
    )  # fmt: skip


@torch.library.custom_op("attnengine::row_lse", mutates_args=())
def _row_lse(
    query: Tensor, key: Tensor, value: Tensor, lo: Tensor, hi: Tensor, scale: float, softcap: float | None,
    sink: Tensor | None, bias: Tensor | None, lse: Tensor | None,
) -> Tensor:  # fmt: skip
    call = AttentionCall(query, key, value, lo, hi, scale, softcap, sink, bias, lse)
    check_triton(call)
    return _lse(call, keys_seen(call))


@_row_lse.register_fake
def _(query: Tensor, *_: object) -> Tensor:
    return query.new_empty(query.shape[:3], dtype=torch.float32)


@torch.library.custom_op("attnengine::row_pass", mutates_args=())
def _row_pass(
    query: Tensor, key: Tensor, value: Tensor, lo: Tensor, hi: Tensor, scale: float, softcap: float | None,
    sink: Tensor | None, bias: Tensor | None, lse: Tensor | None, features: Tensor | None, want_ak: bool,
    want_ak2: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """What :func:`row_pass` returns: lse (if made here), visible, all STATS, then what was asked for."""
    call = AttentionCall(query, key, value, lo, hi, scale, softcap, sink, bias, lse)
    check_triton(call)
    q, k = unit_stride(query), unit_stride(key)
    (b, h, n_rows, d), (hkv, n_keys) = q.shape, k.shape[1:3]
    seen = keys_seen(call)
    columns = feature_columns(features, (b, n_keys), q.dtype)
    known = (_lse(call, seen) if lse is None else lse.float()).contiguous()

    def new(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=q.device)

    stats = new(len(STATS), b, h, n_rows)
    visible = torch.empty(b, h, n_rows, dtype=torch.int32, device=q.device)
    ak = new(b, h, n_rows, d) if want_ak else None
    ak2 = new(b, h, n_rows, d) if want_ak2 else None
    masses = None if columns is None else new(b, h, n_rows, MAX_FEATURES)
    shift = seen_mean(k, seen) if want_ak2 else None
    # Squared here and loaded: in the kernel's registers the square would spill.
    k2 = None if shift is None else (k - shift[:, :, None]).square().to(k.dtype)
    dense = None if bias is None else bias.expand(b, h, n_rows, n_keys)
    for number, (outputs, tile) in enumerate(launches(architecture(q.device), d, q.dtype, want_ak, want_ak2)):
        first = number == 0
        row_kernel[(triton.cdiv(n_rows, tile.m) * b * h,)](
            q, k, k2 if "ak2" in outputs else None, columns if first else None, lo.contiguous(), hi.contiguous(), seen,
            dense, known, stats, visible, stats, ak, ak2, masses, h, h // hkv, n_rows, n_keys, scale, softcap or 0.0,
            *q.stride()[:3], *k.stride()[:3], *(k2.stride()[:3] if k2 is not None else (0, 0, 0)),
            *(dense.stride() if dense is not None else (0,) * 4), b * h * n_rows, D=d, DP=padded_dim(d), M=tile.m,
            N=tile.n, EDGE=tile.edge, F=MAX_FEATURES if first and columns is not None else 0,
            COMPUTE=compute_type(q.dtype), P_BITS=15 if q.dtype == torch.float16 else 0, SOFTCAP=softcap is not None,
            HAS_BIAS=dense is not None, STATS=first, AK=want_ak and outputs in WITH_AK, AK2="ak2" in outputs,
            **tile.options(),
        )  # fmt: skip
    stats[-1] = mass_defect(stats[0], visible, known, sink)
    made = known if lse is None else new(0)
    if masses is not None and features is not None:
        masses = masses[..., : features.shape[2]].contiguous()
    asked = [new(0) if one is None else one for one in (ak, ak2, shift, masses)]
    return made, visible, stats, asked[0], asked[1], asked[2], asked[3]


@_row_pass.register_fake
def _(query: Tensor, key: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    lse, features, want_ak, want_ak2 = rest[-4:]
    b, h, n_rows, d = query.shape

    def new(*shape: int, when: object = True) -> Tensor:
        return query.new_empty(shape if when else (0,), dtype=torch.float32)

    visible = query.new_empty((b, h, n_rows), dtype=torch.int32)
    n_features = features.shape[2] if isinstance(features, Tensor) else 0
    return (
        new(b, h, n_rows, when=lse is None), visible, new(len(STATS), b, h, n_rows), new(b, h, n_rows, d, when=want_ak),
        new(b, h, n_rows, d, when=want_ak2), new(b, key.shape[1], d, when=want_ak2),
        new(b, h, n_rows, n_features, when=features is not None),
    )  # fmt: skip


def mass_defect(row_sum: Tensor, visible: Tensor, lse: Tensor, sink: Tensor | None) -> Tensor:
    """``|Σ_j p + exp(sink - lse) - 1|`` (b, h, q) fp32, zero for rows that see nothing."""
    whole = row_sum if sink is None else row_sum + torch.exp(sink.float()[:, None] - lse)
    return torch.where(visible > 0, (whole - 1).abs(), 0.0)


def _lse(call: AttentionCall, seen: Tensor) -> Tensor:
    q, k = unit_stride(call.query), unit_stride(call.key)
    (b, h, n_rows, d), (hkv, n_keys) = q.shape, k.shape[1:3]
    lse = torch.empty(b, h, n_rows, dtype=torch.float32, device=q.device)
    bias = None if call.bias is None else call.bias.expand(b, h, n_rows, n_keys)
    tile = row_tile(architecture(q.device), d, q.dtype, "lse")
    assert tile is not None
    lse_kernel[(triton.cdiv(n_rows, tile.m) * b * h,)](
        q, k, call.lo.contiguous(), call.hi.contiguous(), seen, None if call.sink is None else call.sink.float(), bias,
        lse, h, h // hkv, n_rows, n_keys, call.scale, call.softcap or 0.0, *q.stride()[:3], *k.stride()[:3],
        *(bias.stride() if bias is not None else (0,) * 4), D=d, DP=padded_dim(d), M=tile.m, N=tile.n, EDGE=tile.edge,
        COMPUTE=compute_type(q.dtype), SOFTCAP=call.softcap is not None, HAS_SINK=call.sink is not None,
        HAS_BIAS=bias is not None, **tile.options(),
    )  # fmt: skip
    return lse


def feature_columns(features: Tensor | None, shape: tuple[int, int], dtype: torch.dtype) -> Tensor | None:
    """Features in the inputs' type, padded to (b, k, 16)."""
    if features is None:
        return None
    if features.ndim != 3 or tuple(features.shape[:2]) != shape or not 1 <= features.shape[2] <= MAX_FEATURES:
        raise ValueError(f"features must be {(*shape, f'1…{MAX_FEATURES}')}; got {tuple(features.shape)}")
    cast = features.to(dtype)
    if features.dtype != dtype and not torch.equal(cast.to(features.dtype), features):
        raise ValueError(f"features must be exact in {dtype}: split large numbers into digits of 8 bits")
    return torch.nn.functional.pad(cast, (0, MAX_FEATURES - features.shape[2])).contiguous()
