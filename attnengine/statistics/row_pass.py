"""One pass over the sampled rows of an attention call: their pattern is made once and read three times.

Top keys for the sample, values for examples and one's own statistics, sums for head types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attnengine.statistics.row_values import row_values
from attnengine.statistics.type_sums import Sums, runs_of, type_sums
from attnengine_kernels import AttentionCall, PatternRows, TokenFacts, TopKeys, heaviest_keys, pattern_rows

TOP_KEYS = 16
AT_ONCE = 64  # rows: a segment of the sample, and small enough for caches


@dataclass(frozen=True)
class SampledRows:
    """What the sampled rows of one attention call give, on the call's device; h counts its heads, c the chosen ones."""

    top: TopKeys  # (n, h, 16) and (n, h)
    values: dict[str, Tensor]  # (n, c) fp32 by name: see :mod:`.row_values`
    windows: Tensor  # (w,) int64 on the host: the windows of the batch that have sampled rows, ascending
    types: Sums  # (w, ...) fp64 by name: see :mod:`.type_sums`

    def without_values(self) -> SampledRows:
        """The same rows as material for pictures alone: no value of theirs counts, so no example is made of them."""
        return replace(self, values={name: torch.full_like(value, torch.nan) for name, value in self.values.items()})


def read_rows(
    call: AttentionCall,
    heads: Sequence[int],
    facts: tuple[TokenFacts, TokenFacts],
    here: tuple[TokenFacts, TokenFacts],
    rows: Tensor,
    *,
    cross: bool,
    max_length: int,
) -> SampledRows:
    """Top keys of every head, and values and type sums of the chosen ``heads``, of one row at least.

    ``facts`` are those of queries and keys on the host, ``here`` the same on the call's device, for which nothing
    waits. ``rows`` (n, 2) int64 on the host are (window of the batch, query), sorted; ``max_length`` fixes the offset
    bins. Memory is O(64 · h · k). Raises ValueError for rows outside the call, PlanError as :func:`.row_values` does.
    """
    windows = torch.unique(rows[:, 0])
    moved = windows.to(call.query.device, non_blocking=True)
    top, values, types = [], [], Sums()
    with torch.no_grad():
        for part, some in zip(pattern_rows(call, rows, AT_ONCE), rows.split(AT_ONCE), strict=True):
            top.append(heaviest_keys(part, TOP_KEYS))
            mine, runs = _of_heads(part, heads), runs_of(some, *facts, windows)
            values.append(row_values(mine, _top_of_heads(top[-1], heads), *here, cross=cross))
            found = type_sums(mine, *here, moved, runs, cross=cross, max_length=max_length)
            types = {name: types[name] + value if name in types else value for name, value in found.items()}
    every = {name: torch.cat([one[name] for one in values]) for name in values[0]}
    return SampledRows(TopKeys(*map(torch.cat, zip(*top, strict=True))), every, windows, types)


def _of_heads(part: PatternRows, heads: Sequence[int]) -> PatternRows:
    if len(heads) == part.p.shape[1]:
        return part
    return part._replace(p=part.p[:, heads], log_p=part.log_p[:, heads])


def _top_of_heads(top: TopKeys, heads: Sequence[int]) -> TopKeys:
    return top if len(heads) == top.entropy.shape[1] else TopKeys(*(value[:, heads] for value in top))
