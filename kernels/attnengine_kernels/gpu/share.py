"""The share pass: the score's variance within a row, and what each neuron contributes to it, in O(L D^2).

With x_ijd = q_id k_jd and s°_ij = c q_i . k_j, population moments over the n_i keys that row i sees,

    share_d = c Σ_i Cov_j(x_ijd, s°_ij) = c^2 Σ_i q_id (Σ_i q_i)_d,   Σ_i = (1/n_i) Σ_j (k_j - k̄_i)(k_j - k̄_i)ᵀ

Rows go in blocks of C. Chunks of C keys that all rows of a block see enter as one D x D matrix, about their own mean,
that a scan over the chunks has added up (Chan's merge: sums only, for a difference of running sums loses digits); the
ragged rest, below 2 C keys a row, as a masked product inside the block. So intervals may be anything: under causal
masks a block's matrix is the one before it plus a chunk, under a window it is the sum of the chunks between.

FLOPs a row and query head: 2 D^2 for the matrix and 6 D for each ragged key (C / 2 of them under a causal mask), and
2 D^2 a key and key head for the Gram matrices; times two or three, the parts that numbers are split into to keep fp32's
digits on tensor cores. Bytes: q and k twice, the matrices 4 D^2 / C a token four times. They take 8 D^2 / C bytes a
token and key head, for all heads at once below ``WORKSPACE``, else for some at a time.
Source: chunked linear attention, Yang et al., arXiv 2312.06635, with a covariance for its state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from attnengine_kernels._check import hidden_pairs
from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu._blocks import RowBlocks, row_blocks
from attnengine_kernels.gpu._launch import (
    INTERPRETED,
    Shipped,
    Tile,
    architecture,
    check_triton,
    keys_seen,
    padded_dim,
    unit_stride,
)
from attnengine_kernels.gpu._ops import flat
from attnengine_kernels.gpu._share_kernel import gram_kernel, run_kernel, share_kernel

WORKSPACE = 2**26  # bytes of chunk matrices at a time, unless one key head needs more


@dataclass(frozen=True)
class Shares:
    """Sums over the rows of a window (``w`` = b) or of a packed sequence (``w`` = sequences)."""

    share: Float64[Tensor, "w h d"]  # c Σ_i Cov_j(q_id k_jd, s°_ij); may be negative
    share_n: Float64[Tensor, "w h"]  # Σ_i Var_j(s°_ij) = Σ_d share_d


@dataclass(frozen=True)
class ShareTiles:
    """Launches of the pass: ``rows`` tiles of queries by keys, chunks of ``chunk`` keys, blocks of dims."""

    rows: Tile
    chunk: int  # a multiple of the tile's rows and keys
    gram_keys: int  # keys of a chunk taken at a time
    gram_dims: int  # a program's square of the Gram matrix
    out_dims: int  # dims of the result that a program makes
    inner_dims: int  # dims of a state that it takes at a time
    score_dims: int  # dims of a score that it takes at a time


def share_tiles(arch: int, d: int, compute: tl.dtype) -> ShareTiles:
    """Sizes for an architecture (80 or 90), a head width and the type of products."""
    width = padded_dim(d)
    narrow = width <= 64
    chunk, outputs, inner = 128 if narrow else 256, min(width, 128), min(width, 32)
    if compute == tl.float32:
        few = arch == 80 and not narrow
        scores = 64 if few else inner
        return ShareTiles(Tile(32 if few else 64, 32, 32, 8, 1), chunk, 32, 64, min(width, 64), inner, scores)
    if arch == 90:
        n = 64 if narrow else 16
        return ShareTiles(Tile(128, n, n, 8, 2), chunk, 32, 64, outputs, inner, min(width, 128))
    return ShareTiles(Tile(128 if narrow else 64, 32, 32, 8, 2), chunk, 64, 64, outputs, inner, width)


def product_type(dtype: torch.dtype) -> tl.dtype:
    """bf16 for bf16, in parts; else fp32 by three TF32 products, which hold fp16 exactly and whose range is fp32's."""
    return tl.bfloat16 if dtype == torch.bfloat16 and not INTERPRETED else tl.float32


