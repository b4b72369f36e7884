"""The sample: q, k, v, entropy and top keys of a few thousand tokens, gathered while their batch runs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from attnengine.corpus.plan import Plan
from attnengine.statistics.row_pass import SampledRows
from attnengine_kernels import AttentionCall

ROW = "row."  # begins the names of row values, which become examples and are not kept as arrays
FP16_LIMIT = 6e4  # larger magnitudes are stored in fp32


@dataclass
class Sample:
    """Sampled vectors of the windows seen so far: for each site a list of (name -> (n, ...)) pieces."""

    rows: list[Tensor] = field(default_factory=list)  # rows of table ``tokens``, one tensor a batch
    pieces: dict[int, dict[str, list[Tensor]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    def take(self, site: int, call: AttentionCall, where: Tensor, found: SampledRows) -> None:
        """Gather the sampled tokens of one attention call; ``where`` (n, 2) int64 are (row of batch, position)."""
        window, position = where.to(call.query.device, non_blocking=True).unbind(1)
        arrays = {
            "queries": call.query[window, :, position],  # (n, h, d)
            "keys": call.key[window, :, position],  # (n, hkv, d)
            "values": call.value[window, :, position],  # (n, hkv, dv)
            "row_entropy": found.top.entropy,  # (n, h)
            "top_keys": found.top.keys,  # (n, h, 16)
            "top_weights": found.top.weights,  # (n, h, 16)
        } | {ROW + name: value for name, value in found.values.items()}
        for name, tensor in arrays.items():
            dtype = torch.int32 if name == "top_keys" else torch.float32
            self.pieces[site][name].append(_copied(tensor.to(dtype)))

    def tensors(self) -> dict[str, Tensor]:
        """Flat names for the disk: ``sample.rows`` and ``sample.<site>.<array>``."""
        if not self.rows:
            return {}
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # copies on their way to the host
        out = {"sample.rows": torch.cat(self.rows)}
        for site, arrays in self.pieces.items():
            out |= {f"sample.{site}.{name}": torch.cat(parts).contiguous() for name, parts in arrays.items()}
        return out


def _copied(tensor: Tensor) -> Tensor:
    """A copy on the host: the model's tensors are freed when the layer returns.

    From CUDA into pinned memory, which is not waited for: :meth:`Sample.tensors` does that once.
    """
    if tensor.device.type == "cpu":
        return tensor.clone()
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


class BatchSample(NamedTuple):
    """The sampled tokens of a batch: those that estimates are made from, then those added for a class."""

    rows: Tensor  # (n,) int64: rows of the table ``tokens``
    where: Tensor  # (n, 2) int64: (row of the batch, position)
    n_plain: int  # those in front


def batch_sample(plan: Plan, windows: tuple[int, ...]) -> BatchSample:
    """Which sampled tokens lie in a batch."""
    lookup = {window: b for b, window in enumerate(windows)}
    rows = np.flatnonzero(np.isin(plan.sample_window, list(windows)))
    rows = rows[np.argsort(~plan.sample_plain[rows], kind="stable")]
    batch_row = [lookup[window] for window in plan.sample_window[rows].tolist()]
    where = np.stack([np.asarray(batch_row, np.int64), plan.sample_position[rows].astype(np.int64)], axis=1)
    n_plain = int(plan.sample_plain[rows].sum())
    return BatchSample(torch.from_numpy(rows.astype(np.int64)), torch.from_numpy(where), n_plain)


def stored_dtype(array: np.ndarray, *, source_fp32: bool) -> np.ndarray:
    """fp16 if that loses nothing that matters (source not fp32, every |x| < 6e4), else fp32 as it came."""
    if source_fp32 or array.dtype != np.float32 or not np.all(np.abs(array) < FP16_LIMIT):
        return array
    return array.astype(np.float16)
