"""Layouts on a GPU: many heads' schedules as the tensors of :mod:`attnengine_kernels.gpu.layout`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from attnengine.embedding import layout
from attnengine.embedding.curve import EXP2, LOG2, SQRT_HALF_BITS, TINY, f32
from attnengine.embedding.methods import Planned
from attnengine_kernels.gpu.layout import Edges, Law, lay_out

LAW = Law(
    parts=layout.PARTS,
    negatives=layout.NEGATIVES,
    hashes=(int(layout.GOLDEN), int(layout.SECOND), int(layout.THIRD)),
    power=(*map(float, LOG2), *map(float, EXP2), int(SQRT_HALF_BITS)),
    tiny=float(TINY),
    near=float(layout.NEAR),
    clip=float(layout.CLIP),
)


def lay_out_heads(heads: Sequence[Planned], device: str | torch.device) -> list[np.ndarray]:
    """The pictures of heads that share curve, epochs and rate, in one launch a step; to the bit those of the CPU.

    Raises ValueError for heads that move in different ways.
    """
    if not heads:
        return []
    first = heads[0].descent
    if any((h.descent.a, h.descent.b, h.descent.epochs, h.descent.rate) != (first.a, first.b, first.epochs, first.rate)
           for h in heads):  # fmt: skip
        raise ValueError("expected heads of one curve, number of epochs and rate in one launch")
    sizes = [float(layout.step_sizes(first, epoch)) for epoch in range(1, first.epochs + 1)]
    start = torch.from_numpy(np.concatenate([head.start for head in heads]).astype(f32)).to(device)
    found = lay_out(start, _edges(heads, device), LAW, sizes, float(f32(first.a)), float(f32(first.b))).cpu().numpy()
    cuts = np.cumsum([len(head.start) for head in heads])[:-1]
    return [np.ascontiguousarray(points) for points in np.split(found, cuts)]


def _edges(heads: Sequence[Planned], device: str | torch.device) -> Edges:
    plans = [head.plan for head in heads]

    def there(parts: list[np.ndarray], dtype: type[np.generic]) -> Tensor:
        return torch.from_numpy(np.concatenate([part.ravel() for part in parts]).astype(dtype)).to(device)

    def offsets(counts: list[int]) -> Tensor:
        return torch.tensor([0, *np.cumsum(counts).tolist()], dtype=torch.int64, device=device)

    seeds = np.array([head.descent.seed for head in heads], np.uint32).view(np.int32)
    return Edges(
        tail=there([plan.tail for plan in plans], np.int32),
        rate=there([plan.rate.view(np.int32) for plan in plans], np.int32),
        starts=there([plan.starts for plan in plans], np.int32),
        first_vertex=offsets([plan.n for plan in plans]),
        first_edge=offsets([len(plan.tail) for plan in plans]),
        seed=torch.from_numpy(seeds).to(device),
    )
