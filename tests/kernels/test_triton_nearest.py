"""The running list proposes the points with the smallest |y|² − 2 x·y, as fp64 knows them to the bound it states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attnengine_kernels.gpu.nearest import MAX_CANDIDATES, propose, rounding
from attnengine_kernels.neighbours import nearest
from tests.kernels.calls import DEVICE

pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []


def points_of(n: int, d: int, size: float = 1.0) -> tuple[Tensor, Tensor]:
    points = size * torch.randn(n, d, generator=torch.Generator().manual_seed(n + d)).to(DEVICE)
    return points, points.square().sum(1)


@pytest.mark.parametrize(
    ("n", "d", "candidates", "size"), [(150, 7, 32, 1.0), (97, 72, 16, 1e-15), (70, 256, 64, 1e15), (40, 16, 2, 1.0)]
)
def test_no_point_left_out_is_nearer_than_one_proposed(n: int, d: int, candidates: int, size: float) -> None:
    points, squares = points_of(n, d, size)
    found, worst = propose(points, squares, range(n), candidates)
    x = points.double()
    bound = rounding(d) * 2.0**-24 * (squares.double()[:, None] + squares.double())
    keys = x.square().sum(1) - 2 * x @ x.T
    proposed = torch.zeros(n, n, dtype=torch.bool, device=DEVICE).scatter_(1, found.long(), True)
    assert (proposed.sum(1) == candidates).all()
    assert proposed.diagonal().all()
    own = torch.eye(n, dtype=torch.bool, device=DEVICE)
    assert (keys >= worst[:, None] - bound)[~proposed].all()
    assert (keys <= worst[:, None] + bound)[proposed & ~own].all()
    at_worst = (keys - worst[:, None]).abs() <= bound
    assert (at_worst & proposed).any(1).all()


def test_a_row_has_the_same_list_in_whatever_rows_it_is_asked_with() -> None:
    points, squares = points_of(150, 20)
    whole = propose(points, squares, range(150), 32)
    for rows in (range(33, 40), range(149, 150), range(64, 150), range(5, 5)):
        for part, all_rows in zip(propose(points, squares, rows, 32), whole, strict=True):
            assert torch.equal(part, all_rows[rows.start : rows.stop])


def test_equal_points_fill_a_list_with_different_ones_of_them() -> None:
    """Nothing but ties: whichever are proposed, no point twice and every point in its own list."""
    points = torch.ones(100, 5, device=DEVICE)
    found, worst = propose(points, points.square().sum(1), range(100), 32)
    assert all(len(set(row)) == 32 and i in row for i, row in enumerate(found.tolist()))
    assert (worst == -5).all()


def test_what_the_list_cannot_hold_is_refused() -> None:
    points, squares = points_of(50, 4)
    for candidates in (3, 0, 64, 2 * MAX_CANDIDATES):
        with pytest.raises(ValueError, match=f"more points than that, and at most 256 dims; got {candidates} cand"):
            propose(points, squares, range(50), candidates)
    with pytest.raises(ValueError, match="got 32 candidates and points"):
        propose(*points_of(50, 257), range(50), 32)
    with pytest.raises(ValueError, match="by: expected one of auto, torch, triton, got 'cublas'"):
        nearest(points, 15, by="cublas")
