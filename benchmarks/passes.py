"""What is timed: our passes and their rivals, each with the FLOPs and bytes that its formula needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from attnengine_kernels import AttentionCall, Memory, TokenFacts, head_sums
from attnengine_kernels.vendor import attention_with_lse
from benchmarks.calls import Shape, features_of, visible_pairs

CHUNK = 128  # query rows at a time of the torch rivals


class Part(NamedTuple):
    """One timed thing: what runs, FLOPs per visible pair and head dim, tensors of q's size read or written."""

    run: Callable[[AttentionCall], object]
    flops: float = 0.0  # times visible pairs, heads and D
    tensors: float = 0.0  # times the bytes of q
    target: float | None = None  # ratio to F at the reference shape, from the issue


def floors(shape: Shape, device: str) -> dict[str, Part]:
    """Plain attention: F is the fastest of these."""
    backends = ("flash", "cudnn") if device == "cuda" and not shape.skewed else ()
    found = {"sdpa": Part(lambda call: _plain(call, shape), 4, 4), "sdpa again": Part(lambda c: _plain(c, shape), 4, 4)}
    for name in backends:
        found[f"sdpa {name}"] = Part(
            lambda call, name=name: attention_with_lse(  # type: ignore[misc]
                call.query, call.key, call.value, is_causal=shape.causal, backend=name
            ).output, 4, 4,
        )  # fmt: skip
    return found


def ours(device: str, facts: TokenFacts) -> dict[str, Part]:
    """Every pass of this library that the device runs."""
    memory = Memory()

    def every(call: AttentionCall, stats: str = "all") -> object:
        return head_sums(call, facts, facts, stats=stats, memory=memory)

    every_column = {
        "every column": Part(every, 4 + 6, 8),
        "core columns": Part(lambda call: every(call, "core"), 4 + 4, 8),
    }
    if device == "cpu":
        return every_column | {"every column, own lse": Part(lambda call: every(replace(call, lse=None)), 10, 8)}
    return _triton(facts) | every_column


def _triton(facts: TokenFacts) -> dict[str, Part]:
    from attnengine_kernels.gpu.band import band_pass
    from attnengine_kernels.gpu.columns import column_pass
    from attnengine_kernels.gpu.distances import distance_pass
    from attnengine_kernels.gpu.fused import fused_attention
    from attnengine_kernels.gpu.histograms import joint_histograms, score_histograms
    from attnengine_kernels.gpu.places import PlaceFacts, places_pass
    from attnengine_kernels.gpu.rows import row_lse, row_pass
    from attnengine_kernels.gpu.scans import scan_pass
    from attnengine_kernels.gpu.share import share_pass

    token, sentence = (None if x is None else x.int() for x in (facts.token_id, facts.sentence))
    place = PlaceFacts(
        query_position=facts.position, key_position=facts.position, query_token=token, key_token=token,
        query_sentence=sentence, key_sentence=sentence,
    )  # fmt: skip
    return {
        "fused forward, statistics off": Part(fused_attention, 4, 4),
        "fused forward, features": Part(lambda call: fused_attention(call, features_of(call)), 4, 4),
        "lse": Part(row_lse, 2, 2),
        "row": Part(lambda call: row_pass(call, want_ak=False), 2, 2),
        "row: ak": Part(row_pass, 4, 4),
        "row: ak, features": Part(lambda call: row_pass(call, features_of(call)), 4, 4, 1.3),
        "row: ak, ak2, features": Part(lambda call: row_pass(call, features_of(call), want_ak2=True), 6, 6),
        "columns": Part(column_pass, 2, 2, 0.8),
        "columns: aq": Part(lambda call: column_pass(call, want_aq=True), 4, 4),
        "band": Part(lambda call: band_pass(call, facts.position, facts.position), 0, 2),
        "places": Part(lambda call: places_pass(call, place), 2, 2),
        "scan": Part(scan_pass, 0, 2, 0.2),
        "distances": Part(lambda call: distance_pass(call, place), 0, 2),
        "share": Part(share_pass, 0, 2, 0.3),
        "score histogram": Part(score_histograms, 2, 2),
        "joint histograms": Part(joint_histograms, 0, 2),
    }


