"""Histograms over all visible pairs, exact to the last pair: of (q_id, k_jd) jointly, and of the scores or log p.

**Joint**: with C_ibd the keys visible to row i whose dim d lies in bin b,

    counts[d, a, b] = #{visible (i, j): q_id in bin a, k_jd in bin b} = Σ_i 1[q_id in a] C_ibd

so it factors over rows, O(L G D) with G bins: a difference of running counts (integers, so nothing is lost) for what a
block of 64 rows shares, a 0/1 product of tensor cores for the ragged ends (2 * 64 G FLOPs a row and dim). Any statistic
of the products q_id k_jd follows to within the grid. Bytes: q and k once, their bins one byte an element twice, running
counts D G / 16 a key. **Scores** need the L x L sweep: 2 D FLOPs a visible pair, q and k once (keys again from L2).

Everything is an integer, so the order of adding is no matter; there are no atomics on global memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64
from torch import Tensor

from attnengine_kernels._check import hidden_pairs
from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu._blocks import row_blocks
from attnengine_kernels.gpu._histograms_kernel import bin_kernel, count_kernel, joint_kernel, score_kernel
from attnengine_kernels.gpu._launch import (
    Shipped,
    Tile,
    check_triton,
    compute_type,
    keys_seen,
    padded_dim,
    unit_stride,
)
from attnengine_kernels.gpu._ops import flat
from attnengine_kernels.gpu.rows import row_lse
from attnengine_kernels.gpu.scans import visible_pairs

ROWS = 64  # rows, and keys, of a block of the joint histogram
STRIP = 1024  # rows of one program, in blocks of ROWS
BIN_DIMS = 16
BIN_TILE = Tile(ROWS, ROWS, ROWS, 4, 1)
MAX_JOINT_BINS = 64
MAX_SCORE_BINS = 1022
MAX_KEYS = 2**20  # a strip's pairs fit int32


@dataclass(frozen=True)
class JointHistogram:
    """``w`` windows, or packed sequences. Bin a holds edges[a - 1] <= x < edges[a]; the end bins what lies outside."""

    counts: Int64[Tensor, "w h d g g"]  # visible pairs by (bin of q_id, bin of k_jd)
    not_numbers: Int64[Tensor, "w h d"]  # visible pairs with a NaN on either side, in no bin
    edges: Float32[Tensor, " g-1"]


@dataclass(frozen=True)
class ScoreHistogram:
    """Equal bins of ``width`` from ``low`` on; the end bins also hold what lies outside."""

    counts: Int64[Tensor, "w h g"]
    not_numbers: Int64[Tensor, "w h"]  # visible pairs whose score (or log p) is NaN
    low: float
    width: float


def signed_log_edges(bins: int = 16, *, least: float = 1 / 32, most: float = 128.0) -> Float32[Tensor, " g-1"]:
    """The inner edges of an even number of bins that mirror at 0: 0 and ±``least`` … ±``most`` in equal ratios.

    Raises ValueError for bins that are odd or below 4, or bounds that are not 0 < least < most.
    """
    if bins < 4 or bins % 2:
        raise ValueError(f"bins: expected an even number of at least 4, got {bins}")
    if not 0 < least < most:
        raise ValueError(f"least, most: expected 0 < least < most, got {least} and {most}")
    ratio = torch.linspace(0, 1, bins // 2 - 1, dtype=torch.float64)
    positive = least * (most / least) ** ratio
    return torch.cat([-positive.flip(0), positive.new_zeros(1), positive]).float()


def joint_histograms(
    call: AttentionCall,
    counted: Bool[Tensor, "b q"] | None = None,
    *,
    edges: Float[Tensor, " g-1"] | None = None,
    cu_seqlens: Int[Tensor, " n"] | None = None,
) -> JointHistogram:
    """Visible pairs by the bins of q_id and of k_jd, for every neuron: see the formula above.

    ``edges`` are ascending inner edges, 3 to 63 (default :func:`signed_log_edges`); elements are compared with them as
    fp32. ``counted`` leaves rows out; ``cu_seqlens`` gives counts of each packed sequence in a batch of 1. Scale, bias,
    soft-cap, sink and lse play no part. Raises ValueError for edges that do not rise, a bias that hides pairs (-inf),
    2^20 keys or more; ValueError or TypeError for what :func:`.scans.scan_pass` does not take.
    """
    edges = (signed_log_edges() if edges is None else edges.float()).to(call.query.device)
    counts, missing = _joint(*flat(call), counted, edges, cu_seqlens)
    return JointHistogram(counts, missing, edges)


def score_histograms(
    call: AttentionCall,
    counted: Bool[Tensor, "b q"] | None = None,
    *,
    low: float = -32.0,
    high: float = 32.0,
    bins: int = 128,
    log_p: bool = False,
    cu_seqlens: Int[Tensor, " n"] | None = None,
) -> ScoreHistogram:
    """Visible pairs by score as the model uses it (scale, soft-cap, bias), or with ``log_p`` by score - lse.

    ``bins`` (2 to 1022) equal bins over [low, high). What a bias of -inf hides is no pair. ``call.lse`` is trusted and
    made by :func:`.rows.row_lse` if None. A pair within fp32's rounding of an edge may fall on either side of it.
    Raises ValueError or TypeError for bins and calls that the kernels do not take.
    """
    counts = _score(*flat(call), counted, low, high, bins, log_p, cu_seqlens)
    return ScoreHistogram(counts[..., :-1], counts[..., -1], low, (high - low) / bins)


def quantiles(histogram: ScoreHistogram, at: Float[Tensor, " n"]) -> Float64[Tensor, "w h n"]:
    """Scores below which the shares ``at`` (in [0, 1]) of the pairs lie, as if pairs were spread evenly in a bin.

    Off by at most the bin's width where the quantile lies inside [low, high); at an end bin it is that bin's edge
    or beyond. NaN where there is no pair, or a pair whose score is NaN. Raises ValueError for shares outside [0, 1].
    """
    if bool(((at < 0) | (at > 1)).any()):
        raise ValueError(f"at: expected shares in [0, 1], got {at.tolist()}")
    below = torch.nn.functional.pad(histogram.counts.cumsum(-1).double(), (1, 0))  # (w, h, g + 1)
    pairs = below[..., -1:]
    want = at.to(below) * pairs  # (w, h, n)
    some = want.clamp(min=0.5)  # share 0 lies in the first bin that holds a pair
    bins = torch.searchsorted(below[..., 1:].contiguous(), some.contiguous()).clamp(max=below.shape[-1] - 2)
    start = below.gather(-1, bins)
    inside = (want - start) / (below.gather(-1, bins + 1) - start).clamp(min=1)
    known = (pairs > 0) & (histogram.not_numbers[..., None] == 0)
    return torch.where(known, histogram.low + histogram.width * (bins + inside), torch.nan)


@torch.library.custom_op("attnengine::joint_histograms", mutates_args=())
def _joint(
    query: Tensor, key: Tensor, value: Tensor, lo: Tensor, hi: Tensor, scale: float, softcap: float | None,
    sink: Tensor | None, bias: Tensor | None, lse: Tensor | None, counted: Tensor | None, edges: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    check_triton(AttentionCall(query, key, value, lo, hi, scale, softcap, sink, bias, lse))
    if hidden_pairs(bias) is not None:
        raise ValueError("bias: expected finite values for joint histograms, got -inf; hide pairs with lo and hi")
    bins = _joint_bins(edges)
    q, k = unit_stride(query), unit_stride(key)
    (b, h, n_rows, d), (hkv, n_keys) = q.shape, k.shape[1:3]
    if n_keys >= MAX_KEYS:
        raise ValueError(f"key: expected fewer than {MAX_KEYS} keys, got {n_keys}")
    low, high = _rows_in(lo, hi, counted, n_keys)
    seen = keys_seen(AttentionCall(q, k, value, low, high, scale))
    edges, g = edges.contiguous(), max(16, triton.next_power_of_2(bins))
    query_bins = _element_bins(q, (high > low).to(torch.int8), edges)
    key_bins = _element_bins(k, seen, edges)
    tiles, dim_blocks = triton.cdiv(n_keys, ROWS), triton.cdiv(d, BIN_DIMS)
    counts = torch.empty(b * hkv, d, tiles, g, dtype=torch.int32, device=q.device)
    count_kernel[(tiles * b * hkv, dim_blocks)](
        key_bins, counts, n_keys, tiles, D=d, BD=BIN_DIMS, N=ROWS, G=g, **BIN_TILE.options()
    )
    before = torch.nn.functional.pad(counts.cumsum(2, dtype=torch.int32), (0, 0, 1, 0)).contiguous()
    strips = row_blocks(b, n_rows, STRIP, q.device, cu_seqlens)
    out = torch.empty(len(strips.table), h, d, g, g, dtype=torch.int32, device=q.device)
    joint_kernel[(len(strips.table) * h, d)](
        query_bins, key_bins, before, low, high, strips.table, out, h, h // hkv, n_rows, n_keys, tiles, D=d, M=ROWS,
        G=g, **BIN_TILE.options(),
    )  # fmt: skip
    found = strips.sum(out[..., :bins, :bins].contiguous()).long()  # exact: fp64 holds integers to 2^53
    pairs = strips.sum(visible_pairs(strips, low, high)).long()  # (w,)
    return found, pairs[:, None, None] - found.sum((-1, -2))


@_joint.register_fake
def _(query: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    edges, cu_seqlens = rest[-2:]
    assert isinstance(edges, Tensor)
    w, (_, h, _, d), g = _outputs(query, cu_seqlens), query.shape, edges.shape[0] + 1
    return query.new_empty((w, h, d, g, g), dtype=torch.int64), query.new_empty((w, h, d), dtype=torch.int64)


@torch.library.custom_op("attnengine::score_histograms", mutates_args=())
def _score(
    query: Tensor, key: Tensor, value: Tensor, lo: Tensor, hi: Tensor, scale: float, softcap: float | None,
    sink: Tensor | None, bias: Tensor | None, lse: Tensor | None, counted: Tensor | None, low: float, high: float,
    bins: int, log_p: bool, cu_seqlens: Tensor | None,
) -> Tensor:  # fmt: skip
    """Counts (w, h, bins + 1) int64, the last those of NaN."""
    call = AttentionCall(query, key, value, lo, hi, scale, softcap, sink, bias, lse)
    check_triton(call)
    if not 2 <= bins <= MAX_SCORE_BINS or not low < high:
        raise ValueError(f"bins, low, high: expected 2…{MAX_SCORE_BINS} and low < high, got {bins}, {low}, {high}")
    q, k = unit_stride(query), unit_stride(key)
    (b, h, n_rows, d), (hkv, n_keys) = q.shape, k.shape[1:3]
    first, last = _rows_in(lo, hi, counted, n_keys)
    seen = keys_seen(AttentionCall(q, k, value, first, last, scale, bias=bias))
    known = None
    if log_p:
        known = (row_lse(call) if lse is None else lse.float()).contiguous()
    dense = None if bias is None else bias.expand(b, h, n_rows, n_keys)
    tile = score_tile(d, q.dtype)
    blocks = row_blocks(b, n_rows, tile.m, q.device, cu_seqlens)
    out = torch.empty(len(blocks.table), h, bins + 1, dtype=torch.int32, device=q.device)
    score_kernel[(len(blocks.table) * h,)](
        q, k, first, last, seen, blocks.table, known, dense, out, h, h // hkv, n_rows, n_keys, scale, softcap or 0.0,
        low, bins / (high - low), *q.stride()[:3], *k.stride()[:3],
        *(dense.stride() if dense is not None else (0,) * 4), D=d, DP=padded_dim(d), M=tile.m, N=tile.n,
        COMPUTE=compute_type(q.dtype), SOFTCAP=softcap is not None, HAS_BIAS=dense is not None, LOG_P=log_p, BINS=bins,
        SLOTS=triton.next_power_of_2(bins + 2), **tile.options(),
    )  # fmt: skip
    return blocks.sum(out).long()


@_score.register_fake
def _(query: Tensor, *rest: object) -> Tensor:
    bins, _, cu_seqlens = rest[-3:]
    assert isinstance(bins, int)
    return query.new_empty((_outputs(query, cu_seqlens), query.shape[1], bins + 1), dtype=torch.int64)


def _outputs(query: Tensor, cu_seqlens: object) -> int:
    return cu_seqlens.shape[0] - 1 if isinstance(cu_seqlens, Tensor) else query.shape[0]


def _rows_in(lo: Tensor, hi: Tensor, counted: Tensor | None, n_keys: int) -> tuple[Tensor, Tensor]:
    low, high = lo.clamp(min=0).contiguous(), hi.clamp(max=n_keys)
    return low, (high if counted is None else torch.where(counted, high, low)).contiguous()


def _joint_bins(edges: Tensor) -> int:
    bins = edges.numel() + 1
    if edges.ndim != 1 or not 4 <= bins <= MAX_JOINT_BINS:
        raise ValueError(f"edges: expected one dimension of 3…{MAX_JOINT_BINS - 1}, got shape {tuple(edges.shape)}")
    if not bool((edges.diff() > 0).all()):
        raise ValueError(f"edges: expected rising numbers, got {edges.tolist()}")
    return bins


def _element_bins(x: Tensor, used: Tensor, edges: Tensor) -> Tensor:
    """(b, h, d, n) uint8 of x (b, h, n, d), 255 for NaN and where ``used`` (b, n) is 0."""
    b, h, n, d = x.shape
    bins = torch.empty(b, h, d, n, dtype=torch.uint8, device=x.device)
    bin_kernel[(triton.cdiv(n, ROWS) * b * h, triton.cdiv(d, BIN_DIMS))](
        x, used, edges, bins, h, n, *x.stride()[:3], D=d, BD=BIN_DIMS, N=ROWS, EDGE_COUNT=edges.numel(),
        **BIN_TILE.options(),
    )  # fmt: skip
    return bins


def score_tile(d: int, dtype: torch.dtype) -> Tile:
    """Rows and keys of a score tile."""
    if dtype == torch.float32:
        return Tile(16 if padded_dim(d) == 64 else 32, 16, 16, 8 if padded_dim(d) == 256 else 4, 1)
    return Tile(128, 64, 64, 8, 2)


def shipped(_arch: int, d: int, dtype: torch.dtype) -> list[Shipped]:
    """Every launch of this module on a plain call, for the ahead-of-time compiler: default bins, scores without lse."""
    element = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}[dtype]
    strides = [f"{x}_{axis}" for x in "xqk" for axis in "bhl"]
    types = dict.fromkeys(["n_heads", "group", "n", "n_rows", "n_keys", "n_tiles", *strides], "i32")
    types |= dict.fromkeys(("X", "Q", "K"), element) | dict.fromkeys(("USED", "SEEN"), "*i8")
    types |= dict.fromkeys(("BINS", "Q_BINS", "K_BINS"), "*u8") | {"EDGES": "*fp32", "LSE": "*fp32"}
    types |= dict.fromkeys(("COUNTS", "BEFORE", "LO", "HI", "TABLE", "OUT"), "*i32")
    types |= dict.fromkeys(("scale", "softcap", "low", "per_width"), "fp32")
    tile, absent = score_tile(d, dtype), dict.fromkeys(("LSE", "BIAS", "a_b", "a_h", "a_q", "a_k"))
    score = absent | {
        "D": d, "DP": padded_dim(d), "M": tile.m, "N": tile.n, "COMPUTE": compute_type(dtype), "SOFTCAP": False,
        "HAS_BIAS": False, "LOG_P": False, "BINS": 128, "SLOTS": 256,
    }  # fmt: skip
    sizes = {"D": d, "BD": BIN_DIMS, "N": ROWS}
    return [
        ("bins", bin_kernel, types, sizes | {"EDGE_COUNT": 15}, BIN_TILE),
        ("bin counts", count_kernel, types, sizes | {"G": 16}, BIN_TILE),
        ("joint bins", joint_kernel, types, {"D": d, "M": ROWS, "G": 16}, BIN_TILE),
        ("score bins", score_kernel, types, score, tile),
    ]
