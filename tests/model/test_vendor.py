"""The attention functions themselves: several tiles, grouped heads, one query row, types without a flash kernel."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from attnengine.model.masks import MaskReader, Visibility
from attnengine.model.vendor import ROWS_A_TILE, dense_attention, stock_attention

SCALE = 0.3


def tensors(rows: int, keys: int, heads: int = 4, key_heads: int = 2, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    shapes = ((heads, rows, width), (key_heads, keys, width), (key_heads, keys, 6))
    query, key, value = (torch.randn(2, *shape, generator=draw) for shape in shapes)
    return query, key, value


def by_definition(
    query: Tensor, key: Tensor, value: Tensor, seen: Visibility, softcap: float | None, sink: Tensor | None
) -> tuple[Tensor, Tensor]:
    """fp64, the whole score matrix at once."""
    query, key, value = (x.double() for x in (query, key, value))
    repeat = query.shape[1] // key.shape[1]
    score = SCALE * query @ key.repeat_interleave(repeat, 1).mT
    if softcap is not None:
        score = softcap * torch.tanh(score / softcap)
    if seen.bias is not None:
        score = score + seen.bias
    position = torch.arange(score.shape[-1])
    visible = (position >= seen.lo[:, None, :, None]) & (position < seen.hi[:, None, :, None])
    weight = torch.where(visible, score, float("-inf")).exp()
    total = weight.sum(-1) + (0 if sink is None else sink.double().exp()[:, None])
    pattern = weight / total.clamp(min=1e-300)[..., None]
    return (pattern @ value.repeat_interleave(repeat, 1)).transpose(1, 2), total.log()


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("sunk", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_dense_attention_is_its_definition_over_several_tiles(softcap: float | None, sunk: bool, biased: bool) -> None:
    rows = 2 * ROWS_A_TILE + 7
    query, key, value = tensors(rows, rows)
    hi = torch.arange(1, rows + 1, dtype=torch.int32).repeat(2, 1)
    lo = (hi - 40).clamp(min=0)
    lo[1, :9] = hi[1, :9] = 0  # rows of left padding: they see nothing
    bias = torch.randn(1, 4, rows, rows) if biased else None
    if bias is not None:
        bias[0, 2, 200, 190] = float("-inf")
    seen, sink = Visibility.of(torch.stack([lo, hi]), bias, lo.device), torch.randn(4) if sunk else None
    output, lse = dense_attention(query, key, value, seen, SCALE, softcap, sink)
    expected, expected_lse = by_definition(query, key, value, seen, softcap, sink)
    assert torch.allclose(output.double(), expected, atol=1e-5)
    assert torch.allclose(lse.double(), expected_lse, atol=1e-5)
    assert not output[1, :9].any()
    assert lse.dtype == torch.float32


def test_dense_attention_answers_in_the_models_own_type() -> None:
    query, key, value = (x.to(torch.bfloat16) for x in tensors(5, 5))
    seen = MaskReader().read(None, None, True, query, key)
    output, lse = dense_attention(query, key, value, seen, SCALE, softcap=2.0)
    assert (output.dtype, lse.dtype) == (torch.bfloat16, torch.float32)


def stock(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    module: Any = SimpleNamespace(num_key_value_groups=query.shape[1] // key.shape[1], is_causal=True)
    return stock_attention(MaskReader(), module, query, key, value, mask, scaling=SCALE, dropout=0.0)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_stock_attention_gives_the_lse_of_grouped_heads_also_for_a_single_row(rows: int) -> None:
    """For one row transformers folds the heads of a group into rows, so the vendor's lse has another shape."""
    query, key, _ = tensors(rows, 5)
    mask = torch.ones(2, 1, rows, 5, dtype=torch.bool)
    mask[1, ..., 3:] = False
    output, lse = stock(query, key, key, mask)
    seen = MaskReader().read(mask, None, False, query, key)
    expected, expected_lse = by_definition(query, key, key, seen, None, None)
    assert lse is not None
    assert lse.shape == (2, 4, rows)
    assert torch.allclose(lse.double(), expected_lse, atol=1e-5)
    assert torch.allclose(output.double(), expected, atol=1e-5)


def test_where_torch_has_no_flash_kernel_the_output_is_stock_and_the_lse_is_left_to_the_kernels() -> None:
    query, key, value = tensors(5, 5)  # values narrower than keys, as in MLA
    output, lse = stock(query, key, value)
    seen = MaskReader().read(None, None, True, query, key)
    expected, _ = by_definition(query, key, value, seen, None, None)
    assert lse is None
    assert torch.allclose(output.double(), expected, atol=1e-5)
