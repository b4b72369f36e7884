"""Masks as intervals are the dense masks people mean; row blocks cover every row once and never two sequences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attnengine_kernels import intervals
from attnengine_kernels.gpu._blocks import row_blocks

lengths = st.lists(st.integers(0, 20), min_size=0, max_size=6)


def dense(interval: intervals.Interval, n_key: int) -> Tensor:
    lo, hi = interval
    j = torch.arange(n_key)
    return (lo[..., None] <= j) & (j < hi[..., None])


@pytest.mark.parametrize(("n_query", "n_key"), [(5, 5), (2, 5), (5, 2), (1, 1)])
@pytest.mark.parametrize("window", [None, 1, 3, 99])
def test_causal_masks_are_aligned_at_the_bottom_right(n_query: int, n_key: int, window: int | None) -> None:
    i = torch.arange(n_query)[:, None] + n_key - n_query
    j = torch.arange(n_key)
    expected = (j <= i) & (i - j < (window or 1000))
    assert torch.equal(dense(intervals.causal(2, n_query, n_key, window=window), n_key), expected.expand(2, -1, -1))


@given(st.integers(0, 6), st.integers(0, 6), st.integers(1, 6), st.sampled_from([None, 2]))
def test_padding_on_either_side_sees_nothing_and_is_not_seen(left: int, right: int, n: int, window: int | None) -> None:
    real = torch.tensor([[False] * left + [True] * n + [False] * right])
    length = left + n + right
    whole = intervals.causal(1, length, length, window=window)
    expected = dense(whole, length) & real[:, :, None] & real[:, None, :]
    assert torch.equal(dense(intervals.padded(whole, real), length), expected)


def test_padding_between_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="between"):
        intervals.padded(intervals.bidirectional(1, 3, 3), torch.tensor([[True, False, True]]))


@given(lengths, st.integers(0, 3), st.booleans(), st.sampled_from([None, 1, 4]))
def test_packed_rows_see_their_own_sequence(sizes: list[int], rest: int, causal: bool, window: int | None) -> None:
    total = sum(sizes) + rest
    edges = torch.tensor([0, *sizes]).cumsum(0).int()
    of = torch.cat([torch.full((n,), s) for s, n in enumerate(sizes)] + [torch.full((rest,), -1)])
    i, j = torch.arange(total)[:, None], torch.arange(total)
    expected = (of[:, None] == of) & (of >= 0)[:, None]
    if causal:
        expected &= (j <= i) & (i - j < (window or 1000))
    got = intervals.packed(edges, total, causal=causal, window=window if causal else None)
    assert torch.equal(dense(got, total)[0], expected)


@given(lengths, st.integers(0, 3), st.integers(1, 9))
def test_blocks_of_packed_sequences_cover_each_row_once(sizes: list[int], rest: int, m: int) -> None:
    edges = torch.tensor([0, *sizes]).cumsum(0)
    blocks = row_blocks(1, sum(sizes) + rest, m, torch.device("cpu"), edges)
    size = (blocks.table[:, 2] - blocks.table[:, 1]).long()
    assert blocks.sum(size).tolist() == sizes
    rows = [row for _, first, last in blocks.table.tolist() for row in range(first, last)]
    assert rows == list(range(sum(sizes)))
    assert bool((size <= m).all())


def test_blocks_of_a_batch_and_their_sums() -> None:
    """Sums, least and greatest partials of each window; what an unused block holds (NaN) reaches nobody."""
    blocks = row_blocks(2, 20, 8, torch.device("cpu"))
    assert blocks.table.tolist() == [[w, a, b] for w in (0, 1) for a, b in ((0, 8), (8, 16), (16, 20))]
    value = torch.tensor([1.0, 2, 4, 8, 16, 32])
    assert blocks.sum(value).tolist() == [7, 56]
    assert (blocks.least(value).tolist(), blocks.greatest(value).tolist()) == ([1, 8], [4, 32])
    packed = row_blocks(1, 10, 8, torch.device("cpu"), torch.tensor([0, 3, 3]))
    poison = torch.full((len(packed.table),), torch.nan)
    poison[0] = 5
    assert packed.sum(poison).tolist() == [5, 0]
    assert packed.least(poison).tolist() == [5, torch.inf]
    with pytest.raises(ValueError, match="batch of 1"):
        row_blocks(2, 10, 8, torch.device("cpu"), torch.tensor([0, 3]))
