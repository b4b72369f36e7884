"""Attention as the vendor computes it, with the log-sum-exp that its kernels make anyway.

`scaled_dot_product_attention` drops the lse; the operators it dispatches to return it. Here the same operator is
called with the same arguments, so the output has the bits of plain SDPA, and the lse comes out in one form: natural
log, (b, h, q), fp32. What differs between the backends:

    flash      CUDA: lse (b, h, q); head widths are padded to a multiple of 8 first, as SDPA does. No masks.
               CPU: lse (b, q, h) in memory; takes an additive mask and fewer key heads.
    efficient  only on request; rows padded to a multiple of 32; a mask's rows must be aligned to 8 elements in memory
    cudnn      only on request; (b, h, q, 1); SDPA hides with -65504 instead of -inf in a boolean mask, so do we
    math       has none: :func:`attention_with_lse` adds a sweep of :func:`.gpu.rows.row_lse` on CUDA, torch elsewhere

``is_causal`` is aligned at the top left, as in SDPA: row i sees keys 0…i, whatever the number of keys. The lse of a
row whose mask hides every key is whatever the backend writes there.
Source: torch 2.13, ``aten/src/ATen/native/transformers/attention.cpp`` (what SDPA does before it dispatches).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnengine_kernels.call import AttentionCall

BACKENDS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
_NAMES = {backend.value: name for name, backend in BACKENDS.items()}
HIDDEN_IN_CUDNN = -65504.0
ROWS_A_TILE = 128


class VendorAttention(NamedTuple):
    """Output in the inputs' type, and the lse: natural log, fp32; which of torch's backends ran."""

    output: Float[Tensor, "b h q dv"]
    lse: Float32[Tensor, "b h q"]
    backend: str


def attention_with_lse(
    query: Float[Tensor, "b h q d"],
    key: Float[Tensor, "b hkv k d"],
    value: Float[Tensor, "b hkv k dv"],
    *,
    mask: Bool[Tensor, "#b #h #q k"] | Float[Tensor, "#b #h #q k"] | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    backend: str = "auto",
) -> VendorAttention:
    """Plain SDPA, bit for bit, and ``lse_i = log Σ_j exp s_ij`` of the scores it used.

    ``mask`` as SDPA takes it: True where a key is seen, or a number added to the score. ``backend`` is one of "auto"
    (what SDPA would choose), "flash", "efficient", "cudnn", "math". FLOPs and bytes are the vendor's; where it gives no
    lse (math), 2 D FLOPs per visible pair more. Forward only. Raises ValueError or TypeError for shapes and types that
    do not fit together, a mask beside ``is_causal``, and a backend that torch does not run this call with.
    """
    _check(query, key, value, mask, is_causal, backend)
    gqa = query.shape[1] != key.shape[1]
    if backend == "auto":
        output, lse, name = sdpa_with_lse(query, key, value, mask, is_causal=is_causal, scale=scale, enable_gqa=gqa)
    else:
        with sdpa_kernel(BACKENDS[backend]):
            output, lse, name = sdpa_with_lse(query, key, value, mask, is_causal=is_causal, scale=scale, enable_gqa=gqa)
    if lse is None:
        factor = query.shape[3] ** -0.5 if scale is None else scale
        lse = (lse_by_kernel if query.device.type == "cuda" else lse_by_torch)(query, key, mask, is_causal, factor)
    return VendorAttention(output, lse.float(), name)


def sdpa_with_lse(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> tuple[Tensor, Tensor | None, str]:  # fmt: skip
    """What SDPA returns for these arguments, the lse (b, h, q) where its backend gives it, the backend's name.

    Raises ValueError where no enabled backend takes the call.
    """
    try:
        choice = torch._fused_sdp_choice(query, key, value, mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa)
    except RuntimeError as error:  # the CPU's way to say so; CUDA's is the error value
        raise ValueError(
            f"backend: torch runs none of those enabled on {_described(query, key, value, mask)}"
        ) from error
    if choice == SDPBackend.ERROR.value:
        raise ValueError(f"backend: torch runs none of those enabled on {_described(query, key, value, mask)}")
    name = _NAMES.get(choice, "other")
    device = query.device.type
    if name == "flash" and device == "cpu":
        return *flash_on_cpu(query, key, value, mask, is_causal, scale), name
    if name == "flash" and device == "cuda":
        return *flash_on_cuda(query, key, value, is_causal, scale), name
    if name == "efficient" and device == "cuda":
        return *efficient_on_cuda(query, key, value, mask, is_causal, scale), name
    if name == "cudnn" and device == "cuda":
        return *cudnn_on_cuda(query, key, value, mask, is_causal, scale), name
    output = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
    )
    return output, None, name


def flash_on_cpu(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Output and lse of torch's flash attention on the CPU."""
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal, attn_mask=_additive(mask, query.dtype, -torch.inf), scale=scale
    )
    return output, lse


