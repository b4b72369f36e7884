"""The layout, said once: what the compiled version in layout_compiled.py must equal to the bit.

It is UMAP's stochastic descent (McInnes et al. 2018, arXiv 1802.03426) with its races taken out. There, threads move
both ends of an edge while others read them. Here a vertex only ever moves itself: it reads the positions of all others
as they stood at the start of the step and writes its own into a second buffer (gather only, double-buffered). So no
result depends on the number of threads, on how vertices are cut into blocks, or on which heads are laid out together.

- Each undirected edge is met from both its ends, and each end takes twice UMAP's step: UMAP, too, moves both ends
  twice, once for either direction of the edge.
- An edge of weight w is due every w_max/w epochs: in epoch n if (n·rate) mod 2^31 < rate, with rate = 2^31·w/w_max.
- An epoch is cut into PARTS steps by a hash of the undirected edge: all edges at once from one snapshot would
  overshoot and lose 4 to 10 % of the neighbours.
- Five negatives a due edge, drawn by a hash of (seed, edge, epoch, which): no state, so any edge can be drawn alone.
- fp32 throughout; a vertex adds its forces in the order of its edges, attraction first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnengine.embedding.curve import TINY, f32, power
from attnengine.embedding.fuzzy import Graph

PARTS = 16
NEGATIVES = 5
CLIP = f32(4)
NEAR = f32(0.001)  # keeps repulsion finite, as in UMAP
FULL = np.uint32(2**31)  # the rate of an edge that is due every epoch
LOW_BITS = np.uint32(2**31 - 1)
GOLDEN, SECOND, THIRD = np.uint32(0x9E3779B9), np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)


@dataclass(frozen=True)
class Schedule:
    """Directed edges ordered by (part, head, tail). ``head, tail`` (e,) int32, ``rate`` (e,) uint32, ``starts``
    (PARTS, n + 1) int64: the edges of vertex v in part p are ``starts[p, v]`` to ``starts[p, v + 1]``.
    """

    head: np.ndarray
    tail: np.ndarray
    rate: np.ndarray
    starts: np.ndarray

    @property
    def n(self) -> int:
        """Vertices."""
        return self.starts.shape[1] - 1


@dataclass(frozen=True)
class Descent:
    """How a layout moves: ``epochs``, first learning ``rate`` (it falls linearly to 0), curve ``a`` and ``b``, seed."""

    seed: int  # 32 bits
    a: float
    b: float
    epochs: int = 200
    rate: float = 1.0


def mix(x: np.ndarray) -> np.ndarray:
    """Murmur3's 32-bit finaliser: uint32 → uint32, every input bit changes about half of the output's."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint32(16))) * SECOND
        x = (x ^ (x >> np.uint32(13))) * THIRD
        return x ^ (x >> np.uint32(16))


def schedule(graph: Graph) -> Schedule:
    """Order the edges of a graph for the layout."""
    n = graph.n
    head = np.repeat(np.arange(n, dtype=np.int32), np.diff(graph.indptr))
    tail = graph.indices
    with np.errstate(over="ignore"):
        low, high = np.minimum(head, tail).astype(np.uint32), np.maximum(head, tail).astype(np.uint32)
        part = (mix(low * GOLDEN + mix(high)) % np.uint32(PARTS)).astype(np.int64)
    order = np.argsort(part, kind="stable")  # the graph is ordered by head and tail already
    rate = np.rint(graph.weights.astype(np.float64) / graph.weights.max(initial=1e-300) * float(FULL))
    starts = np.zeros((PARTS, n + 1), np.int64)
    counts = np.bincount(part * n + head, minlength=PARTS * n).reshape(PARTS, n)
    starts[:, 1:] = counts.cumsum(1)
    starts += np.concatenate([[0], counts.sum(1).cumsum()[:-1]])[:, None]
    return Schedule(head[order], tail[order], rate.astype(np.uint32)[order], starts)


def step_key(seed: int, epoch: int, part: int) -> np.uint32:
    """The key from which all negatives of one step are drawn."""
    step = np.asarray([epoch * PARTS + part], np.uint32)
    return np.uint32(mix(mix(step + GOLDEN) ^ np.uint32(seed))[0])


def step_sizes(descent: Descent, epoch: int) -> np.float32:
    """Learning rate of an epoch, counted from 1."""
    return f32(descent.rate * (1 - (epoch - 1) / descent.epochs))


def lay_out_plainly(start: np.ndarray, plan: Schedule, descent: Descent) -> np.ndarray:
    """The positions (n, dims) fp32 after all epochs, from ``start`` (n, dims): the specification, slow and plain."""
    y = np.ascontiguousarray(start.T, f32)  # (dims, n)
    for epoch in range(1, descent.epochs + 1):
        for part in range(PARTS):
            y = _step(y, plan, descent, epoch, part)
    return np.ascontiguousarray(y.T)


def _step(y: np.ndarray, plan: Schedule, descent: Descent, epoch: int, part: int) -> np.ndarray:
    """One step: all forces from the same snapshot ``y`` (dims, n)."""
    edges = np.arange(plan.starts[part, 0], plan.starts[part, -1])
    rate = plan.rate[edges]
    with np.errstate(over="ignore"):
        edges = edges[((np.uint32(epoch) * rate) & LOW_BITS) < rate]
        keys = mix(step_key(descent.seed, epoch, part) ^ (edges.astype(np.uint32) * GOLDEN))
        draws = mix(keys[:, None] + np.arange(1, NEGATIVES + 1, dtype=np.uint32) * SECOND)  # (e, 5)
    negatives = (draws.astype(np.uint64) * np.uint64(plan.n)) >> np.uint64(32)
    other = np.concatenate([plan.tail[edges, None], negatives.astype(np.int32)], axis=1)  # (e, 6), attraction first
    own = np.broadcast_to(plan.head[edges, None], other.shape)
    forces = _forces(y[:, own] - y[:, other], f32(descent.a), f32(descent.b), step_sizes(descent, epoch))
    moved = y.copy()
    for axis in range(len(y)):
        np.add.at(moved[axis], own.ravel(), forces[axis].ravel())  # in this order, one after the other
    return moved


def _forces(apart: np.ndarray, a: np.float32, b: np.float32, size: np.float32) -> np.ndarray:
    """Steps (dims, e, 6) from differences (dims, e, 6): the first column attracts, the others repel."""
    d2 = apart[0] * apart[0]
    for axis in apart[1:]:
        d2 = d2 + axis * axis
    d2 = np.maximum(d2, TINY)
    p = power(d2.ravel(), b).reshape(d2.shape)
    rest = f32(1) + a * p
    pull = (f32(-2) * a * b) * p[:, :1] / (d2[:, :1] * rest[:, :1])
    push = (f32(2) * b) / ((NEAR + d2[:, 1:]) * rest[:, 1:])
    clipped = np.clip(apart * np.concatenate([pull, push], axis=1), -CLIP, CLIP)
    clipped[:, :, :1] *= f32(2) * size
    clipped[:, :, 1:] *= size
    return clipped
