"""Cosines summed over visible pairs agree with the fp64 reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attnengine_kernels.call import AttentionCall, empty_facts
from attnengine_kernels.gpu.pairs import cosine_sums
from attnengine_kernels.intervals import packed
from attnengine_kernels.reference import head_sums
from tests.kernels.calls import DEVICE, make_call, poisoned

pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []


@pytest.mark.parametrize("mask", ["full", "causal", "window", "right padding", "packed"])
def test_every_mask_with_poison_and_norms_of_every_size(mask: str) -> None:
    """Zero vectors have cosine 0; vectors whose squares over- or underflow fp32 have their own."""
    call = make_call(mask, 81, h=2, d=16)
    call.query[0, 0, 9], call.key[0, 0, 10] = 0.0, 0.0
    call.query[0, 0, 11] *= 1e30
    call.key[0, 0, 12] *= 1e-30
    call = poisoned(call)
    facts = empty_facts(1, 81)
    want = head_sums(call, replace(facts, counted=(call.hi > call.lo).cpu()), facts)
    assert ((cosine_sums(call).cpu() - want["qk_cosine"]).abs() <= 1e-6 * want["n_pairs"]).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_packed_sequences_of_half_precision(dtype: torch.dtype) -> None:
    """A sequence's sum is that of it alone; a NaN shows in its own."""
    edges = torch.tensor([0, 5, 5, 40], dtype=torch.int32, device=DEVICE)
    lo, hi = packed(edges, 42)
    call = replace(make_call("full", 42, d=16, dtype=dtype), lo=lo, hi=hi)
    call.key[0, 0, 2] = torch.nan
    got = cosine_sums(call, cu_seqlens=edges)
    last = replace(call, query=call.query[:, :, 5:40], key=call.key[:, :, 5:40], value=call.key[:, :, 5:40],
                   lo=lo[:, 5:40] - 5, hi=hi[:, 5:40] - 5)  # fmt: skip
    assert got[0].isnan().all()
    assert (got[1] == 0).all()
    torch.testing.assert_close(got[2], cosine_sums(last)[0], rtol=0, atol=1e-3)


def test_a_caller_compiles_into_one_graph() -> None:
    """No graph break."""
    call = make_call("causal", 19, d=16)

    def caller(q: Tensor, k: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
        return cosine_sums(AttentionCall(q, k, k, lo, hi, 0.25)) * 2

    arguments = (call.query, call.key, call.lo, call.hi)
    compiled = torch.compile(caller, fullgraph=True, backend="aot_eager")(*arguments)
    torch.testing.assert_close(compiled, caller(*arguments))
