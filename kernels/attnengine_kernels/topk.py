"""The whole pattern of chosen query rows, and their heaviest keys, computed on those rows only."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from attnengine_kernels._check import check_call, hidden_pairs
from attnengine_kernels.call import AttentionCall

ROWS_AT_ONCE = 64  # (64, h, k) scores at a time: a segment of the engine's sample, and small enough for caches


class PatternRows(NamedTuple):
    """What attention does in a few rows, in fp32 (fp64 for fp64 inputs)."""

    window: Tensor  # (n,) int64
    position: Tensor  # (n,) int64
    p: Tensor  # (n, h, k), with the call's own lse where it has one; 0 where hidden
    log_p: Tensor  # (n, h, k), -inf where hidden
    visible: Tensor  # (n, k) bool


class TopKeys(NamedTuple):
    """The heaviest keys of a few rows, heaviest first, ties by lower index."""

    weights: Tensor  # (n, h, k) fp32; 0 where fewer keys are visible
    keys: Tensor  # (n, h, k) int32, the key's index in the window; -1 where fewer are visible
    entropy: Tensor  # (n, h) fp32 nats, of p renormalised over all keys


def pattern_rows(call: AttentionCall, rows: Tensor, at_once: int = ROWS_AT_ONCE) -> Iterator[PatternRows]:
    """The pattern of the (window, query) pairs ``rows`` (n, 2) int64, ``at_once`` rows at a time, in their order.

    Any device, results on the call's; rows on the host cost no wait for the device. Memory O(at_once · h · k); rows
    of one window are cheapest side by side. Raises ValueError as :func:`sampled_rows` does.
    """
    rows = rows.cpu()
    _check_rows(call, rows)
    for part in rows.split(at_once):
        yield _pattern(call, part)


def sampled_rows(call: AttentionCall, rows: Tensor, *, k: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Top ``k`` keys of the (window, query) pairs ``rows`` (n, 2) int64, with their pattern weights.

    Returns weights (n, h, k) fp32, p with the call's own lse where it has one; positions (n, h, k) int32, the key's
    index in the window; entropy (n, h) fp32 in nats, of p renormalised over the keys. Heaviest first, ties by lower
    index; where fewer than ``k`` keys are visible, position -1 and weight 0. Any device, results on the call's: CUDA
    calls that :func:`.gpu.top_keys.top_keys` takes (one type of fp32, fp16 or bf16, d <= 256, k <= 64) run there, with
    scores summed in fp32 as here; others, and all other devices, take :func:`plain_rows`.
    Raises ValueError for tensors that do not fit and for rows outside the call.
    """
    rows = rows.cpu()
    _check_rows(call, rows)
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    if _on_triton(call, k):
        from attnengine_kernels.gpu.top_keys import top_keys  # triton exists on Linux only

        found = top_keys(call, rows.to(call.query.device), top=k)
        return found.weights, found.keys, found.entropy
    return plain_rows(call, rows, k)


def _check_rows(call: AttentionCall, rows: Tensor) -> None:
    check_call(call)
    b, _, n_query, _ = call.query.shape
    if rows.ndim != 2 or rows.shape[1] != 2:
        raise ValueError(f"rows: expected (n, 2) pairs of window and query, got {tuple(rows.shape)}")
    bound = torch.tensor([b, n_query])
    if bool(((rows < 0) | (rows >= bound)).any()):
        raise ValueError(f"rows: expected windows below {b} and queries below {n_query}, got {rows.amax(0).tolist()}")


def _on_triton(call: AttentionCall, k: int) -> bool:
    q, half_or_single = call.query, (torch.float32, torch.float16, torch.bfloat16)
    return q.is_cuda and q.dtype in half_or_single and call.key.dtype == q.dtype and q.shape[3] <= 256 and k <= 64


