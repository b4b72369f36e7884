"""The jitted running top-R of :mod:`.nearest`: one program per block of points, all points past it a tile at a time.

Axes in comments: ``m`` points that ask, ``n`` points of a tile, ``r`` places of a list, ``d`` dims of a block.
"""

# fmt: off
# (one line per argument would bury the formulas)
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def nearest_kernel(
    X, SQUARES, FOUND, WORST, first_row, end_row, n_points, D: tl.constexpr, BD: tl.constexpr, M: tl.constexpr,
    N: tl.constexpr, R: tl.constexpr,
):
    """The R smallest |y|² - 2 x·y of each point x of [first_row, end_row), in no order, and the largest of these."""
    rows = first_row + tl.program_id(0) * M + tl.arange(0, M)
    asks = rows < end_row
    row_at = X + rows.to(tl.int64)[:, None] * D + tl.arange(0, BD)[None, :]
    places = tl.arange(0, R)[None, :]
    # A row beyond the last has a full list already: no point is below -inf.
    keys = tl.where(asks, float("inf"), float("-inf"))[:, None] + tl.zeros((M, R), tl.float32)
    found = tl.zeros((M, R), tl.int32)
    worst, worst_place = tl.max(keys, 1, return_indices=True)  # (m,)
    for first in range(0, n_points, N):
        cols = first + tl.arange(0, N)
        there = cols < n_points
        col_at = X + cols.to(tl.int64)[:, None] * D + tl.arange(0, BD)[None, :]
        products = tl.zeros((M, N), tl.float32)
        for begin in range(0, D, BD):
            inside = (begin + tl.arange(0, BD) < D)[None, :]
            x = tl.load(row_at + begin, mask=asks[:, None] & inside, other=0.0)  # (m, d)
            y = tl.load(col_at + begin, mask=there[:, None] & inside, other=0.0)  # (n, d)
            products = tl.dot(x, tl.trans(y), products, input_precision="tf32x3")
        squares = tl.load(SQUARES + cols, mask=there, other=float("inf"))
        key = squares[None, :] - 2.0 * products  # (m, n)
        key = tl.where(cols[None, :] == rows[:, None], float("-inf"), key)  # a point is always in its own list
        least, nearest = tl.min(key, 1, return_indices=True)
        # One point a row enters at a time. Past the first tiles few do: a row's list changes R ln(n / R) times in all.
        while tl.max((least < worst).to(tl.int32), 0) > 0:
            enters = (least < worst)[:, None]
            replaced = enters & (places == worst_place[:, None])
            keys = tl.where(replaced, least[:, None], keys)
            found = tl.where(replaced, first + nearest[:, None], found)
            key = tl.where(enters & (cols[None, :] == first + nearest[:, None]), float("inf"), key)
            worst, worst_place = tl.max(keys, 1, return_indices=True)
            least, nearest = tl.min(key, 1, return_indices=True)
    out = (rows - first_row).to(tl.int64)
    tl.store(FOUND + out[:, None] * R + places, found, mask=asks[:, None])
    tl.store(WORST + out, worst, mask=asks)