def rivals(shape: Shape) -> dict[str, Part]:
    """What one does without this library."""
    key_of = {"v := k": lambda c: c.key, "v := k²": lambda c: c.key.square(), "v := features": _padded_features}
    found = {
        f"sdpa, {name}": Part(lambda call, value=value: _plain(replace(call, value=value(call)), shape), 4, 4)  # type: ignore[misc]
        for name, value in key_of.items()
    }
    found["torch, chunked statistics"] = Part(chunked_statistics, 4, 2)
    found["torch.compile, chunked statistics"] = Part(lambda call: _compiled(chunked_statistics)(call), 4, 2)
    if not shape.skewed:
        found["flex attention, lse and max"] = Part(lambda call: _flex(call, shape.causal), 4, 4)
    found["eager pattern, three statistics"] = Part(materialised, 4, 2)
    return found


def work(part: Part, call: AttentionCall) -> tuple[float, float]:
    """(FLOPs, bytes) that a part's formula needs for a call."""
    h, d = call.query.shape[1], call.query.shape[3]
    return part.flops * visible_pairs(call) * h * d, part.tensors * call.query.numel() * call.query.element_size()


def _plain(call: AttentionCall, shape: Shape) -> Tensor:
    return sdpa(
        call.query, call.key, call.value, is_causal=shape.causal, enable_gqa=call.query.shape[1] != call.key.shape[1]
    )


def _padded_features(call: AttentionCall) -> Tensor:
    columns = features_of(call)[:, None].expand(-1, call.key.shape[1], -1, -1)
    return torch.nn.functional.pad(columns, (0, call.key.shape[3] - columns.shape[3]))


def chunked_statistics(call: AttentionCall) -> tuple[Tensor, ...]:
    """Entropy, p_max, A K and masses on 16 features as one writes them with lse known, 128 rows at a time."""
    group = call.query.shape[1] // call.key.shape[1]
    key, columns = call.key.repeat_interleave(group, 1), features_of(call)[:, None].float()
    index = torch.arange(call.key.shape[2], device=call.key.device)
    parts: list[tuple[Tensor, ...]] = []
    for r in range(0, call.query.shape[2], CHUNK):
        query = call.query[:, :, r : r + CHUNK]
        score = (query @ key.transpose(2, 3)).float() * call.scale
        visible = (call.lo[:, r : r + CHUNK, None] <= index) & (index < call.hi[:, r : r + CHUNK, None])
        score = score.masked_fill(~visible[:, None], -torch.inf)
        log_p = score - torch.logsumexp(score, -1, keepdim=True)
        p = torch.exp(log_p).nan_to_num(0.0)
        entropy = -(p * log_p.masked_fill(~visible[:, None], 0.0)).sum(-1)
        parts.append((entropy, p.amax(-1), p.to(key.dtype) @ key, p @ columns))
    return tuple(torch.cat(one, dim=2) for one in zip(*parts, strict=True))


def materialised(call: AttentionCall) -> tuple[Tensor, ...]:
    """Eager attention's whole pattern and three statistics of it, in fp32: what ``output_attentions`` leads to."""
    group = call.query.shape[1] // call.key.shape[1]
    index = torch.arange(call.key.shape[2], device=call.key.device)
    visible = (call.lo[..., None] <= index) & (index < call.hi[..., None])
    score = (call.query @ call.key.repeat_interleave(group, 1).transpose(2, 3)) * call.scale
    p = torch.softmax(score.masked_fill(~visible[:, None], -torch.inf).float(), dim=-1).nan_to_num(0.0)
    far = (index[:, None] - index).abs().float()
    return torch.special.entr(p).sum(-1), p.amax(-1), (p * far).sum(-1)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False)


@cache
def _flex_kernel() -> tuple[Any, ...]:
    from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

    return torch.compile(flex_attention, dynamic=False), cache(create_block_mask), AuxRequest(lse=True, max_scores=True)


def _causal_mask(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return q >= k


def _flex(call: AttentionCall, causal: bool) -> object:
    """FlexAttention with its auxiliary outputs; p_max = exp(max - lse) after the fact."""
    run, block_mask, aux = _flex_kernel()
    n, device = call.query.shape[2], str(call.query.device)
    mask = block_mask(_causal_mask, None, None, n, n, device) if causal else None
    gqa = call.query.shape[1] != call.key.shape[1]
    output, found = run(call.query, call.key, call.value, block_mask=mask, enable_gqa=gqa, return_aux=aux)
    return output, torch.exp(found.max_scores - found.lse)
