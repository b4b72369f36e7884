"""Properties of the Triton passes over drawn shapes, masks and types: identities, invariances, precision.

A few examples of each run with every test run; ``make acceptance`` runs the long lists of KERNELS.md section 4.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu.fused import fused_attention
from attnengine_kernels.gpu.pairs import cosine_sums
from attnengine_kernels.gpu.rows import row_pass
from attnengine_kernels.reference import pattern
from tests.kernels.calls import DEVICE, intervals, make_call, poisoned
from tests.kernels.identities import attended_limit, holds, near
from tests.kernels.properties import DIMS, DTYPES, MASKS, PASSES, calls, last_dims, with_values

pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []

# The interpreter takes a second a call: no shrinking of an example, which would repeat it a hundred times.
few = settings(max_examples=3, phases=(Phase.explicit, Phase.generate), suppress_health_check=[HealthCheck.too_slow])
many = settings(few, max_examples=25)

LENGTHS = (1, 3, 63, 64, 65, 113, 239)
WIDTHS = (16, 32, 64, 72, 80, 96, 128, 192, 256)


@few
@given(call=calls(most=40))
def test_identities(call: AttentionCall) -> None:
    holds(call)


@few
@given(call=calls(most=40, plain=True))
def test_identities_of_plain_scores(call: AttentionCall) -> None:
    """Without bias, cap and sink more of them hold: H = lse - c q·AK, share_n = Σ Var s."""
    holds(call)


@pytest.mark.acceptance
@many
@given(call=calls(most=130))
def test_identities_of_many_calls(call: AttentionCall) -> None:
    holds(call)


@pytest.mark.acceptance
@many
@given(call=calls(most=130, plain=True))
def test_identities_of_many_plain_calls(call: AttentionCall) -> None:
    holds(call)


@pytest.mark.acceptance
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("length", LENGTHS)
def test_identities_at_every_length_mask_and_type(length: int, mask: str, dtype: torch.dtype) -> None:
    call = with_values(make_call(mask, length, h=2, hkv=1, dtype=dtype, sink=length % 2 == 0), 16)
    holds(call, some_rows=dtype == torch.bfloat16)  # one type: those passes make all they load fp32


@pytest.mark.acceptance
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("d", WIDTHS)
def test_identities_at_every_width_mask_and_type(d: int, mask: str, dtype: torch.dtype) -> None:
    call = with_values(make_call(mask, 65, h=1, d=d, dtype=dtype), d if d % 3 else 64)
    holds(call, some_rows=False)  # slow, and most of them take dims one by one


def halves(call: AttentionCall) -> list[AttentionCall]:
    """The call of each window alone."""
    bias = [call.bias if call.bias is None or call.bias.shape[0] == 1 else call.bias[w : w + 1] for w in (0, 1)]
    return [
        replace(call, query=call.query[w : w + 1], key=call.key[w : w + 1], value=call.value[w : w + 1],
                lo=call.lo[w : w + 1], hi=call.hi[w : w + 1], bias=bias[w])
        for w in (0, 1)
    ]  # fmt: skip


def bits_hold(name: str, call: AttentionCall, repeats: int) -> None:
    """Assert that a pass gives the same bits again, for each window alone, and whatever lies in what no row sees."""
    run = PASSES[name]
    both = run(call)
    for _ in range(repeats - 1):
        again = run(call)
        assert all(torch.equal(value, again[key]) for key, value in both.items()), f"{name}: two runs differ"
    for w, alone in enumerate(halves(call)):
        for key, value in run(alone).items():
            assert torch.equal(both[key][w : w + 1], value), f"{name}: {key} of a window depends on the batch"
    dark = poisoned(call)
    dark = replace(dark, value=torch.where(dark.key.isnan().any(-1, keepdim=True), torch.nan, dark.value))
    for key, value in run(dark).items():
        assert torch.equal(both[key], value), f"{name}: {key} depends on keys that no row sees, or rows that see none"


@pytest.mark.parametrize("name", PASSES)
def test_bits_do_not_depend_on_the_run_the_batch_or_what_is_hidden(name: str) -> None:
    call = make_call("left padding", 35, batch=2, h=2, hkv=1, d=16, sink=True)
    lo, hi = intervals("right padding", 35, 35)  # two windows that see different keys
    call = replace(call, lo=torch.cat([call.lo[:1], lo.to(DEVICE)]), hi=torch.cat([call.hi[:1], hi.to(DEVICE)]))
    bits_hold(name, with_values(call, 16), 5)


@pytest.mark.acceptance
@pytest.mark.parametrize("name", PASSES)
@settings(many, max_examples=8)
@given(call=calls(batch=2, most=130))
def test_bits_of_many_calls(name: str, call: AttentionCall) -> None:
    bits_hold(name, call, 2)


def permutation_holds(call: AttentionCall, order: Tensor) -> None:
    """Assert that the order of the keys changes nothing but the order of what is given per key."""
    moved = replace(call, key=call.key[:, :, order], value=call.value[:, :, order])
    moved = moved if call.bias is None else replace(moved, bias=call.bias[..., order])
    key = call.key.double().abs().max()
    n = call.query.shape[2] * call.key.shape[2]
    relative = {"output": attended_limit(call) * call.value.double().abs().max(), "ak": attended_limit(call) * key,
                "ak2": 4 * attended_limit(call) * key.square(), "masses": torch.tensor(torch.inf),
                "aq": attended_limit(call) * call.query.shape[2] * call.query.double().abs().max(),
                "qk_cosine": torch.tensor(1e-6 * n),
                # one pair may lie so near an edge that its sum in another order lies beyond
                "scores": torch.tensor(1), "log_p": torch.tensor(1)}  # fmt: skip
    # what bands, places and distances are depends on places
    for name in ("rows", "fused", "columns", "scans", "share", "histograms", "product", "top_keys", "cosine"):
        before, after = PASSES[name](call), PASSES[name](moved)
        for what, value in before.items():
            if what in ("masses", "keys"):  # of features that stay where they are; of weights that may be equal
                continue
            expected = value[:, :, order] if name == "columns" else value
            if name == "product":  # keys are the last axis, but for dims
                expected = value[..., order, :] if what == "product" else value[..., order]
            size = float(value.double().abs().max())
            limit = relative[what] * 2 if what in relative else 2e-5 * max(size, 1.0)
            limit = limit + (2.0**-7 * size if what == "output" and call.query.dtype != torch.float32 else 0.0)
            if what == "share":
                limit = 1e-4 * float(before["share_n"].abs().max()) + 1e-6 * n
            near(f"{name}: {what}", after[what], expected, limit)


@few
@given(call=calls(most=40, masks=("full",)), seed=st.integers(0, 9))
def test_the_order_of_keys_does_not_matter_where_all_are_seen(call: AttentionCall, seed: int) -> None:
    order = torch.randperm(call.key.shape[2], generator=torch.Generator().manual_seed(seed)).to(DEVICE)
    permutation_holds(call, order)


@pytest.mark.acceptance
@settings(many, max_examples=20)
@given(call=calls(masks=("full",), most=130), seed=st.integers(0, 9))
def test_the_order_of_keys_in_many_calls(call: AttentionCall, seed: int) -> None:
    order = torch.randperm(call.key.shape[2], generator=torch.Generator().manual_seed(seed)).to(DEVICE)
    permutation_holds(call, order)


@few
@given(call=calls(most=40, plain=True))
def test_cosines_know_no_lengths(call: AttentionCall) -> None:
    """Powers of two lose no bit, so vectors of other lengths give the same bits."""
    few = last_dims(call, DIMS)
    q, k = (x * (2 ** (torch.arange(x.shape[2], device=DEVICE) % 3))[:, None] for x in (few.query, few.key))
    assert q.dtype == few.query.dtype
    assert torch.equal(cosine_sums(replace(few, query=q, key=k)), cosine_sums(few))


def plain_torch(call: AttentionCall, over: Tensor) -> Tensor:
    """softmax(c q kᵀ) @ over in the inputs' own type throughout, as eager attention has it."""
    group = call.query.shape[1] // call.key.shape[1]
    k, x = call.key.repeat_interleave(group, 1), over.repeat_interleave(group, 1)
    j = torch.arange(k.shape[2], device=DEVICE)
    visible = (call.lo[:, None, :, None] <= j) & (j < call.hi[:, None, :, None])
    score = (call.query @ k.mT * call.scale).masked_fill(~visible, -torch.inf)
    return torch.softmax(score, -1).nan_to_num() @ x


def precise(call: AttentionCall) -> None:
    """Assert that output and A K are at most twice as far from fp64 as plain torch in the same precision is."""
    p = pattern(call).p
    row = row_pass(call)
    assert row.ak is not None
    for name, got, over in (("output", fused_attention(call).output, call.value), ("A K", row.ak, call.key)):
        exact = p @ over.double().cpu().repeat_interleave(call.query.shape[1] // call.key.shape[1], 1)
        ours = (got.double().cpu() - exact).abs().max()
        theirs = (plain_torch(call, over).double().cpu() - exact).abs().max()
        assert ours <= 2 * theirs + 1e-7, f"{name}: {ours:.2e} from fp64, plain torch {theirs:.2e}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mask", ["full", "causal"])
def test_at_most_twice_the_error_of_plain_torch_in_the_same_precision(mask: str, dtype: torch.dtype) -> None:
    precise(with_values(make_call(mask, 113, d=64, dtype=dtype), 48))


@pytest.mark.acceptance
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mask", ["full", "causal", "wide window"])
@pytest.mark.parametrize("d", WIDTHS)
def test_precision_at_every_width(d: int, mask: str, dtype: torch.dtype) -> None:
    precise(with_values(make_call(mask, 113, d=d, dtype=dtype), d))