def flash_on_cuda(
    query: Tensor, key: Tensor, value: Tensor, is_causal: bool, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Output and lse of FlashAttention; the scale is that of the width before padding."""
    d = query.shape[-1]
    q, k, v = (_padded_to_8(x) for x in (query, key, value))
    output, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        q, k, v, 0.0, is_causal, scale=d**-0.5 if scale is None else scale
    )
    return output[..., :d], lse


def efficient_on_cuda(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Output and lse of memory-efficient attention, without the rows that pad the lse."""
    bias = _additive(mask, query.dtype, -torch.inf)
    if bias is not None:
        bias = _aligned_to_8(bias).expand(*query.shape[:3], key.shape[2])
    output, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, 0.0, is_causal, scale=scale
    )
    return output, lse[:, :, : query.shape[2]]


def cudnn_on_cuda(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Output and lse of cuDNN's attention."""
    bias = _additive(mask, query.dtype, HIDDEN_IN_CUDNN)
    output, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
        query, key, value, bias, True, 0.0, is_causal, scale=scale
    )
    return output, lse.reshape(query.shape[:3])


def lse_by_kernel(query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool, scale: float) -> Tensor:
    """The lse from :func:`.gpu.rows.row_lse`: tiles, no matrix of scores."""
    from attnengine_kernels.gpu.rows import row_lse  # Triton is imported where it runs

    b, _, n_rows, n_keys = *query.shape[:3], key.shape[2]
    end = torch.arange(1, n_rows + 1, dtype=torch.int32, device=query.device).clamp(max=n_keys)
    hi = (end if is_causal else torch.full_like(end, n_keys)).expand(b, -1)
    bias = _additive(mask, torch.float32, -torch.inf)
    if bias is not None:
        bias = bias.expand(torch.broadcast_shapes(bias.shape, (1, 1, n_rows, n_keys)))
    return row_lse(AttentionCall(query, key, key, torch.zeros_like(hi), hi, scale, bias=bias))


def lse_by_torch(query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool, scale: float) -> Tensor:
    """The lse from 128 rows of scores at a time, in fp32."""
    b, h, n_rows, n_keys = *query.shape[:3], key.shape[2]
    group = h // key.shape[1]
    k = key.float().repeat_interleave(group, dim=1).mT  # (b, h, d, k)
    bias = _additive(mask, torch.float32, -torch.inf)
    bias = None if bias is None else bias.expand(torch.broadcast_shapes(bias.shape, (1, 1, n_rows, n_keys)))
    lse = torch.empty(b, h, n_rows, dtype=torch.float32, device=query.device)
    position, row = (torch.arange(n, device=query.device) for n in (n_keys, n_rows))
    for start in range(0, n_rows, ROWS_A_TILE):
        tile = slice(start, min(start + ROWS_A_TILE, n_rows))
        score = query[:, :, tile].float() @ k * scale  # (b, h, rows, k)
        if bias is not None:
            score = score + bias[:, :, tile]
        if is_causal:
            score = score.masked_fill(position > row[tile, None], -torch.inf)
        lse[:, :, tile] = torch.logsumexp(score, dim=-1)
    return lse


def _additive(mask: Tensor | None, dtype: torch.dtype, hidden: float) -> Tensor | None:
    """A boolean mask as 0 and ``hidden`` of ``dtype``; an additive one as it is."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.where(mask, 0.0, torch.scalar_tensor(hidden, dtype=dtype, device=mask.device))


def _padded_to_8(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x, (0, -x.shape[-1] % 8)) if x.shape[-1] % 8 else x


def _aligned_to_8(bias: Tensor) -> Tensor:
    """The same bias in memory whose rows start at multiples of 8 elements."""
    n = bias.shape[-1]
    if bias.stride(-1) == 1 and all(stride % 8 == 0 for stride in bias.stride()[:-1]):
        return bias
    return torch.nn.functional.pad(bias, (0, 8 - n % 8))[..., :n]


def _described(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> str:
    tensors = {"query": query, "key": key, "value": value} | ({} if mask is None else {"mask": mask})
    return ", ".join(f"{name} {tuple(x.shape)} {x.dtype}" for name, x in tensors.items()) + f" on {query.device}"


def _check(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool, backend: str) -> None:
    what = _described(query, key, value, mask)
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"backend: expected auto, {', '.join(BACKENDS)}, got {backend!r}")
    if query.ndim != 4 or key.ndim != 4 or value.ndim != 4:
        raise ValueError(f"expected 4 dimensions (window, head, position, feature), got {what}")
    b, h, n_rows, d = query.shape
    hkv, n_keys = key.shape[1:3]
    if tuple(key.shape) != (b, hkv, n_keys, d) or tuple(value.shape[:3]) != (b, hkv, n_keys) or not hkv or h % hkv:
        raise ValueError(f"expected query (b, h, q, d), key (b, hkv, k, d), value (b, hkv, k, dv), hkv | h, got {what}")
    if len({query.dtype, key.dtype, value.dtype}) > 1 or not query.is_floating_point():
        raise TypeError(f"expected one floating dtype for query, key and value, got {what}")
    if mask is not None and is_causal:
        raise ValueError("mask: expected None beside is_causal=True")
    if mask is not None:
        if mask.dtype not in (torch.bool, torch.float32, query.dtype):
            raise TypeError(f"mask: expected bool or the type of query, got {what}")
        full = (b, h, n_rows, n_keys)
        if mask.ndim != 4 or any(size not in (1, whole) for size, whole in zip(mask.shape, full, strict=True)):
            raise ValueError(f"mask: expected a shape that broadcasts to {full}, got {tuple(mask.shape)}")
