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
from torch import Tensor

from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu._launch import (
    MAX_FEATURES,
    Shipped,
    Tile,
    architecture,
    check_triton,
    compute_type,
    keys_seen,
    padded_dim,
    seen_mean,
    unit_stride,
)
from attnengine_kernels.gpu._rows_kernel import lse_kernel, row_kernel

STATS = ("row_sum", "entropy", "p_max", "score_max", "score_min", "score_mean", "score_m2")


@dataclass(frozen=True)
class RowStats:
    """Per-row results, all fp32 but ``visible``; a row that sees no key has zeros everywhere (``lse`` as it came).

    ``p^ = p / Σ_j p``. Masses use p, the others p^, as the definitions say; without a learned sink they are equal.
    """

    lse: Tensor  # (b, h, q) natural log, learned sink included: the one given, or made here
    visible: Tensor  # (b, h, q) int32: visible keys of the row
    row_sum: Tensor  # (b, h, q) Σ_j p_ij: 1 - p_sink up to the mass defect
    entropy: Tensor  # (b, h, q) -Σ_j p^ log p^, nats
    p_max: Tensor  # (b, h, q) max_j p^
    score_max: Tensor  # (b, h, q) max_j s
    score_min: Tensor  # (b, h, q) min_j s
    score_mean: Tensor  # (b, h, q) (1/n) Σ_j s over the n visible keys
    score_m2: Tensor  # (b, h, q) Σ_j (s - score_mean)^2
    ak: Tensor | None  # (b, h, q, d) Σ_j p^ k_j
    ak2: Tensor | None  # (b, h, q, d) Σ_j p^ (k_j - key_shift)^2
    key_shift: Tensor | None  # (b, hkv, d) the mean key that ak2 is taken about, so that no digits are lost
    masses: Tensor | None  # (b, h, q, f) Σ_j p_ij features_jf


#: Keys and edge keys per tile of half precision launches, by outputs and padded width; "ak" carries the statistics and
#: features. 128 rows, 8 warps, 2 stages. What is not listed spills, and is run as two launches instead.
HALF_TILES: dict[tuple[int, str], dict[int, tuple[int, int]]] = {
    (90, "ak"): {16: (64, 16), 32: (64, 16), 64: (64, 16), 128: (32, 16), 256: (32, 16)},
    (80, "ak"): {16: (64, 16), 32: (64, 16), 64: (64, 16), 128: (64, 16), 256: (32, 16)},
    (90, "ak+ak2"): {16: (64, 16), 32: (64, 16), 64: (32, 16), 128: (32, 16)},
    (80, "ak+ak2"): {16: (64, 16), 32: (64, 16), 64: (64, 32)},
}


def row_tile(arch: int, d: int, dtype: torch.dtype, outputs: str) -> Tile | None:
    """Tile of one launch on ``arch`` (80 or 90), or None where it would spill.

    ``outputs`` is "lse", "ak" (with statistics and features), "ak2" (a launch of its own) or "ak+ak2" (all in one).
    """
    width = padded_dim(d)
    if dtype == torch.float32:  # plain FMA: small tiles, and one accumulator a launch
        if outputs == "ak+ak2":
            return None
        if width == 256 and outputs == "ak2":
            return Tile(16, 16, 16, 8, 1)
        if width == 128 and outputs != "ak2":
            return Tile(16, 16, 16, 4, 2) if outputs == "ak" else Tile(32, 16, 16, 8, 1)
        return Tile(32, 32, 32, 8, 1)
    if outputs in ("lse", "ak2"):
        return Tile(64, 32, 16, 8, 2) if (arch, width, outputs) == (80, 256, "ak2") else Tile(128, 64, 64, 8, 2)
    sizes = HALF_TILES[arch, outputs].get(width)
    return None if sizes is None else Tile(128, *sizes, 8, 2)


def launches(arch: int, d: int, dtype: torch.dtype, want_ak: bool, want_ak2: bool) -> list[tuple[str, Tile]]:
    """The sweeps that a request takes: one, or two where a second (m, d) accumulator would not fit the registers."""
    if want_ak and want_ak2 and (tile := row_tile(arch, d, dtype, "ak+ak2")):
        return [("ak+ak2", tile)]
    names = ["ak"] + (["ak2"] if want_ak2 else [])
    return [(name, tile) for name in names if (tile := row_tile(arch, d, dtype, name))]


def row_lse(call: AttentionCall) -> Tensor:
    """``lse_i = log(Σ_j exp s_ij + exp sink)``, (b, h, q) fp32; -inf for a row without keys and without a sink.

    One sweep of 2 D FLOPs per visible pair; raises what :func:`row_pass` raises.
    """
    check_triton(call)
    return _lse(call, keys_seen(call))


