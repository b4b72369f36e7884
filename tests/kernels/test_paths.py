"""The compiled CPU path and the plain torch path give the reference's sums, on whatever shape and mask."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from attnengine_kernels import Memory, head_sums
from attnengine_kernels.call import AttentionCall, HeadSums, TokenFacts, empty_facts
from attnengine_kernels.cpu._streams import key_stream
from attnengine_kernels.reference import pattern
from tests.kernels.oracles import agree, make_facts, poisoned, random_call

PATHS = ("numba", "torch")
MASKS = ("whole", "causal", "window", "packed", "scattered")


def intervals(kind: str, n_query: int, n_key: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """lo, hi (batch, n_query) of a named mask; causal ones end at the bottom right."""
    end = (torch.arange(n_query) + 1 + n_key - n_query).clamp(0, n_key)
    rows = torch.arange(n_query)
    lo, hi = {
        "whole": (torch.zeros(n_query), torch.full((n_query,), n_key)),
        "causal": (torch.zeros(n_query), end),
        "window": ((end - 7).clamp(min=0), end),
        "packed": (rows // 10 * 10, (rows // 10 * 10 + 10)),
        "scattered": (rows * 7 % n_key, rows * 7 % n_key + rows * 5 % 11),  # neither end is monotone, some see nothing
    }[kind]
    lo, hi = lo.clamp(max=n_key), hi.clamp(max=n_key)
    return lo.int().repeat(batch, 1), hi.int().repeat(batch, 1)


@st.composite
def cases(draw: st.DrawFn) -> tuple[AttentionCall, TokenFacts, TokenFacts, dict[str, Any]]:
    """Calls of every kind: Lq ≠ Lk, grouped heads, padding on both sides, sinks, caps, biases, images, cross."""
    batch, n_query = draw(st.integers(1, 2)), draw(st.integers(1, 40))
    kind = draw(st.sampled_from(["text", "images", "cross"]))
    n_key = draw(st.integers(1, 40)) if kind == "cross" else n_query
    left, right = (draw(st.integers(0, n_query // 3)) for _ in range(2))
    lo, hi = intervals(draw(st.sampled_from(MASKS)), n_query, n_key, batch)
    hkv = draw(st.sampled_from([1, 2]))
    call = random_call(
        lo, hi, n_key, h=hkv * draw(st.sampled_from([1, 2, 3])), hkv=hkv, d=draw(st.sampled_from([1, 4, 17])),
        dv=draw(st.sampled_from([1, 6])), seed=draw(st.integers(0, 99)), sink=draw(st.booleans()),
        softcap=draw(st.sampled_from([None, 1.5, 30.0])), bias=draw(st.sampled_from(["none", "finite", "hiding"])),
        dtype=draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16])),
    )  # fmt: skip
    images = kind == "images"
    queries = make_facts(batch, n_query, left=left, right=right, images=images, seed=draw(st.integers(0, 99)))
    keys = make_facts(batch, n_key, seed=1) if kind == "cross" else queries
    options = {"cross": kind == "cross", "max_length": draw(st.sampled_from([None, 300]))}
    return call, queries, keys, options


@given(cases())
@settings(max_examples=60)
def test_every_path_gives_the_reference_on_generated_calls(case: Any) -> None:
    call, queries, keys, options = case
    want = head_sums(call, queries, keys, path="reference", **options)
    for path in PATHS:
        agree(head_sums(call, queries, keys, path=path, **options), want)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("length", [1, 3, 63, 64, 65, 113, 239])
def test_lengths_around_the_blocks(path: str, mask: str, length: int) -> None:
    lo, hi = intervals(mask, length, length, 1)
    call, facts = random_call(lo, hi, length, h=1), make_facts(1, length)
    agree(head_sums(call, facts, facts, path=path), head_sums(call, facts, facts, path="reference"))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("d", [32, 64, 72, 80, 96, 128, 256])
def test_head_widths(path: str, d: int) -> None:
    lo, hi = intervals("causal", 40, 40, 1)
    call, facts = random_call(lo, hi, 40, h=2, d=d, dv=d // 2), make_facts(1, 40)
    agree(head_sums(call, facts, facts, path=path), head_sums(call, facts, facts, path="reference"))


@pytest.mark.parametrize("mask", ["whole", "causal", "window"])
@pytest.mark.parametrize("length", [1023, 4097])
def test_long_windows_agree_with_the_torch_path_in_fp64(length: int, mask: str) -> None:
    lo, hi = intervals(mask, length, length, 1)
    call, facts = random_call(lo, hi, length, h=1), make_facts(1, length, left=3, right=5)
    hi = torch.where(facts.real, hi.clamp(max=length - 5), 0)
    call = replace(call, lo=torch.minimum(lo.clamp(min=3), hi), hi=hi)
    exact = replace(call, query=call.query.double(), key=call.key.double())
    agree(head_sums(call, facts, facts, path="numba"), head_sums(exact, facts, facts, path="torch"))


def adversarial(name: str, n: int) -> AttentionCall:
    lo, hi = intervals("whole" if name == "one sink" else "causal", n, n, 1)
    call = random_call(lo, hi, n, h=1, d=32)
    q, k = call.query.clone(), call.key.clone()
    if name == "all equal":
        k[:] = k[:, :, :1].clone()
    elif name == "one sink":
        q[..., 0], k[..., 0] = 20.0, 0.0
        k[:, :, 0, 0] = 10.0
    elif name == "offset":  # scores 115 above 0
        q[..., 0], k[..., 0] = 10.0, 11.5 * 32**0.5
    elif name == "offset per row":  # a bias cannot be taken out with the mean key
        call = replace(call, bias=115 + torch.randn(1, 1, n, n, generator=torch.Generator().manual_seed(1)))
    elif name == "faint":  # a learned sink takes all but e^-100: p underflows fp32, p^ must not
        call = replace(call, sink=torch.tensor([100.0]))
    return replace(call, query=q, key=k)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["all equal", "one sink", "offset", "offset per row", "faint"])
@pytest.mark.parametrize("given_lse", [False, True])
def test_scores_chosen_to_lose_digits(path: str, name: str, given_lse: bool) -> None:
    call, facts = adversarial(name, 65), make_facts(1, 65)
    if given_lse:
        call = replace(call, lse=pattern(call).lse.float())
    but = ("received_gini",) if name == "faint" else ()  # masses below fp32's range are 0: so is their spread
    agree(head_sums(call, facts, facts, path=path), head_sums(call, facts, facts, path="reference"), but=but)


@pytest.mark.parametrize("path", PATHS)
def test_padding_may_hold_nan(path: str) -> None:
    facts = make_facts(2, 30, left=4, right=6)
    lo, hi = intervals("causal", 30, 30, 2)
    lo, hi = torch.where(facts.real, lo.clamp(min=4), 0), torch.where(facts.real, hi, 0)
    call = random_call(lo.int(), hi.int(), 30, h=4, hkv=2)
    sums = head_sums(poisoned(call, facts, facts), facts, facts, path=path)
    assert not any(value.isnan().any() for value in sums.values())
    agree(sums, head_sums(call, facts, facts, path="reference"))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("tensor", ["query", "key", "bias", "lse"])
def test_a_nan_stays_in_its_head(path: str, tensor: str) -> None:
    lo, hi = intervals("whole", 20, 20, 2)
    call, facts = random_call(lo, hi, 20, h=4, hkv=4, bias="finite"), empty_facts(2, 20)
    call = replace(call, lse=pattern(call).lse.float())
    clean = head_sums(call, facts, facts, path=path)
    spoilt = getattr(call, tensor).clone()
    spoilt[0, 1, 7] = torch.nan
    sums = head_sums(replace(call, **{tensor: spoilt}), facts, facts, path=path)
    others = [0, 2, 3]
    for name, value in sums.items():
        if value.shape[:2] == (2, 4) and not (name.endswith("_n") and name != "share_n"):
            assert value[0, 1].isnan().all(), name
            assert torch.equal(value[0, others], clean[name][0, others]), name
            if tensor != "bias":  # this bias is every window's
                assert torch.equal(value[1], clean[name][1]), name


@pytest.mark.parametrize("path", PATHS)
def test_a_nan_value_spoils_only_what_reads_values(path: str) -> None:
    lo, hi = intervals("whole", 20, 20, 1)
    call, facts = random_call(lo, hi, 20), empty_facts(1, 20)
    value = call.value.clone()
    value[0, 0, 3] = torch.nan
    sums = head_sums(replace(call, value=value), facts, facts, path=path)
    assert {name for name, x in sums.items() if x.isnan().any()} == {"value_weighted_first_mass"}


def same_bits(a: HeadSums, b: HeadSums) -> bool:
    return all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("mask", ["whole", "causal", "window"])
def test_a_window_does_not_depend_on_its_batch(mask: str) -> None:
    lo, hi = intervals(mask, 300, 300, 3)
    call, facts = random_call(lo, hi, 300, h=12, hkv=12, d=24), make_facts(3, 300, right=9)
    sums = head_sums(call, facts, facts)
    for w in range(3):
        one = slice(w, w + 1)
        alone = AttentionCall(call.query[one], call.key[one], call.value[one], lo[one], hi[one], call.scale)
        classes = {name: flags[one] for name, flags in facts.classes.items()}
        mine = TokenFacts(facts.real[one], facts.counted[one], facts.position[one], classes, facts.token_id[one],
                          facts.sentence[one])  # fmt: skip
        assert same_bits(head_sums(alone, mine, mine), {name: value[one] for name, value in sums.items()})


def test_same_input_same_bits_on_any_number_of_threads() -> None:
    lo, hi = intervals("causal", 130, 130, 2)
    call, facts = random_call(lo, hi, 130, h=4, hkv=2), make_facts(2, 130)
    threads, memory = torch.get_num_threads(), Memory()
    first = head_sums(call, facts, facts, memory=memory)
    assert same_bits(first, head_sums(call, facts, facts, memory=memory))
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert same_bits(first, head_sums(call, facts, facts))
    finally:
        torch.set_num_threads(threads)
    assert torch.get_num_threads() == threads


def test_order_of_keys_does_not_matter_to_what_ignores_order() -> None:
    lo, hi = intervals("whole", 50, 50, 1)
    call, facts = random_call(lo, hi, 50), empty_facts(1, 50)
    shuffle = torch.randperm(50, generator=torch.Generator().manual_seed(3))
    turned = replace(call, key=call.key[:, :, shuffle], value=call.value[:, :, shuffle])
    a, b = head_sums(call, facts, facts), head_sums(turned, facts, facts)
    for name in ("entropy", "p_max", "score_mean", "score_m2", "qk", "qk_attended", "share", "received_gini"):
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-5)


def test_identities_hold_without_a_reference() -> None:
    lo, hi = intervals("causal", 600, 600, 1)
    call, facts = random_call(lo, hi, 600, h=2, hkv=2, d=32), make_facts(1, 600)
    sums = head_sums(call, facts, facts)
    rows = sums["n_queries"][:, None]
    score = call.scale * (call.query.double() @ call.key.double().transpose(2, 3))
    score = score.masked_fill(torch.arange(600) >= hi[0, :, None], -torch.inf)
    lse = score.logsumexp(-1).masked_fill(~facts.counted[:, None], 0.0).sum(-1)
    torch.testing.assert_close(sums["entropy"], lse - call.scale * sums["qk_attended"].sum(-1), rtol=0, atol=600e-4)
    torch.testing.assert_close(sums["profile"].sum(-1), rows.expand(1, 2), rtol=1e-6, atol=0)
    torch.testing.assert_close(sums["share"].sum(-1), sums["share_n"])
    assert float(sums["mass_defect_max"].max()) < 1e-5


def test_the_callers_matrix_precision_neither_hurts_nor_changes() -> None:
    lo, hi = intervals("whole", 70, 70, 1)
    call, facts = random_call(lo, hi, 70, d=64), make_facts(1, 70)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        for path in PATHS:
            agree(head_sums(call, facts, facts, path=path), head_sums(call, facts, facts, path="reference"))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("squares", [True, False])
def test_streams_write_inside_their_room(squares: bool) -> None:
    """Compiled passes check no bounds: what lies beyond the room, here sentinels, must come back untouched."""
    heads, n, d = 2, 5, 8
    rooms = {"clean": (heads, n, d), "both": (heads, n, 2 * d if squares else d), "turned": (heads, d, n)}
    kept = {name: np.full(2 * math.prod(shape), 7.0, np.float32) for name, shape in rooms.items()}
    views = [kept[name][: math.prod(shape)].reshape(shape) for name, shape in rooms.items()]
    key = torch.randn(n, heads, d, generator=torch.Generator().manual_seed(0)).numpy()
    rows, counted = np.ones(n, np.int32), np.ones(n, np.bool_)
    norm, centre, norms = np.zeros((heads, n)), np.zeros((heads, d)), np.zeros(heads)
    key_stream(key.reshape(-1), (0, d, heads * d), 0, 0, rows, counted, *views, norm, centre, norms)
    about = key - key.mean(0, dtype=np.float64)
    assert np.allclose(views[1][..., :d], about.transpose(1, 0, 2), atol=1e-6)
    assert np.allclose(views[1][..., d:], (about**2).transpose(1, 0, 2)[..., : d if squares else 0], atol=1e-5)
    for name, shape in rooms.items():
        assert (kept[name][math.prod(shape) :] == 7.0).all(), name
