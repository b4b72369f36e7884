"""The distance pass agrees with the fp64 definitions: sums of δ x over pairs that are visible and have positions."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu._ops import flat
from attnengine_kernels.gpu.distances import DistanceSums, _distances, distance_pass
from attnengine_kernels.gpu.places import PlaceFacts
from attnengine_kernels.intervals import packed
from attnengine_kernels.reference import pattern
from tests.kernels.calls import DEVICE, make_call, poisoned

pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []

MASKS = ("full", "causal", "window", "wide window", "right padding", "left padding", "packed", "one key")
LIMIT = 1e-5  # of Σ δ |x - pilot|


def line(length: int, first: int, last: int) -> Tensor:
    """(1, length) int32: 0, 1, … in [first, last), -1 elsewhere."""
    index = torch.arange(length)
    return torch.where((first <= index) & (index < last), index - first, -1).int()[None].to(DEVICE)


def agrees(call: AttentionCall, got: DistanceSums, facts: PlaceFacts | None = None) -> None:
    """Assert the sums of every window against the pairs spelled out."""
    visible = pattern(replace(call, query=call.query.nan_to_num(), key=call.key.nan_to_num())).visible  # (b, q, k)
    (b, n_rows, n_keys), group = visible.shape, call.query.shape[1] // call.key.shape[1]
    i = (torch.arange(n_rows) + n_keys - n_rows).expand(b, -1)
    j = torch.arange(n_keys).expand(b, -1)
    if facts is not None and facts.query_position is not None and facts.key_position is not None:
        i, j = facts.query_position.cpu(), facts.key_position.cpu()
    distance = (i[:, :, None] - j[:, None, :]).abs().double()
    if facts is not None and facts.query_patch is not None and facts.key_patch is not None:
        distance = torch.cdist(facts.query_patch.cpu().double(), facts.key_patch.cpu().double())
    weight = distance * (visible & (i >= 0)[:, :, None] & (j >= 0)[:, None, :])  # (b, q, k)
    query = torch.where(visible.any(2)[:, None, :, None], call.query.cpu().double(), 0.0)
    key = torch.where(visible.any(1)[:, None, :, None], call.key.cpu().double(), 0.0).repeat_interleave(group, 1)
    x = query[:, :, :, None] * key[:, :, None] - got.pilot.cpu().double()[:, :, None, None]  # (b, h, q, k, d)
    terms = weight[:, None, ..., None] * x
    off = (got.distance_qk.cpu() - terms.sum((2, 3))).abs()
    assert (off <= LIMIT * terms.abs().sum((2, 3)) + 1e-12).all()


@pytest.mark.parametrize("mask", MASKS)
def test_every_mask_with_poison_beyond_what_rows_see(mask: str) -> None:
    """Whole tiles before and after the diagonal, ragged ends, intervals inside one tile."""
    call = poisoned(make_call(mask, 113, h=1, d=16))
    agrees(call, distance_pass(call))


@pytest.mark.parametrize("d", [16, 24, 80])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_widths_types_head_groups_and_windows(d: int, dtype: torch.dtype) -> None:
    call = make_call("causal", 65, h=2, hkv=1, d=d, dtype=dtype, batch=2)
    agrees(call, distance_pass(call))


@pytest.mark.parametrize(("n_query", "n_key"), [(1, 1), (5, 70), (70, 5)])
def test_unequal_lengths(n_query: int, n_key: int) -> None:
    call = make_call("causal", n_query, n_key, d=16)
    agrees(call, distance_pass(call))


@pytest.mark.parametrize(("first", "last"), [(0, 113), (9, 113), (5, 100), (7, 7)])
@pytest.mark.parametrize("images", [False, True])
def test_tokens_without_a_position_stay_out(first: int, last: int, images: bool) -> None:
    call, at = make_call("full", 113, h=1, d=16), line(113, first, last)
    patch = torch.stack([at // 10, at % 10], dim=-1) if images else None
    facts = PlaceFacts(False, at, at, query_patch=patch, key_patch=patch)
    agrees(call, distance_pass(call, facts), facts)


def test_large_means_cost_no_digits() -> None:
    """Products of 3000 about a spread of 100: what is summed is about the pilot."""
    call = make_call("causal", 113, h=1, d=16)
    call = replace(call, query=call.query + 30.0, key=call.key - 100.0)
    agrees(call, distance_pass(call))


def test_packed_sequences_are_sequences_alone() -> None:
    """Lengths 0 and 1 among them; each by the batch's pilot."""
    edges = [0, 40, 40, 41, 120]
    cu = torch.tensor(edges, dtype=torch.int32, device=DEVICE)
    call = make_call("full", 123, d=16, h=1)
    lo, hi = packed(cu, 123)
    got = distance_pass(replace(call, lo=lo, hi=hi), cu_seqlens=cu)
    assert got.distance_qk.shape == (4, 1, 16)
    for s, (a, b) in enumerate(pairwise(edges)):
        if b > a:
            part = {name: getattr(call, name)[:, :, a:b] for name in ("query", "key", "value")}
            alone = replace(call, **part, lo=lo[:, a:b] - a, hi=hi[:, a:b] - a)
            agrees(alone, DistanceSums(got.distance_qk[s : s + 1], got.pilot))
    assert (got.distance_qk[1] == 0).all()


def test_repeats_and_batches_give_the_same_bits() -> None:
    call = make_call("causal", 65, batch=2, d=16)
    both, again = distance_pass(call), distance_pass(call)
    alone = replace(call, query=call.query[1:], key=call.key[1:], value=call.key[1:], lo=call.lo[1:], hi=call.hi[1:])
    assert torch.equal(both.distance_qk, again.distance_qk)
    assert torch.equal(both.distance_qk[1:], distance_pass(alone).distance_qk)


def test_nan_in_what_is_seen_surfaces_in_its_own_head() -> None:
    call = make_call("causal", 33, h=2, hkv=2, d=16)
    for name in ("query", "key"):
        spoilt = replace(call, **{name: getattr(call, name).clone()})
        getattr(spoilt, name)[0, 1, 4, 3] = torch.nan
        got = distance_pass(spoilt).distance_qk
        assert got[0, 0].isfinite().all()
        assert got[0, 1, 3].isnan()


@pytest.mark.filterwarnings("ignore")
def test_the_operator_and_a_compiled_caller() -> None:
    call, at = make_call("causal", 20, h=1, d=16), line(20, 1, 20)
    torch.library.opcheck(_distances, (*flat(call), at, at, None, None, None))

    def caller(one: AttentionCall) -> Tensor:
        return distance_pass(one).distance_qk * 2

    assert torch.equal(torch.compile(caller, fullgraph=True, backend="aot_eager")(call), caller(call))


def test_a_bias_that_hides_pairs_is_refused() -> None:
    call = make_call("causal", 5, d=16, bias=True)
    assert call.bias is not None
    distance_pass(call)
    with pytest.raises(ValueError, match="-inf"):
        distance_pass(replace(call, bias=call.bias.masked_fill(call.bias < -0.1, -torch.inf)))
