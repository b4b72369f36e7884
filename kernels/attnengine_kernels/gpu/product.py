"""The product pass: every element-wise product q_i * k_j of chosen queries with all keys, the view of one neuron.

    x_ijd = q_id k_jd,  s_ij = score as the model uses it,  p_ij = exp(s_ij - lse_i)

Memory-bound: one multiplication and 4 bytes written per row, head, key and dim; K is read once a chosen row and query
head (from L2 where rows share a window). 2 D FLOPs a pair for the score.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from jaxtyping import Bool, Float32, Int
from torch import Tensor

from attnengine_kernels._check import hidden_pairs
from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu._chosen import check_rows, chosen_lse, chosen_visible
from attnengine_kernels.gpu._launch import Shipped, Tile, check_triton, padded_dim, unit_stride
from attnengine_kernels.gpu._ops import flat
from attnengine_kernels.gpu._top_keys_kernel import product_kernel

ELEMENTS = 4096  # of a program's (keys, dims) tile


@dataclass(frozen=True)
class Products:
    """Per chosen row; hidden pairs have product 0, score -inf and p 0."""

    product: Float32[Tensor, "n h k d"]  # q_id k_jd, unscaled
    score: Float32[Tensor, "n h k"]
    p: Float32[Tensor, "n h k"]
    visible: Bool[Tensor, "n k"]


def product_pass(call: AttentionCall, rows: Int[Tensor, "n 2"]) -> Products:
    """Products, scores and pattern of the (window, query) pairs ``rows`` with every key, see :class:`Products`.

    4 n h k d bytes: choose few rows. ``call.lse`` is trusted and made from the rows' scores (and sink) if None. The
    products are exact to fp32's rounding, scores fp32 sums. A NaN that a row sees shows in its product, score and p.
    Raises ValueError or TypeError for rows outside the call, a bias that hides other pairs in other heads, and what the
    kernels do not take.
    """
    return Products(*_products(*flat(call), rows))


@torch.library.custom_op("attnengine::products", mutates_args=())
def _products(
    query: Tensor, key: Tensor, value: Tensor, lo: Tensor, hi: Tensor, scale: float, softcap: float | None,
    sink: Tensor | None, bias: Tensor | None, lse: Tensor | None, rows: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    call = AttentionCall(query, key, value, lo, hi, scale, softcap, sink, bias, lse)
    check_triton(call)
    chosen = check_rows(call, rows)
    visible = chosen_visible(call, chosen, hidden_pairs(bias))
    q, k = unit_stride(query), unit_stride(key)
    (b, h, n_rows, d), (hkv, n_keys) = q.shape, k.shape[1:3]
    product = torch.empty(len(chosen), h, n_keys, d, device=q.device)
    score = torch.empty(len(chosen), h, n_keys, device=q.device)
    dense, tile = None if bias is None else bias.expand(b, h, n_rows, n_keys), product_tile(d)
    if len(chosen):
        product_kernel[(len(chosen) * h * triton.cdiv(n_keys, tile.n),)](
            q, k, lo.contiguous(), hi.contiguous(), chosen, dense, product, score, h, h // hkv, n_rows, n_keys, scale,
            softcap or 0.0, *q.stride()[:3], *k.stride()[:3], *(dense.stride() if dense is not None else (0,) * 4),
            D=d, DP=padded_dim(d), N=tile.n, SOFTCAP=softcap is not None, HAS_BIAS=dense is not None,
            **tile.options(),
        )  # fmt: skip
    known = chosen_lse(call, chosen, torch.logsumexp(score, dim=-1))
    p = torch.exp(score - known[..., None]).masked_fill(~visible[:, None], 0.0)
    return product, score, p, visible


@_products.register_fake
def _(query: Tensor, key: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = rest[-1]
    assert isinstance(rows, Tensor)
    n, h, k, d = rows.shape[0], query.shape[1], key.shape[2], query.shape[3]

    def new(*shape: int) -> Tensor:
        return query.new_empty(shape, dtype=torch.float32)

    return new(n, h, k, d), new(n, h, k), new(n, h, k), query.new_empty((n, k), dtype=torch.bool)


def product_tile(d: int) -> Tile:
    """Keys of a program; one row, so ``m`` is 1."""
    n = ELEMENTS // padded_dim(d)
    return Tile(1, n, n, 4, 1)


def shipped(_arch: int, d: int, dtype: torch.dtype) -> list[Shipped]:
    """Every launch of this module on a plain call, for the ahead-of-time compiler."""
    element = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}[dtype]
    strides = [f"{x}_{axis}" for x in "qk" for axis in "bhl"]
    types = dict.fromkeys(["n_heads", "group", "n_rows", "n_keys", *strides], "i32")
    types |= {"Q": element, "K": element, "LO": "*i32", "HI": "*i32", "ROWS": "*i64", "scale": "fp32"}
    types |= {"softcap": "fp32", "PRODUCT": "*fp32", "SCORE": "*fp32"}
    absent = dict.fromkeys(("BIAS", "a_b", "a_h", "a_q", "a_k"))
    tile = product_tile(d)
    shape = {"D": d, "DP": padded_dim(d), "N": tile.n, "SOFTCAP": False, "HAS_BIAS": False}
    return [("product", product_kernel, types, absent | shape, tile)]
