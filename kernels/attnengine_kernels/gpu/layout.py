"""The layout of many heads' clouds at once: UMAP's descent, gather only, one launch a step.

    y_v += Σ over due edges (v, w) of a part: 2r · clip(attract(y_v − y_w)) + r · Σ of 5 draws clip(repel(y_v − y_u))

The specification, with every constant of it, is ``attnengine.embedding.layout``, where the CPU's compiled form lies
too (there a worker that lays out on the CPU never loads torch); its bits are these bits. No atomics, two buffers:
nothing depends on the grid or on which heads are launched together.

Floor of a step: 4 bytes a directed edge of the part, 8 + 8·dims a vertex, 24·dims gathered from L2 a due edge. A launch
costs the host some 20 µs, and there are epochs · parts of them (3,200 by default).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
from jaxtyping import Float32, Int32, Int64
from torch import Tensor

from attnengine_kernels.gpu._launch import INTERPRETED, Shipped, Tile
from attnengine_kernels.gpu._layout_kernel import layout_kernel

BLOCK = 128  # vertices a program, one a thread
MOST_EDGES = 2**31 - 1  # of one head: an edge's number is 32 bits of its hash


@dataclass(frozen=True)
class Edges:
    """Directed edges of h heads, each head's ordered by (part, vertex), heads one after the other.

    starts: per head (parts, n_h + 1), flattened: the edges of vertex v in part p are starts[p, v] to starts[p, v + 1],
    counted within the head. rate: bits of uint32. first_vertex, first_edge: where each head begins, and the end.
    """

    tail: Int32[Tensor, " e"]
    rate: Int32[Tensor, " e"]
    starts: Int32[Tensor, " s"]
    first_vertex: Int64[Tensor, " h1"]
    first_edge: Int64[Tensor, " h1"]
    seed: Int32[Tensor, " h"]


@dataclass(frozen=True)
class Law:
    """The specification's constants: ``hashes`` (golden, second, third), ``power`` (log2's eight coefficients, exp2's
    six, the bits of √½), and the force's.
    """

    parts: int
    negatives: int
    hashes: tuple[int, int, int]
    power: tuple[float, ...]
    tiny: float
    near: float
    clip: float

    def constants(self) -> dict[str, Any]:
        """What the kernel is compiled for."""
        return {"PARTS": self.parts, "NEGATIVES": self.negatives, "HASH": self.hashes, "POWER": self.power,
                "TINY": self.tiny, "NEAR": self.near, "CLIP": self.clip}  # fmt: skip


def lay_out(
    start: Float32[Tensor, "n dims"], edges: Edges, law: Law, sizes: list[float], a: float, b: float
) -> Float32[Tensor, "n dims"]:
    """Positions after ``len(sizes)`` epochs, ``sizes`` their learning rates; ``a``, ``b`` the curve's, rounded to fp32.

    Raises ValueError for tensors that do not fit together or are not on a CUDA device.
    """
    _check(start, edges, law)
    pull, push = float(np.float32(-2) * np.float32(a) * np.float32(b)), float(np.float32(2) * np.float32(b))
    n_heads = len(edges.seed)
    most = int((edges.first_vertex[1:] - edges.first_vertex[:-1]).max()) if n_heads else 0
    grid = (triton.cdiv(most, BLOCK), n_heads)
    y, out = start.contiguous().clone(), torch.empty_like(start)
    for epoch, size in enumerate(sizes, start=1) if most else ():
        for part in range(law.parts):
            layout_kernel[grid](
                y, out, edges.first_vertex, edges.first_edge, edges.starts, edges.tail, edges.rate, edges.seed, epoch,
                part, a, b, pull, push, size, DIMS=start.shape[1], BLOCK=BLOCK, **law.constants(), **TILE.options(),
            )  # fmt: skip
            y, out = out, y
    return y


@dataclass(frozen=True)
class Exactly(Tile):
    """A tile without fused multiply-adds: they would round once where the specification rounds twice."""

    def options(self) -> dict[str, Any]:
        """Compile options."""
        return super().options() | {"enable_fp_fusion": False}


TILE = Exactly(BLOCK, 1, 1, BLOCK // 32, 1)


def shipped_with(law: Law) -> list[Shipped]:
    """The launches of this module, for the ahead-of-time compiler."""
    types = dict.fromkeys(("Y", "OUT"), "*fp32") | dict.fromkeys(("FIRST_VERTEX", "FIRST_EDGE"), "*i64")
    types |= dict.fromkeys(("STARTS", "TAIL", "RATE", "SEED"), "*i32") | dict.fromkeys(("epoch", "part"), "i32")
    types |= dict.fromkeys(("a", "b", "pull", "push", "size"), "fp32")
    return [
        (f"layout {dims}D", layout_kernel, types, {"DIMS": dims, "BLOCK": BLOCK} | law.constants(), TILE)
        for dims in (2, 3)
    ]


def _check(start: Tensor, edges: Edges, law: Law) -> None:
    if start.ndim != 2 or start.shape[1] not in (2, 3) or start.dtype != torch.float32:
        raise ValueError(f"start: expected fp32 (n, 2) or (n, 3), got {start.dtype} {tuple(start.shape)}")
    if start.device.type != "cuda" and not INTERPRETED:
        raise ValueError(f"start: expected a CUDA tensor, got one on {start.device}; lay out on the CPU instead")
    h, n, e = len(edges.seed), len(start), len(edges.tail)
    fits = (
        len(edges.first_vertex) == len(edges.first_edge) == h + 1
        and len(edges.rate) == e
        and edges.first_vertex[[0, -1]].tolist() == [0, n]
        and edges.first_edge[[0, -1]].tolist() == [0, e]
        and len(edges.starts) == law.parts * (n + h)
    )
    if not fits:
        raise ValueError(
            f"edges do not fit {n} vertices: {h} heads, {e} tails, {len(edges.rate)} rates, {len(edges.starts)} starts"
        )
    if h and int((edges.first_edge[1:] - edges.first_edge[:-1]).max()) > MOST_EDGES:
        raise ValueError(f"a head has more than {MOST_EDGES} edges; use a smaller --sample")
