"""The column pass: attention received, what one sweep over the score tiles gives per key, without an L x L matrix.

Key-stationary: a program keeps one tile of keys and goes over the row tiles that see any of it, so that every sum over
rows stays in its registers: no atomics, no partials. Which rows see a tile is worked out from the intervals beforehand.

FLOPs: 2 D per visible pair (+ 2 D with ``aq``, + 4 F with F row features in half precision, 2 F in fp32). Bytes: q and
k once from memory (q again from L2 per key tile) and 4 (1 + D + F) per key and head. Scores, ``exp`` and sums are fp32.
Source: the loop order is that of dK and dV in FlashAttention's backward pass, Dao, arXiv 2307.08691.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
from jaxtyping import Float, Float32
from torch import Tensor

from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu._column_tiles import launches
from attnengine_kernels.gpu._columns_kernel import column_kernel
from attnengine_kernels.gpu._launch import (
    architecture,
    check_triton,
    compute_type,
    keys_seen,
    padded_dim,
    rows_seeing,
    unit_stride,
)
from attnengine_kernels.gpu._ops import flat, present
from attnengine_kernels.gpu.rows import row_lse

MAX_ROW_FEATURES = 64
FAR = 2**30


@dataclass(frozen=True)
class ColumnSums:
    """Per key and query head; zeros for keys that no row sees."""

    received: Float32[Tensor, "b h k"]  # Σ_i p_ij
    aq: Float32[Tensor, "b h k d"] | None  # Σ_i p_ij q_i
    masses: Float32[Tensor, "b h k f"] | None  # Σ_i p_ij r_if


def column_pass(
    call: AttentionCall, row_features: Float[Tensor, "b q f"] | None = None, *, want_aq: bool = False
) -> ColumnSums:
    """Attention received by every key, ``A^T Q`` and the masses it gets from classes of rows, see :class:`ColumnSums`.

        p_ij = exp(s_ij - lse_i),  received_j = Σ_i p_ij,  aq_jd = Σ_i p_ij q_id,  mass_jf = Σ_i p_ij r_if

    ``row_features`` (b, q, f), f <= 64, are columns over the query rows, exact in the inputs' type (0, 1, integers to
    256): ValueError if not. Rows with ``lo == hi`` and what a bias of -inf hides are left out. ``call.lse`` is trusted
    as it is and made by :func:`.rows.row_lse` if None. Keys are not expanded: query heads read their group's.

    Errors against fp64: received and masses <= 1e-5 per row that sees the key, aq <= 1e-5 (fp32) or 2e-3 (half) of
    Σ_i p_ij max |q|. NaN in a query or key that is seen makes the sums of the keys it meets NaN. Raises ValueError or
    TypeError for shapes, types and widths (d <= 256) that the kernel does not take.
    """
    received, aq, masses = _columns(*flat(call), row_features, want_aq)
    return ColumnSums(received, present(aq), present(masses))


@torch.library.custom_op("attnengine::columns", mutates_args=())
def _columns(
    query: Tensor, key: Tensor, value: Tensor, lo: Tensor, hi: Tensor, scale: float, softcap: float | None,
    sink: Tensor | None, bias: Tensor | None, lse: Tensor | None, row_features: Tensor | None, want_aq: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    call = AttentionCall(query, key, value, lo, hi, scale, softcap, sink, bias, lse)
    check_triton(call)
    q, k = unit_stride(query), unit_stride(key)
    (b, h, n_rows, d), (hkv, n_keys) = q.shape, k.shape[1:3]
    columns = _feature_columns(row_features, (b, n_rows), q.dtype)
    low, high = lo.clamp(min=0).contiguous(), hi.clamp(max=n_keys).contiguous()
    call = replace(call, lo=low, hi=high)
    known = (row_lse(call) if lse is None else lse.float()).contiguous()
    known = known.masked_fill(known == -torch.inf, 0.0)  # rows without keys: -inf minus -inf would be NaN
    sees, seen = rows_seeing(call), keys_seen(call)
    pair_bias = None if bias is None else bias.expand(b, h, n_rows, n_keys)
    received, aq, masses = _empty(query, key, row_features, want_aq)
    wide = None if columns is None else q.new_empty((b, h, n_keys, columns.shape[2]), dtype=torch.float32)
    features = 0 if columns is None else columns.shape[2]
    spans: dict[tuple[int, int], Tensor] = {}
    for outputs, tile in launches(architecture(q.device), d, q.dtype, want_aq, features):
        if (tile.m, tile.n) not in spans:
            spans[tile.m, tile.n] = row_spans(low, high, sees, n_keys, tile.m, tile.n, whole=bias is None)
        n_tiles, f = triton.cdiv(n_keys, tile.n), features if "masses" in outputs else 0
        column_kernel[(n_tiles * b * h,)](
            q, k, columns if f else None, low, high, sees, seen, spans[tile.m, tile.n], pair_bias, known, received,
            aq if "aq" in outputs else None, wide if f else None, h, h // hkv, n_rows, n_keys, n_tiles, scale,
            softcap or 0.0, *q.stride()[:3], *k.stride()[:3],
            *(pair_bias.stride() if pair_bias is not None else (0,) * 4), D=d, DP=padded_dim(d), M=tile.m, N=tile.n,
            EDGE=tile.edge, F=f, COMPUTE=compute_type(q.dtype), P_BITS=15 if q.dtype == torch.float16 else 0,
            SOFTCAP=softcap is not None, HAS_BIAS=bias is not None, RECEIVES="received" in outputs,
            AQ="aq" in outputs, **tile.options(),
        )  # fmt: skip
    if wide is not None and row_features is not None:
        masses = wide[..., : row_features.shape[2]].contiguous()
    return received, aq, masses


def _empty(query: Tensor, key: Tensor, row_features: Tensor | None, want_aq: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The outputs, not filled; those not asked for have no element."""
    b, h, _, d = query.shape
    n_keys, f = key.shape[2], 0 if row_features is None else row_features.shape[2]
    shapes = ((b, h, n_keys), (b, h, n_keys, d) if want_aq else (0,), (b, h, n_keys, f) if f else (0,))
    received, aq, masses = (query.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return received, aq, masses


@_columns.register_fake
def _(query: Tensor, key: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor]:
    features, want_aq = rest[-2:]
    return _empty(query, key, features if isinstance(features, Tensor) else None, bool(want_aq))


def row_spans(lo: Tensor, hi: Tensor, sees: Tensor, n_keys: int, m: int, n: int, *, whole: bool) -> Tensor:
    """Rows that see each tile of ``n`` keys, (b, tiles, 4) int32: start, full_lo, full_hi, stop, multiples of ``m``.

    No row outside [start, stop) sees any of the tile; every row of [full_lo, full_hi) sees all of it. The second range
    is empty where those rows are not one run, and everywhere unless ``whole``. Nothing waits for the device; memory
    (L / m) (L / n) numbers.
    """
    b, n_rows = lo.shape
    blocks = triton.cdiv(n_rows, m)

    def by_block(x: Tensor, empty: int) -> Tensor:  # (b, blocks, m); rows that see nothing, and beyond the last
        x = torch.where(sees != 0, x, empty)
        return torch.nn.functional.pad(x, (0, blocks * m - n_rows), value=empty).view(b, 1, blocks, m)

    low, high = by_block(lo, FAR), by_block(hi, 0)
    first = torch.arange(triton.cdiv(n_keys, n), dtype=torch.int32, device=lo.device)[:, None] * n  # (tiles, 1)
    last = (first + n).clamp(max=n_keys)
    some = (low.amin(3) < last) & (high.amax(3) > first)  # (b, tiles, blocks)
    every = (low.amax(3) <= first) & (high.amin(3) >= last)
    index = torch.arange(blocks, dtype=torch.int32, device=lo.device)

    def bounds(hit: Tensor) -> tuple[Tensor, Tensor]:
        stop = torch.where(hit, index + 1, 0).amax(2)
        return torch.minimum(torch.where(hit, index, blocks).amin(2), stop), stop

    start, stop = bounds(some)
    full_lo, full_hi = bounds(every)
    one_run = (every.sum(2) == full_hi - full_lo) & (full_hi > full_lo) & whole
    full_lo, full_hi = torch.where(one_run, full_lo, start), torch.where(one_run, full_hi, start)
    return (torch.stack([start, full_lo, full_hi, stop], dim=2) * m).to(torch.int32).contiguous()


def _feature_columns(features: Tensor | None, shape: tuple[int, int], dtype: torch.dtype) -> Tensor | None:
    """Features in the inputs' type, padded to a power of two of columns, at least 16."""
    if features is None:
        return None
    if features.ndim != 3 or tuple(features.shape[:2]) != shape or not 1 <= features.shape[2] <= MAX_ROW_FEATURES:
        raise ValueError(f"row_features: expected {(*shape, f'1…{MAX_ROW_FEATURES}')}, got {tuple(features.shape)}")
    cast = features.to(dtype)
    if features.dtype != dtype and not torch.equal(cast.to(features.dtype), features):
        raise ValueError(f"row_features: expected values exact in {dtype}; split large numbers into digits of 8 bits")
    return torch.nn.functional.pad(cast, (0, padded_dim(features.shape[2]) - features.shape[2])).contiguous()
