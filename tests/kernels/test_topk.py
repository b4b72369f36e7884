"""The heaviest keys of sampled rows, against the dense pattern."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attnengine_kernels import sampled_rows
from attnengine_kernels.reference import pattern
from tests.kernels.oracles import random_call


def windowed(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    hi = torch.arange(1, length + 1, dtype=torch.int32).repeat(batch, 1)
    return (hi - 20).clamp(min=0), hi


@pytest.mark.parametrize("bias", ["none", "finite", "hiding"])
@pytest.mark.parametrize(("sink", "softcap"), [(False, None), (True, 2.0)])
def test_rows_agree_with_the_dense_pattern(bias: str, sink: bool, softcap: float | None) -> None:
    lo, hi = windowed(3, 40)
    call = random_call(lo, hi, 40, h=4, hkv=2, bias=bias, sink=sink, softcap=softcap)
    dense = pattern(call)
    rows = torch.tensor([[2, 39], [0, 3], [1, 17], [2, 0], [0, 25]])
    weights, positions, entropy = sampled_rows(call, rows, k=8)
    assert (weights.dtype, positions.dtype, entropy.dtype) == (torch.float32, torch.int32, torch.float32)
    p = dense.p[rows[:, 0], :, rows[:, 1]]  # (n, h, k)
    best = p.topk(8, dim=-1).values
    torch.testing.assert_close(weights.double(), best, rtol=1e-5, atol=1e-6)
    seen = positions >= 0
    assert torch.equal(seen.sum(-1), dense.visible[rows[:, 0], rows[:, 1]].sum(-1).clamp(max=8)[:, None].expand(-1, 4))
    torch.testing.assert_close(p.gather(-1, positions.clamp(min=0).long()) * seen, best, rtol=1e-5, atol=1e-6)
    p_hat = p / p.sum(-1, keepdim=True).clamp(min=1e-300)
    torch.testing.assert_close(entropy.double(), -torch.special.xlogy(p_hat, p_hat).sum(-1), rtol=0, atol=1e-4)


def test_ties_go_to_the_lower_index_and_short_rows_are_filled() -> None:
    lo, hi = windowed(1, 30)
    call = replace(random_call(lo, hi, 30), query=torch.zeros(1, 2, 30, 16))
    weights, positions, _ = sampled_rows(call, torch.tensor([[0, 29], [0, 2]]), k=5)
    assert positions[0, 0].tolist() == [10, 11, 12, 13, 14]
    assert positions[1, 0].tolist() == [0, 1, 2, -1, -1]
    assert weights[1, 0].tolist() == pytest.approx([1 / 3] * 3 + [0, 0])


def test_a_row_that_sees_nothing_has_no_keys() -> None:
    lo, hi = windowed(1, 5)
    hi[0, 3] = lo[0, 3]
    weights, positions, entropy = sampled_rows(random_call(lo, hi, 5), torch.tensor([[0, 3]]), k=3)
    assert (positions == -1).all()
    assert (weights == 0).all()
    assert (entropy == 0).all()


def test_keys_of_padding_may_be_nan() -> None:
    lo, hi = windowed(1, 12)
    hi = hi.clamp(max=9)
    call = random_call(lo, hi, 12)
    key = call.key.clone()
    key[:, :, 9:] = torch.nan
    for got, want in zip(
        sampled_rows(replace(call, key=key), torch.tensor([[0, 8]])),
        sampled_rows(call, torch.tensor([[0, 8]])),
        strict=True,
    ):
        assert torch.equal(got, want)


def test_no_rows_and_rows_outside() -> None:
    lo, hi = windowed(1, 5)
    call = random_call(lo, hi, 5)
    assert [tuple(x.shape) for x in sampled_rows(call, torch.zeros(0, 2).long())] == [(0, 2, 16), (0, 2, 16), (0, 2)]
    with pytest.raises(ValueError, match="queries below 5"):
        sampled_rows(call, torch.tensor([[0, 5]]))
    with pytest.raises(ValueError, match=r"expected \(n, 2\) pairs"):
        sampled_rows(call, torch.zeros(3).long())
