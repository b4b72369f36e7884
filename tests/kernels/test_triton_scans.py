"""The scan pass agrees with the fp64 reference over the visible pairs, whatever the intervals."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from attnengine_kernels.call import AttentionCall, TokenFacts, empty_facts
from attnengine_kernels.gpu._ops import flat
from attnengine_kernels.gpu.scans import scan_pass
from attnengine_kernels.intervals import packed
from attnengine_kernels.reference import head_sums
from tests.kernels.calls import DEVICE, make_call, poisoned

pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []

LIMIT = 2e-6  # of the largest dim: fp32 sums over a row block, fp64 after


def agrees(got: dict[str, Tensor], expected: dict[str, Tensor], least: float = 0.0) -> None:
    """Assert every name; counts and infinities exactly; sums below ``least`` as if they were that large."""
    for name, value in got.items():
        want, have = expected[name], value.cpu()
        assert have.dtype == torch.float64
        assert torch.equal(have.isinf(), want.isinf()), name
        assert not have.isnan().any(), name
        limit = (
            0.0 if name in ("qk_positive", "n_pairs") else LIMIT * want[want.isfinite()].abs().max().clamp(min=least)
        )
        worst = (have - want)[want.isfinite()].abs().max()
        assert worst <= limit, f"{name} is off by {worst:.2e}, limit {limit:.2e}"


@pytest.mark.parametrize("mask", ["full", "causal", "window", "wide window", "right padding", "left padding", "packed"])
def test_every_mask_with_poison_beyond_what_rows_see(mask: str) -> None:
    """Whole tiles, ragged starts and ends, and intervals inside one tile give the sums of every pair spelled out."""
    call = poisoned(make_call(mask, 81, h=1, d=16))
    facts = empty_facts(1, 81)
    seen = replace(facts, counted=(call.hi > call.lo).cpu())
    agrees(scan_pass(call), head_sums(call, seen, facts))


def test_head_groups_unequal_lengths_and_padded_widths() -> None:
    """Width 24 leaves half of the second block of dims empty."""
    call = make_call("causal", 20, 40, batch=2, h=2, hkv=1, d=24)
    agrees(scan_pass(call), head_sums(call, empty_facts(2, 20), empty_facts(2, 40), cross=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_summed_in_fp32(dtype: torch.dtype) -> None:
    """What half precision cannot add, it only stores: the error is that of fp32."""
    call = make_call("causal", 65, h=1, d=16, dtype=dtype)
    agrees(scan_pass(call), head_sums(call, empty_facts(1, 65), empty_facts(1, 65)))


def test_second_moments_survive_large_means() -> None:
    """Means 100 times the spread: the pilot keeps the digits that a raw second moment in fp32 would lose."""
    call = make_call("window", 65, d=16)
    call = replace(call, query=call.query + 30.0, key=call.key - 100.0)
    expected = head_sums(call, empty_facts(1, 65), empty_facts(1, 65))
    got = scan_pass(call)["qk_m2"].cpu()
    assert ((got - expected["qk_m2"]).abs() / expected["qk_m2"]).max() < 1e-5


def test_rows_that_are_not_counted_leave_every_sum() -> None:
    """A token that two windows share is counted in one of them."""
    call = make_call("causal", 65, d=16)
    counted = torch.arange(65)[None] >= 20
    facts = TokenFacts(real=torch.ones(1, 65, dtype=torch.bool), counted=counted, position=empty_facts(1, 65).position)
    agrees(scan_pass(call, counted.to(DEVICE)), head_sums(call, facts, facts))


def test_a_call_without_visible_pairs_has_empty_sums() -> None:
    """Zeros, and extremes that any pair would replace."""
    call = make_call("causal", 5, d=16)
    got = scan_pass(replace(call, hi=call.lo))
    empty = {"qk": 0, "qk_m2": 0, "qk_positive": 0, "n_pairs": 0, "qk_min": torch.inf, "qk_max": -torch.inf}
    assert {name: value.unique().tolist() for name, value in got.items()} == {n: [x] for n, x in empty.items()}


def test_repeats_give_the_same_bits() -> None:
    """One partial per program and a fixed order of adding."""
    call = make_call("wide window", 81, h=1, d=16)
    first, again = scan_pass(call), scan_pass(call)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_bias_that_hides_pairs_is_refused() -> None:
    """What a bias hides is no interval, so the sums do not factor; a finite bias changes nothing."""
    call = make_call("causal", 5, d=16, bias=True)
    plain = scan_pass(replace(call, bias=None))
    assert all(torch.equal(value, plain[name]) for name, value in scan_pass(call).items())
    assert call.bias is not None
    with pytest.raises(ValueError, match="-inf"):
        scan_pass(replace(call, bias=call.bias.masked_fill(call.bias < -0.1, -torch.inf)))


def test_packed_sequences_have_their_own_sums() -> None:
    """Lengths 0, 1 and more than a block, tokens after the last; a NaN stays in its sequence, and shows there."""
    edges = torch.tensor([0, 5, 5, 6, 76, 90], dtype=torch.int32, device=DEVICE)
    lo, hi = packed(edges, 93)
    call = replace(make_call("full", 93, d=16, h=2), lo=lo, hi=hi)
    got = scan_pass(call, cu_seqlens=edges)
    for w, (a, b) in enumerate(pairwise(edges.tolist())):
        if a == b:
            assert (got["n_pairs"][w], got["qk_min"][w, 0, 0]) == (0, torch.inf)
            continue
        one = replace(call, query=call.query[:, :, a:b], key=call.key[:, :, a:b], value=call.key[:, :, a:b],
                      lo=lo[:, a:b] - a, hi=hi[:, a:b] - a)  # fmt: skip
        facts = empty_facts(1, b - a)
        agrees({name: x[w : w + 1] for name, x in got.items()}, head_sums(one, facts, facts), least=1.0)
    call.key[0, 0, 3, 2] = torch.nan
    again = scan_pass(call, cu_seqlens=edges)
    for name in ("qk", "qk_m2", "qk_min", "qk_max", "qk_positive"):
        bad = torch.zeros(5, 2, 16, dtype=torch.bool)
        bad[0, :, 2] = True
        assert torch.equal(again[name].isnan().cpu(), bad), name
        torch.testing.assert_close(again[name][2:], got[name][2:], rtol=1e-5, atol=1e-4)


def test_what_is_seen_and_not_a_number_shows_in_its_head() -> None:
    """A NaN key in a whole tile, in a ragged one, a NaN query: its head and dim, and no others."""
    for name, at in (("key", 3), ("key", 99), ("query", 50)):
        call = make_call("causal", 100, d=16, h=2, hkv=2)
        getattr(call, name)[0, 1, at, 5] = torch.nan
        got = scan_pass(call)
        for sums in ("qk", "qk_m2", "qk_min", "qk_max", "qk_positive"):
            assert got[sums].isnan().nonzero().tolist() == [[0, 1, 5]], sums


def test_the_operator_keeps_torchs_promises() -> None:
    """Schema, fake shapes and tracing, packed and not."""
    call = make_call("causal", 19, d=16)
    torch.library.opcheck(torch.ops.attnengine.scan_pass.default, (*flat(call), None, None))
    edges = torch.tensor([0, 4, 19], dtype=torch.int32, device=DEVICE)
    counted = torch.ones(1, 19, dtype=torch.bool, device=DEVICE)
    torch.library.opcheck(torch.ops.attnengine.scan_pass.default, (*flat(call), counted, edges))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_caller_compiles_into_one_graph(backend: str) -> None:
    """No graph break, and the same bits."""
    call = make_call("causal", 19, d=16)

    def caller(q: Tensor, k: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
        got = scan_pass(AttentionCall(q, k, k, lo, hi, 0.25))
        return got["qk"] / got["n_pairs"][:, None, None]

    arguments = (call.query, call.key, call.lo, call.hi)
    compiled = torch.compile(caller, fullgraph=True, backend=backend)(*arguments)
    assert torch.equal(compiled, caller(*arguments))