def share_pass(
    call: AttentionCall,
    counted: Bool[Tensor, "b q"] | None = None,
    *,
    cu_seqlens: Int[Tensor, " n"] | None = None,
) -> Shares:
    """Score variance within rows and every neuron's share of it, see :class:`Shares` and the formula above.

    Bias, soft-cap, sink and lse play no part. ``counted`` leaves rows out. ``cu_seqlens`` (n + 1,) gives sums of each
    packed sequence in a batch of 1 (with the mask of :func:`.intervals.packed`). Rows that see no key add nothing.

    Error against fp64: 1e-5 of share_n, for keys whose mean is below some 30 spreads in bf16, 1000 in fp32. A NaN in
    what a head sees makes its sums NaN and no other head's or sequence's. Raises ValueError for a bias that hides pairs
    (-inf; use lo and hi), and ValueError or TypeError for shapes, types and widths (d <= 256) the kernels do not take.
    """
    share = _share(*flat(call), counted, cu_seqlens)
    return Shares(share, share.sum(dim=-1))


@torch.library.custom_op("attnengine::share", mutates_args=())
def _share(
    query: Tensor, key: Tensor, value: Tensor, lo: Tensor, hi: Tensor, scale: float, softcap: float | None,
    sink: Tensor | None, bias: Tensor | None, lse: Tensor | None, counted: Tensor | None, cu_seqlens: Tensor | None,
) -> Tensor:  # fmt: skip
    call = AttentionCall(query, key, value, lo, hi, scale, softcap, sink, bias, lse)
    check_triton(call)
    if hidden_pairs(bias) is not None:
        raise ValueError("bias: expected finite values for the share pass, got -inf; hide pairs with lo and hi")
    q, k = unit_stride(query), unit_stride(key)
    (b, _, n_rows, d), (hkv, n_keys) = q.shape, k.shape[1:3]
    low = lo.clamp(min=0).contiguous()
    high = hi.clamp(max=n_keys)
    high = (high if counted is None else torch.where(counted, high, low)).contiguous()
    seen = keys_seen(AttentionCall(q, k, value, low, high, scale))
    tiles = share_tiles(architecture(q.device), d, product_type(q.dtype))
    blocks = row_blocks(b, n_rows, tiles.chunk, q.device, cu_seqlens)
    whole, run = whole_chunks(blocks, low, high, tiles.chunk)
    per_head = 4 * d * d * (b * triton.cdiv(n_keys, tiles.chunk) + len(blocks.table))
    step = max(WORKSPACE // per_head, 1)
    parts = [
        _some_heads(q, k, low, high, seen, blocks, whole, run, tiles, first, min(step, hkv - first))
        for first in range(0, hkv, step)
    ]
    return scale**2 * blocks.sum(torch.cat(parts, dim=1).contiguous())


@_share.register_fake
def _(query: Tensor, *rest: object) -> Tensor:
    cu_seqlens = rest[-1]
    outputs = cu_seqlens.shape[0] - 1 if isinstance(cu_seqlens, Tensor) else query.shape[0]
    return query.new_empty((outputs, query.shape[1], query.shape[3]), dtype=torch.float64)


def _some_heads(
    q: Tensor, k: Tensor, lo: Tensor, hi: Tensor, seen: Tensor, blocks: RowBlocks, whole: Tensor, run: Tensor,
    tiles: ShareTiles, first: int, heads: int,
) -> Tensor:  # fmt: skip
    """(blocks, h of these key heads, d) fp64, unscaled, of key heads [first, first + heads)."""
    (b, h, n_rows, d), (hkv, n_keys) = q.shape, k.shape[1:3]
    group, chunk, n_blocks, tile = h // hkv, tiles.chunk, len(blocks.table), tiles.rows
    chunks, subs, squares = triton.cdiv(n_keys, chunk), chunk // tile.m, triton.cdiv(d, tiles.gram_dims) ** 2
    compute, new = product_type(q.dtype), q.new_empty
    mean, gram = (new((b, heads, chunks, *s), dtype=torch.float32) for s in ((d,), (d, d)))
    gram_kernel[(chunks * b * heads, squares)](
        k, seen, mean, gram, first, heads, n_keys, chunks, *k.stride()[:3], D=d, BD=tiles.gram_dims, T=tiles.gram_keys,
        C=chunk, COMPUTE=compute, **tile.options(),
    )  # fmt: skip
    centre, state = (new((n_blocks, heads, *s), dtype=torch.float32) for s in ((d,), (d, d)))
    run_kernel[(n_blocks * heads, squares)](
        blocks.table, whole, run, mean, gram, centre, state, heads, chunks, D=d, BD=tiles.gram_dims, C=chunk,
        **tile.options(),
    )  # fmt: skip
    out = new((n_blocks, subs, heads * group, d), dtype=torch.float32)
    share_kernel[(n_blocks * subs * heads * group, triton.cdiv(d, tiles.out_dims))](
        q, k, lo, hi, seen, blocks.table, whole, mean, centre, state, out, first, heads, group, n_rows, n_keys, chunks,
        *q.stride()[:3], *k.stride()[:3], D=d, BK=tiles.score_dims, BD=tiles.out_dims, BE=tiles.inner_dims, M=tile.m,
        N=tile.n, C=chunk, SUBS=subs, COMPUTE=compute, **tile.options(),
    )  # fmt: skip
    return out.sum(dim=1, dtype=torch.float64)


def whole_chunks(blocks: RowBlocks, lo: Tensor, hi: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Chunks that all rows of a block with keys see, (n, 2) int32 [begin, end), and the runs of blocks, (n,) int32.

    Blocks of one window whose ranges begin together and do not shrink are a run: its first block has the number of its
    blocks, the others 0. Blocks without whole chunks are in none. Nothing waits for the device.
    """
    batch, first, last = blocks.table.long().unbind(1)
    row = first[:, None] + torch.arange(chunk, device=lo.device)  # (n, chunk)
    inside = row < last[:, None]
    at = batch[:, None] * lo.shape[1] + torch.where(inside, row, 0)
    low, high = lo.reshape(-1)[at], hi.reshape(-1)[at]
    some = inside & (high > low)
    begin = (low.where(some, 0).amax(1) + chunk - 1) // chunk
    end = torch.where(some.any(1), high.where(some, 2**30).amin(1) // chunk, 0)
    none = end <= begin
    begin, end = begin.masked_fill(none, 0), end.masked_fill(none, 0)
    follows = torch.zeros_like(end, dtype=torch.bool)
    follows[1:] = (end[:-1] > 0) & (batch[1:] == batch[:-1]) & (begin[1:] == begin[:-1]) & (end[1:] >= end[:-1])
    n = len(end)
    index = torch.arange(n, device=lo.device)
    stop = torch.where(follows, n, index)  # where the next run begins, at or after each block
    stop = torch.cat([stop.flip(0).cummin(0).values.flip(0)[1:], stop.new_full((1,), n)])
    run = torch.where((end > 0) & ~follows, stop - index, 0)
    return torch.stack([begin, end], dim=1).to(torch.int32).contiguous(), run.to(torch.int32)


def shipped(arch: int, d: int, dtype: torch.dtype) -> list[Shipped]:
    """Every launch of this module, for the ahead-of-time compiler."""
    element = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}[dtype]
    compute = product_type(dtype)
    tiles = share_tiles(arch, d, compute)
    numbers = ["first_head", "n_heads", "group", "n_rows", "n_keys", "n_chunks"]
    types = dict.fromkeys([*numbers, *(f"{x}_{axis}" for x in "qk" for axis in "bhl")], "i32")
    types |= {"Q": element, "K": element, "SEEN": "*i8"}
    types |= dict.fromkeys(("LO", "HI", "TABLE", "WHOLE", "RUN"), "*i32")
    types |= dict.fromkeys(("MEAN", "GRAM", "CENTRE", "STATE", "OUT"), "*fp32")
    gram = {"D": d, "BD": tiles.gram_dims, "T": tiles.gram_keys, "C": tiles.chunk, "COMPUTE": compute}
    rows = {
        "D": d, "BK": tiles.score_dims, "BD": tiles.out_dims, "BE": tiles.inner_dims, "M": tiles.rows.m,
        "N": tiles.rows.n, "C": tiles.chunk, "SUBS": tiles.chunk // tiles.rows.m, "COMPUTE": compute,
    }  # fmt: skip
    return [
        ("share gram", gram_kernel, types, gram, tiles.rows),
        ("share run", run_kernel, types, {"D": d, "BD": tiles.gram_dims, "C": tiles.chunk}, tiles.rows),
        ("share rows", share_kernel, types, rows, tiles.rows),
    ]
