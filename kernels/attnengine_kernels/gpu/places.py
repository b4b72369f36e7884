"""The places pass: where in the text the pattern lies, in one sweep over the score tiles with lse known.

Masses on keys of the same token, after the same token and in another sentence compare integers per pair; mean offset
and distance, and the masses by log2 bins of distance beyond the band, come from the sums of whole tiles wherever a tile
lies on one side of the diagonal; so does the first key's share of what the values weigh.

FLOPs: 2 D per visible pair and about 20 instructions beside the exponential. Bytes: q, k and v once (keys again from L2
per row block), 28 per row and head. Scores, ``exp`` and row sums are fp32; bins are fp32 per row block, fp64 over them.
Sources: induction and duplicate-token heads are those of Elhage et al. 2021 and Wang et al., arXiv 2211.00593; weighing
by value norms is Kobayashi et al., arXiv 2004.10102 (norms of v here, not of v W_O).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Float64, Int, Int32
from torch import Tensor

from attnengine_kernels.call import AttentionCall
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
from attnengine_kernels.gpu._places_kernel import places_kernel
from attnengine_kernels.gpu._positions import find_places
from attnengine_kernels.gpu.rows import row_lse

BINS = 15  # on either side, the last up to 2^22
SLOTS = 32
OUTPUTS = ("same_token", "induction", "other_sentence", "value_weight", "value_weight_first", "offset", "distance")


@dataclass(frozen=True)
class PlaceFacts:
    """What is known of the tokens on the call's device; what is None is left out of the results.

    ``cross``: queries and keys are two streams, so there are no offsets, and no key is the query itself. Positions as
    in :func:`.band.band_pass`; without them every token has one.
    """

    cross: bool = False
    query_position: Int32[Tensor, "b q"] | None = None
    key_position: Int32[Tensor, "b k"] | None = None
    query_token: Int32[Tensor, "b q"] | None = None  # ids >= 0
    key_token: Int32[Tensor, "b k"] | None = None  # -1: never a target, nor what a target follows (padding)
    query_sentence: Int32[Tensor, "b q"] | None = None  # -1: in none
    key_sentence: Int32[Tensor, "b k"] | None = None
    query_patch: Float[Tensor, "b q 2"] | Int[Tensor, "b q 2"] | None = None  # row and column in the picture
    key_patch: Float[Tensor, "b k 2"] | Int[Tensor, "b k 2"] | None = None
    first: Int32[Tensor, " b"] | None = None  # the window's first key; None: key 0


@dataclass(frozen=True)
class PlaceSums:
    """Per row, fp32, and by distance per window or packed sequence, fp64; zeros for rows that see nothing.

    ``p^`` is p renormalised over the keys that have a position; i and j are positions.
    """

    value_weight: Float32[Tensor, "b h q"]  # Σ_j p_ij |v_j|
    value_weight_first: Float32[Tensor, "b h q"]  # p_i0 |v_0|, 0 the window's first key
    same_token: Float32[Tensor, "b h q"] | None  # Σ p on keys of the row's token, without the row itself
    induction: Float32[Tensor, "b h q"] | None  # Σ p on keys after the row's token, but the row and the one after it
    other_sentence: Float32[Tensor, "b h q"] | None  # Σ p where both stand in a sentence, not the same
    offset: Float32[Tensor, "b h q"] | None  # Σ_j p^_ij (i - j)
    distance: Float32[Tensor, "b h q"] | None  # Σ_j p^_ij |i - j|, with patches the Euclidean distance
    behind: Float64[Tensor, "n h 15"] | None  # Σ p by offset in [64, 128) · 2^s, s = 1 … 15
    ahead: Float64[Tensor, "n h 15"] | None  # the same for minus the offset


def places_pass(
    call: AttentionCall,
    facts: PlaceFacts | None = None,
    cu_seqlens: Int[Tensor, " s"] | None = None,
) -> PlaceSums:
    """Masses by token, sentence, offset, distance and value of one call, see :class:`PlaceSums`.

        same_i = Σ_j p_ij [t_j = t_i, j ≠ i],  induction_i = Σ_j p_ij [t_{j-1} = t_i, j ≠ i, i + 1],
        offset_i = Σ_j p^_ij (i - j),  behind_s = Σ_i Σ_j p_ij [64 · 2^s <= i - j < 128 · 2^s]

    With ``cu_seqlens`` (n + 1,), batch of 1, bins are per packed sequence. ``call.lse`` is trusted as it is and made by
    :func:`.rows.row_lse` if None. A row whose whole mass underflows fp32 has the offset 0.

    Errors against fp64: masses <= 1e-5 a row, means <= 1e-5 of the largest distance. NaN in a query, key or value that
    is seen makes the results it meets NaN. Raises ValueError or TypeError for facts that do not fit the call or come
    for one side only, for positions that do not rise by one, and for what the kernel does not take.
    """
    f = PlaceFacts() if facts is None else facts
    rows, bins = _places(
        *flat(call), f.cross, f.query_position, f.key_position, f.query_token, f.key_token, f.query_sentence,
        f.key_sentence, f.query_patch, f.key_patch, f.first, cu_seqlens,
    )  # fmt: skip
    named = dict(zip(OUTPUTS, rows.unbind(), strict=True))
    token, sentence = f.query_token is not None, f.query_sentence is not None

    def when(there: bool, name: str) -> Tensor | None:
        return named[name] if there else None

    return PlaceSums(
        named["value_weight"], named["value_weight_first"], when(token, "same_token"), when(token, "induction"),
        when(sentence, "other_sentence"), when(not f.cross, "offset"), when(not f.cross, "distance"),
        None if f.cross else bins[..., BINS + 2 :], None if f.cross else bins[..., 1 : BINS + 1].flip(-1),
    )  # fmt: skip


@torch.library.custom_op("attnengine::places", mutates_args=())
def _places(
    query: Tensor, key: Tensor, value: Tensor, lo: Tensor, hi: Tensor, scale: float, softcap: float | None,
    sink: Tensor | None, bias: Tensor | None, lse: Tensor | None, cross: bool, query_position: Tensor | None,
    key_position: Tensor | None, query_token: Tensor | None, key_token: Tensor | None, query_sentence: Tensor | None,
    key_sentence: Tensor | None, query_patch: Tensor | None, key_patch: Tensor | None, first: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    call = AttentionCall(query, key, value, lo, hi, scale, softcap, sink, bias, lse)
    check_triton(call)
    q, k = unit_stride(query), unit_stride(key)
    (b, h, n_rows, d), (hkv, n_keys) = q.shape, k.shape[1:3]
    token, theirs = pair("token", query_token, key_token, b, n_rows, n_keys)
    sentence, other = pair("sentence", query_sentence, key_sentence, b, n_rows, n_keys)
    patch, tiles = pair("patch", query_patch, key_patch, b, n_rows, n_keys)
    before = None if theirs is None else torch.cat([theirs.new_full((b, 1), -1), theirs[:, :-1]], dim=1)
    if before is not None and theirs is not None:
        before = before.masked_fill(theirs < 0, -1).contiguous()
    start = lo.new_zeros(b) if first is None else first
    if tuple(start.shape) != (b,) or start.dtype != torch.int32:
        raise ValueError(f"first: expected int32 of shape {(b,)}, got {start.dtype} of {tuple(start.shape)}")
    known = (row_lse(call) if lse is None else lse.float()).contiguous()
    known = known.masked_fill(known == -torch.inf, 0.0)  # rows without keys: -inf minus -inf would be NaN
    places = None if cross else find_places(call, query_position, key_position)
    seen = keys_seen(call)
    norm = torch.linalg.vector_norm(value, dim=-1, dtype=torch.float32)
    norm = norm.masked_fill(seen[:, None] == 0, 0.0).contiguous()  # (b, hkv, k)
    tile = places_tile(d, q.dtype)
    blocks = row_blocks(b, n_rows, tile.m, q.device, cu_seqlens)
    dense = None if bias is None else bias.expand(b, h, n_rows, n_keys)
    rows = q.new_zeros((len(OUTPUTS), b, h, n_rows), dtype=torch.float32)  # packed: some rows may be in no block
    bins = q.new_empty((len(blocks.table), h, SLOTS), dtype=torch.float32)
    places_kernel[(len(blocks.table) * h,)](
        q, k, blocks.table, lo.clamp(min=0).contiguous(), hi.clamp(max=n_keys).contiguous(), rows_seeing(call), seen,
        *((places.shift, places.placed, places.row_placed) if places else (None, None, None)), start.contiguous(),
        norm, None if token is None else token.masked_fill(token < 0, -2), theirs, before, sentence, other, patch,
        tiles, dense, known, rows, bins, h, h // hkv, n_rows, n_keys, b * h * n_rows, scale, softcap or 0.0,
        *q.stride()[:3], *k.stride()[:3], *(dense.stride() if dense is not None else (0,) * 4), D=d, DP=padded_dim(d),
        M=tile.m, N=tile.n, EDGE=tile.edge, COMPUTE=compute_type(q.dtype), SOFTCAP=softcap is not None,
        HAS_BIAS=dense is not None, TOKENS=token is not None, SENTENCES=sentence is not None, OFFSETS=not cross,
        PATCHES=patch is not None and not cross, **tile.options(),
    )  # fmt: skip
    return rows, blocks.sum(bins)


@_places.register_fake
def _(query: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    b, h, n_rows = query.shape[:3]
    n = rest[-1].shape[0] - 1 if isinstance(rest[-1], Tensor) else b
    rows = query.new_empty((len(OUTPUTS), b, h, n_rows), dtype=torch.float32)
    return rows, query.new_empty((n, h, SLOTS), dtype=torch.float64)


def pair(
    name: str, query: Tensor | None, key: Tensor | None, b: int, n_rows: int, n_keys: int
) -> tuple[Tensor | None, Tensor | None]:
    """Both sides' facts as the kernel reads them: ids int32, patches fp32."""
    if query is None or key is None:
        if query is not key:
            raise ValueError(f"query_{name}, key_{name}: expected both or neither, got one")
        return None, None
    tail = (2,) if name == "patch" else ()
    for side, x, length in (("query", query, n_rows), ("key", key, n_keys)):
        if tuple(x.shape) != (b, length, *tail):
            raise ValueError(f"{side}_{name}: expected shape {(b, length, *tail)}, got {tuple(x.shape)}")
        if name != "patch" and x.dtype != torch.int32:
            raise TypeError(f"{side}_{name}: expected int32, got {x.dtype}")
    if name == "patch":
        return query.float().contiguous(), key.float().contiguous()
    return query.contiguous(), key.contiguous()


