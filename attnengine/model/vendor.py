"""The attention itself: stock SDPA, bit for bit, with the log-sum-exp it computes anyway; and what SDPA lacks.

`stock_attention` runs transformers' own SDPA function and only listens at the one torch call inside it. So whatever
that function decides (repeating key heads, cropping, ``is_causal``, merging a position bias) is decided by it, in
every release. `dense_attention` serves the models SDPA cannot: soft-capped scores (Gemma2) and learned sinks
(GPT-OSS), in fp32, within 1e-5 of eager attention and without its L x L memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from attnengine.model.masks import MaskReader, Visibility
from attnengine_kernels.vendor import sdpa_with_lse

ROWS_A_TILE = 128


def stock_attention(
    masks: MaskReader,
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Output (b, q, h, dv) of transformers' SDPA attention and, where torch gives it, the lse (b, h, q) in fp32.

    The lse of a row that sees no key is whatever the vendor writes there.
    """
    with _Listener(masks) as listener:
        output, _ = sdpa_attention_forward(module, query, key, value, mask, **kwargs)
    lse = listener.lse
    if lse is not None:
        lse = lse.reshape(query.shape[0], query.shape[1], query.shape[2]).float()
    return output, lse


class _Listener(TorchFunctionMode):
    """Answers the one call of torch's SDPA with the operator it would dispatch to, which also gives the lse."""

    def __init__(self, masks: MaskReader):
        super().__init__()
        self.masks = masks
        self.lse: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        output, self.lse = _sdpa_with_lse(self.masks, *args, **kwargs)
        return output


def _sdpa_with_lse(
    masks: MaskReader,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """What torch's SDPA returns, with the natural-log lse where its backend gives one."""
    if dropout_p:
        output = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
        return output, None
    if query.device.type == "cpu" and attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = masks.additive(attn_mask, query.dtype)  # torch would do this anew in every layer
    output, lse, _ = sdpa_with_lse(
        query, key, value, attn_mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa
    )
    return output, lse


def dense_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seen: Visibility,
    scale: float,
    softcap: float | None = None,
    sink: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output (b, q, h, dv) in query's dtype and lse (b, h, q) fp32 of capped, sunk attention, computed in fp32.

    ``s = scale q.k``, ``s = softcap tanh(s / softcap)``, ``s += bias``, ``lse = log(sum exp s + exp sink)``. One
    window and 128 rows at a time: (h, 128, k) scores at once. Rows that see nothing give zeros.
    """
    batch, heads, rows, _ = query.shape
    output = query.new_zeros(batch, rows, heads, value.shape[-1])
    lse = torch.full((batch, heads, rows), float("-inf"), dtype=torch.float32, device=query.device)
    for window in range(batch):
        k = _per_query_head(key[window], heads).float()
        v = _per_query_head(value[window], heads).float()
        for start in range(0, rows, ROWS_A_TILE):
            tile = slice(start, start + ROWS_A_TILE)
            score = torch.matmul(query[window, :, tile].float(), k.mT) * scale  # (h, rows, k)
            if softcap is not None:
                score = softcap * torch.tanh(score / softcap)
            score = _hide(score, seen, window, tile)
            if sink is not None:
                column = sink.float()[:, None, None].expand(-1, score.shape[1], 1)
                score = torch.cat([score, column], dim=-1)
            row_lse = torch.logsumexp(score, dim=-1)  # -inf where the row sees nothing
            pattern = torch.exp(score - row_lse.masked_fill(row_lse == float("-inf"), 0)[..., None])
            result = torch.matmul(pattern[..., : k.shape[1]], v)  # (h, rows, dv)
            output[window, tile] = result.transpose(0, 1).to(output.dtype)
            lse[window, :, tile] = row_lse
    return output, lse


def _per_query_head(states: Tensor, heads: int) -> Tensor:
    """(hkv, k, d) repeated to (h, k, d): each key head serves neighbouring query heads."""
    return states.repeat_interleave(heads // states.shape[0], dim=0) if states.shape[0] != heads else states


def _hide(score: Tensor, seen: Visibility, window: int, tile: slice) -> Tensor:
    """The scores (h, rows, k) with the bias added and -inf at the keys that the rows ``tile`` do not see."""
    position = torch.arange(score.shape[-1], device=score.device)
    lo, hi = seen.lo[window, tile, None], seen.hi[window, tile, None]
    if seen.bias is not None:
        score = score + seen.bias[window if seen.bias.shape[0] > 1 else 0, :, tile].float()
    return score.masked_fill((position < lo) | (position >= hi), float("-inf"))