def row_pass(
    call: AttentionCall, features: Tensor | None = None, *, want_ak: bool = True, want_ak2: bool = False
) -> RowStats:
    """Entropy, maxima, score moments, ``A K``, ``A K^2`` and feature masses of every query row, see :class:`RowStats`.

        p_ij = exp(s_ij - lse_i),  H_i = -Σ_j p^_ij log p^_ij,  ak_id = Σ_j p^_ij k_jd,  mass_if = Σ_j p_ij f_jf

    ``features`` (b, k, f), f <= 16, are columns over the keys. In half precision they enter the tensor cores in the
    inputs' type, so they must be exact in it (0, 1, integers to 256; a position as two digits): ValueError if not.
    ``call.lse`` is trusted as it is (``row_sum`` shows its defect) and made by :func:`row_lse` if None. A row whose
    whole key mass underflows fp32 (a learned sink 87 nats above every score) has zeros like a row without keys.

    Errors against fp64: entropy <= 1e-4 nats, masses <= 1e-5, ak <= 1e-5 (fp32) or 2e-3 (half) of the largest key; ak2
    twice that in bf16, where the squared key is itself rounded. Raises
    ValueError or TypeError for shapes, types and widths (d <= 256) that the kernels do not take.
    """
    check_triton(call)
    q, k = unit_stride(call.query), unit_stride(call.key)
    (b, h, n_rows, d), (hkv, n_keys) = q.shape, k.shape[1:3]
    seen = keys_seen(call)
    lse = (_lse(call, seen) if call.lse is None else call.lse.float()).contiguous()
    columns = _feature_columns(features, (b, n_keys), q.dtype)

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
    bias = None if call.bias is None else call.bias.expand(b, h, n_rows, n_keys)
    for number, (outputs, tile) in enumerate(launches(architecture(q.device), d, q.dtype, want_ak, want_ak2)):
        first = number == 0
        row_kernel[(triton.cdiv(n_rows, tile.m) * b * h,)](
            q, k, k2 if "ak2" in outputs else None, columns if first else None, call.lo.contiguous(),
            call.hi.contiguous(), seen, bias, lse, stats, visible, stats, ak, ak2, masses, h, h // hkv, n_rows, n_keys,
            call.scale, call.softcap or 0.0, *q.stride()[:3], *k.stride()[:3],
            *(k2.stride()[:3] if k2 is not None else (0, 0, 0)), *(bias.stride() if bias is not None else (0,) * 4),
            b * h * n_rows, D=d, DP=padded_dim(d), M=tile.m, N=tile.n,
            EDGE=tile.edge, F=MAX_FEATURES if first and columns is not None else 0, COMPUTE=compute_type(q.dtype),
            P_BITS=15 if q.dtype == torch.float16 else 0, SOFTCAP=call.softcap is not None,
            HAS_BIAS=bias is not None, STATS=first, AK=first and want_ak, AK2="ak2" in outputs,
            **tile.options(),
        )  # fmt: skip
    named = dict(zip(STATS, stats, strict=True))
    if masses is not None and features is not None:
        masses = masses[..., : features.shape[2]]
    return RowStats(lse=lse, visible=visible, **named, ak=ak, ak2=ak2, key_shift=shift, masses=masses)


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


def _feature_columns(features: Tensor | None, shape: tuple[int, int], dtype: torch.dtype) -> Tensor | None:
    """Features in the inputs' type, padded to (b, k, 16)."""
    if features is None:
        return None
    if features.ndim != 3 or tuple(features.shape[:2]) != shape or not 1 <= features.shape[2] <= MAX_FEATURES:
        raise ValueError(f"features must be {(*shape, f'1…{MAX_FEATURES}')}; got {tuple(features.shape)}")
    cast = features.to(dtype)
    if features.dtype != dtype and not torch.equal(cast.to(features.dtype), features):
        raise ValueError(f"features must be exact in {dtype}: split large numbers into digits of 8 bits")
    return torch.nn.functional.pad(cast, (0, MAX_FEATURES - features.shape[2])).contiguous()


def shipped(arch: int, d: int, dtype: torch.dtype) -> list[Shipped]:
    """Every launch of this module on a plain call, for the ahead-of-time compiler: with features, every output."""
    element = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
    strides = [f"{x}_{axis}" for x in ("q", "k", "k2") for axis in "bhl"]
    types = dict.fromkeys(["n_heads", "group", "n_rows", "n_keys", "stat_stride", *strides], "i32")
    types |= {"scale": "fp32", "softcap": "fp32", "LO": "*i32", "HI": "*i32", "COUNT": "*i32", "SEEN": "*i8"}
    types |= dict.fromkeys(("Q", "K", "K2", "FEATURES"), f"*{element}")
    types |= dict.fromkeys(("LSE", "OUT", "SUM", "AK_OUT", "AK2_OUT", "MASS_OUT"), "*fp32")
    absent = dict.fromkeys(("BIAS", "a_b", "a_h", "a_q", "a_k"))
    shape = {"D": d, "DP": padded_dim(d), "COMPUTE": compute_type(dtype), "SOFTCAP": False, "HAS_BIAS": False}
    found: list[Shipped] = []
    for outputs in ("lse", "ak", "ak2", "ak+ak2"):
        tile, first = row_tile(arch, d, dtype, outputs), outputs != "ak2"
        if tile is None:
            continue
        constants = shape | absent | {"M": tile.m, "N": tile.n, "EDGE": tile.edge}
        if outputs == "lse":
            found.append(("lse", lse_kernel, types, constants | {"SINK": None, "HAS_SINK": False}, tile))
            continue
        constants |= {
            "F": MAX_FEATURES if first else 0, "P_BITS": 15 if dtype == torch.float16 else 0, "STATS": first,
            "AK": first, "AK2": "ak2" in outputs,
        }  # fmt: skip
        constants |= ({} if "ak2" in outputs else {"K2": None}) | ({} if first else {"FEATURES": None})
        found.append((f"row {outputs}", row_kernel, types, constants, tile))
    return found