def places_tile(d: int, dtype: torch.dtype) -> Tile:
    """The same tile on every architecture."""
    if dtype == torch.float32:
        return Tile(32, 16, 16, 8, 1)
    return Tile(128, 32, 32 if padded_dim(d) == 256 else 16, 8, 2)


def shipped(_arch: int, d: int, dtype: torch.dtype) -> list[Shipped]:
    """The launches of this module on a plain call, for the ahead-of-time compiler: text, and images."""
    element = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}[dtype]
    strides = [f"{x}_{axis}" for x in "qk" for axis in "bhl"]
    types = dict.fromkeys(["n_heads", "group", "n_rows", "n_keys", "out_stride", *strides], "i32")
    types |= {"scale": "fp32", "softcap": "fp32", "SEES": "*i8", "SEEN": "*i8", "Q": element, "K": element}
    text = ("TOKEN", "KEY_TOKEN", "BEFORE_TOKEN", "SENTENCE", "KEY_SENTENCE")
    integers = ("BLOCKS", "LO", "HI", "SHIFT", "PLACED", "ROW_PLACED", "FIRST", *text)
    types |= dict.fromkeys(integers, "*i32")
    types |= dict.fromkeys(("NORM", "PATCH", "KEY_PATCH", "LSE", "OUT", "BINS"), "*fp32")
    tile = places_tile(d, dtype)
    plain = dict.fromkeys(("BIAS", "a_b", "a_h", "a_q", "a_k")) | {"SOFTCAP": False, "HAS_BIAS": False}
    plain |= {"D": d, "DP": padded_dim(d), "M": tile.m, "N": tile.n, "EDGE": tile.edge, "OFFSETS": True}
    plain |= {"COMPUTE": compute_type(dtype)}
    words = plain | {"TOKENS": True, "SENTENCES": True, "PATCHES": False, "PATCH": None, "KEY_PATCH": None}
    images = plain | {"TOKENS": False, "SENTENCES": False, "PATCHES": True} | dict.fromkeys(text)
    return [
        ("places text", places_kernel, types, words, tile),
        ("places images", places_kernel, types, images, tile),
    ]
