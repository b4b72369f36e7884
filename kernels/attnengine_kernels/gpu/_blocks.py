"""Row blocks as a table, so that a batch of windows and packed sequences are the same thing to a kernel.

Passes that sum over rows give one partial per program, and no program's rows may belong to two sequences. A program
reads its rows from the table; partials of a sequence lie next to each other and are added in that order in fp64, which
is what makes the sums the same bits at every repeat, whatever else is in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowBlocks:
    """Which rows each program takes, and whose sums they belong to."""

    table: Tensor  # (n, 3) int32: batch row, first query row, one past the last; an empty block has first == last
    per_output: Tensor  # (outputs + 1,) int64: blocks of each output, the empty ones at the end with the last entry
    outputs: int  # windows of the batch, or packed sequences

    def sum(self, partials: Tensor) -> Tensor:
        """(n, ...) partials to (outputs, ...) fp64, in the order of the blocks."""
        return self._reduce(partials, "sum", 0.0)

    def least(self, partials: Tensor) -> Tensor:
        """The least partial of each output, +inf where an output has no block."""
        return self._reduce(partials, "min", torch.inf)

    def greatest(self, partials: Tensor) -> Tensor:
        """The greatest partial of each output, -inf where an output has no block."""
        return self._reduce(partials, "max", -torch.inf)

    def _reduce(self, partials: Tensor, how: str, empty: float) -> Tensor:
        flat = partials.double().flatten(1) if partials.ndim > 1 else partials.double()[:, None]
        found = torch.segment_reduce(flat, how, lengths=self.per_output, axis=0, initial=empty, unsafe=True)
        return found[: self.outputs].view(self.outputs, *partials.shape[1:])


def row_blocks(batch: int, n_rows: int, m: int, device: torch.device, cu_seqlens: Tensor | None = None) -> RowBlocks:
    """Blocks of at most ``m`` rows: of every window of a batch, or of packed sequences (``cu_seqlens``, batch of 1).

    The number of blocks depends on shapes alone, so nothing waits for the device. Raises ValueError for packed
    sequences in a batch of more than one window.
    """
    if cu_seqlens is None:
        blocks = -(-n_rows // m)
        first = torch.arange(blocks, dtype=torch.int32, device=device) * m
        rows = torch.stack([first, (first + m).clamp(max=n_rows)], dim=1).expand(batch, -1, -1)  # (b, blocks, 2)
        window = torch.arange(batch, dtype=torch.int32, device=device)[:, None, None].expand(-1, blocks, 1)
        table = torch.cat([window, rows], dim=2).reshape(-1, 3).contiguous()
        lengths = torch.full((batch + 1,), blocks, device=device)
        lengths[batch] = 0
        return RowBlocks(table, lengths, batch)
    if batch != 1:
        raise ValueError(f"cu_seqlens: expected packed sequences in a batch of 1, got a batch of {batch}")
    edges = cu_seqlens.to(device=device, dtype=torch.int64)
    count = (edges.diff() + m - 1) // m  # blocks of each sequence
    most = n_rows // m + len(count)  # no sequence needs more than its whole blocks and one
    count = torch.cat([count, (most - count.sum())[None]])  # the blocks left over: an empty sequence after the last
    edges = torch.cat([edges, edges[-1:]])
    ends = count.cumsum(0)
    block = torch.arange(most, device=device)
    sequence = torch.searchsorted(ends, block, right=True)
    start = torch.minimum(edges[sequence] + (block - (ends - count)[sequence]) * m, edges[sequence + 1])
    stop = torch.minimum(start + m, edges[sequence + 1])
    table = torch.stack([torch.zeros_like(start), start, stop], dim=1).to(torch.int32).contiguous()
    return RowBlocks(table, count, len(count) - 1)
