"""Masks become one interval of keys a row, or keep a bias where intervals do not say everything."""

from __future__ import annotations

import pytest
import torch

from attnengine.errors import CaptureError
from attnengine.model import masks
from attnengine.model.masks import DenseMaskError, MaskReader

QUERY = torch.zeros(2, 3, 5, 4)
KEY = torch.zeros(2, 3, 5, 4)
INF = float("inf")


def read(mask: torch.Tensor | None, bias: torch.Tensor | None = None, causal: bool = False) -> masks.Visibility:
    return MaskReader().read(mask, bias, causal, QUERY, KEY)


def padded(*lengths: int) -> torch.Tensor:
    """(b, 1, 5, 5) boolean, right padding, the query dimension broadcast as transformers does."""
    rows = torch.arange(5)[None] < torch.tensor(lengths)[:, None]
    return rows[:, None, None].expand(-1, 1, 5, 5)


def test_no_mask_sees_everything_unless_causal() -> None:
    assert read(None).lo.tolist() == [[0] * 5] * 2
    assert read(None).hi.tolist() == [[5] * 5] * 2
    assert read(None, causal=True).hi.tolist() == [[1, 2, 3, 4, 5]] * 2
    assert read(None).lo.dtype == read(None).hi.dtype == torch.int32


def test_causal_rows_beyond_the_keys_see_all_of_them() -> None:
    found = MaskReader().read(None, None, True, QUERY, KEY[:, :, :3])
    assert found.hi.tolist() == [[1, 2, 3, 3, 3]] * 2


def test_padding_and_causality_become_intervals_without_a_bias() -> None:
    found = read(padded(5, 3) & torch.ones(5, 5, dtype=torch.bool).tril())
    assert found.bias is None
    assert found.hi.tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 3, 3]]
    left = read(padded(5, 3).flip(-1) & torch.ones(5, 5, dtype=torch.bool).tril())
    assert left.lo.tolist()[1] == [0, 0, 2, 2, 2]
    assert left.hi.tolist()[1] == [0, 0, 3, 4, 5]  # rows of padding see nothing: lo == hi


def test_a_mask_with_holes_becomes_a_bias_of_minus_infinity() -> None:
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[1, 0, 2, 3] = False
    found = read(mask)
    assert found.bias is not None
    assert found.bias.shape == (2, 1, 5, 5)
    hidden = (found.bias == -INF).nonzero().tolist()
    assert hidden == [[1, 0, 2, 3]]
    assert found.hi.tolist() == [[5] * 5] * 2


def test_heads_that_see_different_keys_keep_a_bias_of_their_own() -> None:
    mask = torch.ones(1, 3, 5, 5, dtype=torch.bool)
    mask[0, 1, :, 4] = False
    found = read(mask)
    assert found.bias is not None
    assert found.bias[0, :, 0, 4].tolist() == [0.0, -INF, 0.0]


@pytest.mark.parametrize("low", [torch.finfo(torch.float32).min, -INF, -1e9])
def test_an_additive_mask_of_zeros_and_lows_is_no_bias(low: float) -> None:
    mask = torch.zeros(2, 1, 5, 5)
    mask[1, :, :, 3:] = low
    found = read(mask)
    assert found.bias is None
    assert found.hi.tolist() == [[5] * 5, [3] * 5]


def test_an_additive_mask_keeps_what_it_adds_and_hides_what_it_hides() -> None:
    mask = torch.full((1, 3, 5, 5), -100.0)  # Swin's shifted windows: low, but a score all the same
    mask[..., 4] = torch.finfo(torch.float32).min
    found = read(mask)
    assert found.bias is not None
    assert found.bias[0, 0, 0].tolist() == [-100.0] * 4 + [-INF]
    assert found.hi.tolist() == [[4] * 5] * 2


def test_a_position_bias_is_added_to_what_the_mask_lets_through() -> None:
    bias = torch.randn(1, 3, 5, 5)
    found = read(padded(5, 3), bias)
    assert found.bias is not None
    assert torch.equal(found.bias, bias)
    assert found.hi.tolist() == [[5] * 5, [3] * 5]
    assert read(None, bias, causal=True).hi.tolist() == [[1, 2, 3, 4, 5]] * 2
    assert read(None, torch.zeros(1, 3, 5, 5)).bias is None


def test_two_biases_add_and_hide_together() -> None:
    mask, bias = torch.ones(1, 1, 5, 5), torch.ones(1, 3, 5, 5)
    mask[..., 0], bias[..., 4] = torch.finfo(torch.float32).min, -INF
    found = read(mask, bias)
    assert found.bias is not None
    assert found.bias[0, 2, 1].tolist() == [-INF, 2.0, 2.0, 2.0, -INF]
    assert found.lo.tolist() == [[1] * 5] * 2
    assert found.hi.tolist() == [[4] * 5] * 2


def test_nan_stays_visible_so_that_it_shows() -> None:
    mask = torch.zeros(2, 1, 5, 5)
    mask[0, 0, 1, 2] = float("nan")
    found = read(mask)
    assert found.bias is not None
    assert int(found.bias.isnan().sum()) == 1


def test_one_reader_gives_the_same_tensors_for_the_same_mask_and_for_equal_ones() -> None:
    reader, mask = MaskReader(), padded(5, 3)
    first = reader.read(mask, None, False, QUERY, KEY)
    again = reader.read(mask[:, :, :, :5], None, False, QUERY, KEY)
    equal = reader.read(padded(5, 3).clone(), None, False, QUERY, KEY)
    other = reader.read(padded(5, 4), None, False, QUERY, KEY)
    assert first.lo is again.lo is equal.lo
    assert first.hi is again.hi is equal.hi
    assert other.hi is not first.hi


def test_the_additive_form_keeps_broadcast_dimensions_broadcast() -> None:
    reader, mask = MaskReader(), padded(5, 3)
    additive = reader.additive(mask, torch.float32)
    assert additive.shape == mask.shape
    assert additive.stride()[2] == 0
    assert torch.equal(additive == 0, mask)
    assert bool((additive[~mask] == -INF).all())
    assert reader.additive(mask, torch.float32) is additive


def test_a_large_bias_is_refused_with_the_number_of_windows_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "DENSE_MASK_LIMIT", 150)
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[:, 0, 2, 3] = False
    with pytest.raises(DenseMaskError, match="2 windows") as caught:
        read(mask)
    assert caught.value.rows == 1
    alone = MaskReader().read(mask[:1], None, False, QUERY[:1], KEY[:1])  # nothing to split: the model needs it
    assert alone.bias is not None


def test_a_mask_of_other_dimensions_is_an_error() -> None:
    with pytest.raises(CaptureError, match="4 dimensions"):
        read(torch.ones(2, 5, dtype=torch.bool))