def plain_rows(call: AttentionCall, rows: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """What :func:`sampled_rows` returns, in plain torch, in fp32 or the inputs' fp64."""
    with torch.no_grad():
        parts = [heaviest_keys(part, k) for part in pattern_rows(call, rows)]
    if not parts:
        empty = torch.zeros(0, call.query.shape[1], k, device=call.query.device)
        return empty, empty.int(), empty[..., 0]
    weights, positions, entropy = zip(*parts, strict=True)
    return torch.cat(weights), torch.cat(positions), torch.cat(entropy)


def heaviest_keys(part: PatternRows, k: int) -> TopKeys:
    """The ``k`` heaviest keys of rows whose pattern is there already, and the entropy of each row."""
    p, log_p, visible = part.p, part.log_p, part.visible[:, None]
    log_p_hat = log_p - torch.logsumexp(log_p, dim=-1, keepdim=True)  # keeps its digits where a sink takes all but 0
    p_hat = torch.exp(log_p_hat).masked_fill_(~visible, 0.0)
    entropy = -(p_hat * log_p_hat.masked_fill_(~visible, 0.0)).sum(dim=-1)
    best = _heaviest(log_p, k)  # (n, h, <= k)
    weights = p.gather(-1, best)
    indices = torch.where(visible.expand_as(p).gather(-1, best), best, -1)
    missing = (0, k - best.shape[-1])
    weights = torch.nn.functional.pad(weights, missing)
    indices = torch.nn.functional.pad(indices, missing, value=-1)
    return TopKeys(weights.float(), indices.int(), entropy.float())


def _heaviest(score: Tensor, k: int) -> Tensor:
    """Indices (n, h, <= k) of the largest scores, largest first, equal ones by lower index.

    On the CPU topk finds them fast but promises nothing about equal scores. Where the first score left out equals the
    last one chosen, or a score is NaN, the row is sorted whole; elsewhere only the chosen ones are put in order. To
    know which rows those are, another device would have to be waited for: it sorts all of them.
    """
    if score.shape[-1] <= k or score.device.type != "cpu":
        return torch.sort(score, dim=-1, descending=True, stable=True).indices[..., :k]
    value, index = score.topk(k + 1, dim=-1)  # descending, NaN first
    last, beyond = value[..., k - 1], value[..., k]
    torn = ((beyond == last) & ~torch.isneginf(last)) | value[..., 0].isnan()  # which hidden keys fill a row: no matter
    index, by_index = index[..., :k].sort(dim=-1)
    best = index.gather(-1, value.gather(-1, by_index).sort(dim=-1, descending=True, stable=True).indices)
    if bool(torn.any()):
        best[torn] = torch.sort(score[torn], dim=-1, descending=True, stable=True).indices[..., :k]
    return best


def _pattern(call: AttentionCall, rows: Tensor) -> PatternRows:
    """The pattern of ``rows`` (n, 2) on the host."""
    window, position = rows.to(call.query.device, non_blocking=True).unbind(1)  # (n,)
    score, visible = _row_scores(call, rows, window, position)
    if call.lse is not None:
        lse = call.lse[window, :, position].to(score.dtype)
    else:
        lse = torch.logsumexp(score, dim=-1)
        lse = lse if call.sink is None else torch.logaddexp(lse, call.sink.to(score.dtype))
    log_p = score.sub_(lse[..., None]).masked_fill_(~visible[:, None], -torch.inf)  # (n, h, k)
    return PatternRows(window, position, torch.exp(log_p), log_p, visible)


def _row_scores(call: AttentionCall, rows: Tensor, window: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (n, h, k), -inf where hidden, and visibility (n, k) of ``rows`` (n, 2) on the host, also given moved."""
    dtype = torch.promote_types(call.query.dtype, torch.float32)
    h, hkv = call.query.shape[1], call.key.shape[1]
    query = call.query[window, :, position].to(dtype).unflatten(1, (hkv, h // hkv))  # (n, hkv, g, d)
    score = query.new_empty(len(window), hkv, h // hkv, call.key.shape[2])
    for w, here in _runs(rows[:, 0].tolist()):  # one product per window: its keys are not copied for every row
        of_head = query[here].permute(1, 0, 2, 3).flatten(1, 2)  # (hkv, n_w g, d)
        product = of_head @ call.key[w].to(dtype).transpose(1, 2)  # (hkv, n_w g, k)
        score[here] = product.unflatten(1, (-1, h // hkv)).permute(1, 0, 2, 3)
    score = score.flatten(1, 2).mul_(call.scale)  # (n, h, k)
    if call.softcap is not None:
        score = call.softcap * torch.tanh(score / call.softcap)
    j = torch.arange(score.shape[-1], device=score.device)
    visible = (call.lo[window, position, None] <= j) & (j < call.hi[window, position, None])  # (n, k)
    if call.bias is not None:
        hidden = hidden_pairs(call.bias)
        score = score + call.bias[window % call.bias.shape[0], :, position].to(dtype)
        if hidden is not None:
            visible = visible & ~hidden[window % hidden.shape[0], position]
    return score.masked_fill_(~visible[:, None], -torch.inf), visible


def _runs(windows: list[int]) -> Iterator[tuple[int, slice]]:
    """(window, its rows) for each run of equal neighbours."""
    begin = 0
    for w, run in groupby(windows):
        end = begin + sum(1 for _ in run)
        yield w, slice(begin, end)
        begin = end
