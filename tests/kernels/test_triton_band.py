"""The band pass agrees with the fp64 definitions offset by offset, within the limits that always bind."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu._ops import flat
from attnengine_kernels.gpu.band import BandSums, _band, band_pass
from attnengine_kernels.gpu.rows import row_lse
from attnengine_kernels.intervals import packed
from attnengine_kernels.reference import pattern
from attnengine_kernels.sums import LIMIT_MASS
from tests.kernels.calls import DEVICE, adversarial, make_call, poisoned

pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []

MASKS = ("full", "causal", "window", "wide window", "right padding", "left padding", "packed", "one key")


def agrees(call: AttentionCall, got: BandSums, query: Tensor | None = None, key: Tensor | None = None) -> None:
    """Assert every field against sums over the dense fp64 pattern, one offset at a time."""
    p = pattern(call).p
    i, j = torch.arange(p.shape[2]) + p.shape[3] - p.shape[2], torch.arange(p.shape[3])
    i, j = i.expand(len(p), -1), j.expand(len(p), -1)
    if query is not None and key is not None:
        i, j = query.cpu(), key.cpu()
    offset = (i[:, :, None] - j[:, None, :]).masked_fill((i < 0)[:, :, None] | (j < 0)[:, None, :], 10_000)
    hits = offset[:, None, :, :, None] == torch.arange(-127, 128)  # (b, 1, q, k, 255)
    assert got.profile.dtype == torch.float64
    want = torch.stack([torch.einsum("hqk,qko->ho", p[w], hits[w, 0].double()) for w in range(len(p))])
    assert ((got.profile.cpu() - want).abs() <= LIMIT_MASS * hits.any(3).sum(2).clamp(min=1)).all()
    for value, one in ((got.previous, 1), (got.itself, 0), (got.next, -1)):
        want = (p * (offset == one)[:, None]).sum(-1)
        assert ((value.cpu().double() - want).abs() <= LIMIT_MASS).all()


def positions(length: int, first: int, last: int, start: int = 0) -> Tensor:
    """(1, length) int32: from ``start`` on in [first, last), -1 elsewhere."""
    index = torch.arange(length)
    inside = (first <= index) & (index < last)
    return torch.where(inside, index - first + start, -1).int()[None].to(DEVICE)


@pytest.mark.parametrize("mask", MASKS)
def test_every_mask_with_poison_beyond_what_rows_see(mask: str) -> None:
    call = poisoned(make_call(mask, 113, batch=2, d=16, h=1))
    agrees(call, band_pass(call))


@pytest.mark.parametrize("mask", ["full", "causal"])
def test_offsets_beyond_the_band_stay_out(mask: str) -> None:
    """239 tokens have offsets of 128 and more on either side."""
    call = make_call(mask, 239, d=16, h=1, dtype=torch.float16)
    agrees(call, band_pass(call))


@pytest.mark.parametrize("d", [16, 32, 64, 72, 80, 96, 128, 192, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_head_width_and_type(d: int, dtype: torch.dtype) -> None:
    call = make_call("causal", 33, h=1, d=d, dtype=dtype)
    agrees(call, band_pass(call))


@pytest.mark.parametrize(("n_query", "n_key"), [(1, 1), (3, 3), (63, 63), (64, 64), (65, 65), (5, 70), (70, 5)])
def test_odd_and_unequal_lengths(n_query: int, n_key: int) -> None:
    """With a cache the last query is at the last key."""
    call = make_call("causal", n_query, n_key, d=16)
    agrees(call, band_pass(call))


@pytest.mark.parametrize(
    ("query", "key"),
    [((65, 0, 65, 0), (65, 0, 65, 0)), ((65, 9, 60, 0), (65, 9, 60, 0)), ((65, 2, 65, 0), (65, 5, 40, 11)),
     ((65, 0, 0, 0), (65, 0, 65, 0)), ((65, 0, 65, 0), (65, 0, 0, 0)), ((65, 0, 65, 100), (65, 0, 65, 0))],
)  # fmt: skip
def test_offsets_are_of_positions(query: tuple[int, ...], key: tuple[int, ...]) -> None:
    """Padding and prefix tokens have none; the two sides may count from different indices."""
    call = make_call("full", 65, d=16)
    i, j = positions(*query), positions(*key)
    agrees(call, band_pass(call, i, j), i, j)


@pytest.mark.parametrize(("h", "hkv"), [(4, 2), (3, 1)])
def test_head_groups(h: int, hkv: int) -> None:
    call = make_call("window", 65, h=h, hkv=hkv, d=16)
    agrees(call, band_pass(call))


@pytest.mark.parametrize("name", ["all equal", "one sink", "offset"])
def test_adversarial_scores(name: str) -> None:
    call = adversarial(name)
    agrees(call, band_pass(call))


@pytest.mark.parametrize("options", [{"sink": True}, {"softcap": 2.0}, {"bias": True},
                                     {"sink": True, "softcap": 5.0, "bias": True}], ids=str)  # fmt: skip
def test_what_changes_the_scores(options: dict[str, float]) -> None:
    call = make_call("left padding", 65, d=16, **options)
    agrees(call, band_pass(call))


def test_a_bias_of_minus_infinity_hides_the_pair() -> None:
    """Also a whole row and a whole key, whose NaN then stay out."""
    call = make_call("full", 65, bias=True, d=16)
    assert call.bias is not None
    hidden = torch.rand(65, 65, generator=torch.Generator().manual_seed(1)) < 0.4
    hidden[7], hidden[:, 20] = True, True
    call = replace(call, bias=call.bias.masked_fill(hidden.to(DEVICE), -torch.inf))
    call = replace(call, lse=row_lse(call))
    query, key = call.query.clone(), call.key.clone()
    query[:, :, 7], key[:, :, 20] = torch.nan, torch.nan
    agrees(call, band_pass(replace(call, query=query, key=key)))


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")  # the interpreter's maximum of a poisoned row
@pytest.mark.parametrize("bias", [False, True])
def test_nan_in_what_is_seen_surfaces_in_its_own_head(bias: bool) -> None:
    call = make_call("causal", 33, h=2, hkv=2, d=16, bias=bias)
    for name, at in (("query", (0, 1, 20, 3)), ("key", (0, 1, 4, 3))):
        spoilt = replace(call, **{name: getattr(call, name).clone()})
        getattr(spoilt, name)[at] = torch.nan
        got = band_pass(spoilt)
        assert got.profile[0, 0].isfinite().all()
        assert got.profile[0, 1].isnan().any()
        assert got.itself[0, 1, at[2]].isnan()


def test_packed_sequences_are_sequences_alone() -> None:
    """Lengths 0 and 1 among them, and rows after the last that belong to none; the same bits as by themselves."""
    edges = [0, 40, 40, 41, 97]
    cu = torch.tensor(edges, dtype=torch.int32, device=DEVICE)
    call = make_call("full", 100, d=16)
    lo, hi = packed(cu, 100)
    whole = replace(call, lo=lo, hi=hi)
    whole = replace(whole, lse=row_lse(whole))
    got = band_pass(whole, cu_seqlens=cu)
    assert got.profile.shape == (4, 2, 255)
    together = replace(got, profile=got.profile.sum(0, keepdim=True))
    agrees(whole, together)
    for s, (a, b) in enumerate(pairwise(edges)):
        if a == b:
            assert (got.profile[s] == 0).all()
            continue
        part = {name: getattr(call, name)[:, :, a:b] for name in ("query", "key", "value")}
        assert whole.lse is not None
        alone = band_pass(replace(call, **part, lo=lo[:, a:b] - a, hi=hi[:, a:b] - a, lse=whole.lse[:, :, a:b]))
        assert torch.equal(alone.profile[0], got.profile[s])
        assert torch.equal(alone.previous, got.previous[:, :, a:b])


def test_the_whole_pattern_of_a_short_window_lies_in_the_band() -> None:
    call = make_call("full", 113, d=16)
    got = band_pass(call)
    assert (got.profile.sum(-1) - 113).abs().max() < 1e-4
    assert (got.itself.double().sum(-1) - got.profile[..., 127]).abs().max() < 1e-5


def test_repeats_and_batches_give_the_same_bits() -> None:
    call = make_call("causal", 65, batch=2, d=16)
    both, again = band_pass(call), band_pass(call)
    alone = replace(call, query=call.query[1:], key=call.key[1:], value=call.key[1:], lo=call.lo[1:], hi=call.hi[1:])
    half = band_pass(alone)
    for name in ("profile", "previous", "itself", "next"):
        assert torch.equal(getattr(both, name), getattr(again, name))
        assert torch.equal(getattr(both, name)[1:], getattr(half, name))


@pytest.mark.filterwarnings("ignore")
def test_the_operator_and_a_compiled_caller() -> None:
    call, at = make_call("causal", 20, h=1, d=16), positions(20, 1, 20)
    cu = torch.tensor([0, 5, 20], dtype=torch.int32, device=DEVICE)
    torch.library.opcheck(_band, (*flat(call), at, at, None))
    torch.library.opcheck(_band, (*flat(call), None, None, cu))
    compiled = torch.compile(lambda one: band_pass(one, at, at).profile * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(call), band_pass(call, at, at).profile * 2)


def test_calls_the_kernel_does_not_take_are_refused() -> None:
    call, at = make_call("causal", 33, d=16), positions(33, 0, 33)
    with pytest.raises(ValueError, match="expected both or neither"):
        band_pass(call, at)
    with pytest.raises(ValueError, match="query_position: expected positions that rise by one"):
        band_pass(call, at * 2, at)
    with pytest.raises(ValueError, match=r"key_position: expected shape \(1, 33\), got \(1, 32\)"):
        band_pass(call, at, at[:, 1:])
    with pytest.raises(TypeError, match=r"key_position: expected int32, got torch\.int64"):
        band_pass(call, at, at.long())
    with pytest.raises(ValueError, match="batch of 1"):
        band_pass(make_call("causal", 33, d=16, batch=2), cu_seqlens=torch.tensor([0, 33], device=DEVICE))
