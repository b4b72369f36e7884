"""The whole Triton path gives the reference's sums: every kind of call that a model makes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from attnengine_kernels import Memory, head_sums
from attnengine_kernels.call import AttentionCall, TokenFacts
from tests.kernels.calls import DEVICE
from tests.kernels.oracles import agree, make_facts, poisoned, random_call
from tests.kernels.test_paths import intervals

pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []


def moved(call: AttentionCall) -> AttentionCall:
    tensors = {name: x.to(DEVICE) for name, x in vars(call).items() if isinstance(x, torch.Tensor)}
    return replace(call, **tensors)


def hidden_padding(mask: str, facts: TokenFacts, left: int, right: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A mask of self-attention whose padded keys no row sees, and whose padded rows see none."""
    b, n = facts.real.shape
    lo, hi = intervals(mask, n, n, b)
    low, high = torch.full((b, 1), 0), torch.full((b, 1), n)
    low[0], high[0] = left, n - right
    lo = torch.minimum(torch.maximum(lo, low), high).int()
    return lo, torch.where(facts.real, torch.maximum(torch.minimum(hi, high), lo), lo).int()


@pytest.mark.parametrize(
    ("mask", "images"),
    [("whole", True), ("causal", False), *(pytest.param(*one, marks=pytest.mark.acceptance) for one in
     [("whole", False), ("causal", True), ("window", False), ("window", True)])],
)  # fmt: skip
def test_padding_uncounted_rows_and_prefix_tokens(mask: str, images: bool) -> None:
    """Poison beyond the mask, GQA, values of another width; distances of patches are Euclidean."""
    left, right = (0, 0) if images else (3, 5)
    facts = make_facts(2, 40, left=left, right=right, images=images)
    lo, hi = hidden_padding(mask, facts, left, right)
    call = poisoned(random_call(lo, hi, 40, h=4 if mask == "causal" else 2, hkv=2, d=12, dv=6), facts, facts)
    agree(head_sums(moved(call), facts, facts, path="triton"), head_sums(call, facts, facts, path="reference"))


@pytest.mark.parametrize(
    "options", [{"sink": True}, {"softcap": 1.5}, {"bias": "finite"}, {"bias": "hiding", "sink": True},
                {"sink": True, "softcap": 5.0, "bias": "finite"}], ids=str,
)  # fmt: skip
@pytest.mark.parametrize("images", [False, pytest.param(True, marks=pytest.mark.acceptance)])
def test_what_changes_the_scores(options: dict[str, Any], images: bool) -> None:
    facts = make_facts(1, 33, images=images)
    lo, hi = intervals("causal", 33, 33, 1)
    call = random_call(lo, hi, 33, h=1, **options)
    agree(head_sums(moved(call), facts, facts, path="triton"), head_sums(call, facts, facts, path="reference"))


@pytest.mark.parametrize(("n_query", "n_key", "bias"), [(33, 70, "none"), (70, 33, "finite"), (1, 1, "none")])
def test_cross_attention_of_unequal_lengths(n_query: int, n_key: int, bias: str) -> None:
    """Two streams with facts of their own: no offsets, and token masses leave no key out."""
    queries, keys = make_facts(1, n_query), make_facts(1, n_key, seed=1)
    lo, hi = intervals("whole", n_query, n_key, 1)
    call = random_call(lo, hi, n_key, bias=bias)
    want = head_sums(call, queries, keys, path="reference", cross=True)
    agree(head_sums(moved(call), queries, keys, path="triton", cross=True), want)


def test_distances_beyond_the_band() -> None:
    """Profile bins of 128 and more on either side, and a profile made for longer windows."""
    facts = make_facts(1, 239)
    lo, hi = intervals("whole", 239, 239, 1)
    call = random_call(lo, hi, 239, h=1)
    want = head_sums(call, facts, facts, path="reference", max_length=1000)
    agree(head_sums(moved(call), facts, facts, path="triton", max_length=1000), want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loses_digits_in_the_attended_products_alone(dtype: torch.dtype) -> None:
    """A K has 2e-3 there; everything else keeps the limits of fp32."""
    facts = make_facts(1, 65)
    lo, hi = intervals("causal", 65, 65, 1)
    call = random_call(lo, hi, 65, dtype=dtype)
    got = head_sums(moved(call), facts, facts, path="triton")
    want = head_sums(call, facts, facts, path="reference")
    attended = ("qk_attended", "qk_attended_m2")
    agree(got, want, but=attended)
    for name in attended:
        assert (got[name] - want[name]).abs().max() <= 5e-3 * want[name].abs().max()


def test_a_given_lse_and_facts_kept_for_the_next_layer() -> None:
    """The vendor's lse is used; the second layer finds its facts on the device and gives the same bits."""
    memory, facts = Memory(), make_facts(2, 20)
    lo, hi = intervals("causal", 20, 20, 2)
    call = random_call(lo, hi, 20)
    lse = torch.randn(2, 2, 20, generator=torch.Generator().manual_seed(1))
    call = replace(call, lse=lse + 2)
    first = head_sums(moved(call), facts, facts, path="triton", memory=memory)
    again = head_sums(moved(call), facts, facts, path="triton", memory=memory)
    assert all(torch.equal(first[name], value) for name, value in again.items())
    agree(first, head_sums(call, facts, facts, path="reference"))


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")  # the interpreter's maximum of a poisoned row
@pytest.mark.parametrize("bias", ["none", "finite", "hiding"])
@pytest.mark.parametrize("name", ["query", "key"])
def test_a_poisoned_head_is_nan_and_no_other(name: str, bias: str) -> None:
    facts = make_facts(1, 20)
    lo, hi = intervals("causal", 20, 20, 1)
    call = random_call(lo, hi, 20, h=2, hkv=2, bias=bias)
    getattr(call, name)[0, 1, int(facts.counted[0].int().argmax()), 3] = torch.nan
    got = head_sums(moved(call), facts, facts, path="triton")
    for one, value in got.items():
        if value.ndim >= 2 and value.shape[1] == 2 and (one == "share_n" or not one.endswith("_n")):
            assert value[0, 1].isnan().all(), one
            assert not value[0, 0].isnan().any(), one
