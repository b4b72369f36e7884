"""What every Triton launch of the library needs: checked arguments, tile sizes, element types.

Tile sizes are a fixed table, not an autotuner, so that the same input on the same GPU gives the same bits. They were
chosen by compiling every entry ahead of time (``python -m attnengine_kernels.gpu.aot``): nothing spills, and shared
memory stays below what the architecture has; for sm_80 below what the consumer cards have that share its tiles.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from attnengine_kernels._check import check_call
from attnengine_kernels.call import AttentionCall

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
Shipped = tuple[str, Any, dict[str, str], dict[str, Any], "Tile"]
"""A launch for the ahead-of-time compiler: name, jitted function, argument types, constants, tile."""
MAX_HEAD_DIM = 256
SHARED_OF_90 = 227 * 1024  # bytes a block
MAX_FEATURES = 16
TILE_STRIDE_LIMIT = 2**31 // 128  # offsets inside a tile of <= 128 rows are int32, everything else is int64


@dataclass(frozen=True)
class Tile:
    """Block sizes of one kernel: ``m`` query rows by ``n`` keys, held by ``warps`` warps, ``stages`` loads in flight.

    Tiles that need a mask take ``edge`` keys at a time: the mask costs registers that the other tiles do not need.
    """

    m: int
    n: int
    edge: int
    warps: int
    stages: int

    def options(self) -> dict[str, Any]:
        """Compile options; fusion is pinned because Triton 3.10 turns it off, and the error bounds were measured on."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


def padded_dim(d: int) -> int:
    """The power of two >= 16 that a head width ``d`` occupies in a tile (``tl.dot`` contracts over at least 16)."""
    return max(16, triton.next_power_of_2(d))


def compute_type(dtype: torch.dtype) -> tl.dtype:
    """Type that products are taken in: the inputs' own, but fp32 for bf16 under the interpreter.

    NumPy has no bf16, and the interpreter's ``tl.dot`` of it returns garbage instead of refusing.
    """
    if dtype == torch.bfloat16:
        return tl.float32 if INTERPRETED else tl.bfloat16
    return tl.float16 if dtype == torch.float16 else tl.float32


def architecture(device: torch.device) -> int:
    """80 or 90: the column of the tile tables that a device uses (the interpreter uses the smaller one).

    The tiles for 90 need the shared memory of H100 and B200 class devices. Those for 80 fit consumer cards, too, also
    of later architectures: 99 KB a block.
    """
    if device.type != "cuda":
        return 80
    shared = torch.cuda.get_device_properties(device).shared_memory_per_block_optin  # type: ignore[attr-defined]
    return 90 if shared >= SHARED_OF_90 else 80


def keys_seen(call: AttentionCall) -> Tensor:
    """(b, k) int8: 1 where at least one row sees the key, so that what lies in unseen keys (NaN) is never loaded."""
    lo, hi = call.lo.long(), call.hi.long()  # (b, q)
    n_keys = call.key.shape[2]
    some = (hi > lo).to(torch.int32)
    edges = torch.zeros(lo.shape[0], n_keys + 1, dtype=torch.int32, device=lo.device)
    edges.scatter_add_(1, lo.clamp(0, n_keys), some)
    edges.scatter_add_(1, hi.clamp(0, n_keys), -some)
    seen = edges.cumsum(1)[:, :n_keys] > 0
    if call.bias is not None:
        seen &= (call.bias > -torch.inf).any(dim=2).any(dim=1)  # (1 or b, k)
    return seen.to(torch.int8)


def rows_seeing(call: AttentionCall) -> Tensor:
    """(b, q) int8: 1 where the row sees at least one key, so that what lies in other rows (NaN) is never loaded."""
    sees = call.hi > call.lo
    if call.bias is not None:
        sees = sees & (call.bias != -torch.inf).any(dim=3).any(dim=1)  # (1 or b, q)
    return sees.to(torch.int8)


def seen_mean(key: Tensor, seen: Tensor) -> Tensor:
    """Mean key (b, hkv, d) fp32 over the seen keys (zeros if none): the pilot that second moments are taken about."""
    kept = torch.where(seen[:, None, :, None] != 0, key, 0)  # (b, hkv, k, d)
    count = seen.sum(1, dtype=torch.float32).clamp_min(1)
    return kept.sum(2, dtype=torch.float32) / count[:, None, None]


def unit_stride(x: Tensor) -> Tensor:
    """``x`` with its last dimension contiguous, copied only if it is not."""
    return x if x.stride(-1) == 1 else x.contiguous()


def check_triton(call: AttentionCall) -> None:
    """Raise ValueError or TypeError, naming what came, for a call that does not fit together or these kernels."""
    check_call(call)
    q, k = call.query, call.key
    if q.device.type != "cuda" and not INTERPRETED:
        raise ValueError(
            f"query: expected a CUDA tensor, got one on {q.device}; on the CPU use head_sums, which has its own path, "
            "or set TRITON_INTERPRET=1 before triton is imported to try a kernel slowly"
        )
    if q.dtype not in (torch.float32, torch.float16, torch.bfloat16) or k.dtype != q.dtype:
        raise TypeError(f"query, key: expected one of fp32, fp16, bf16 for both, got {q.dtype} and {k.dtype}")
    if not 1 <= q.shape[3] <= MAX_HEAD_DIM or 0 in q.shape or 0 in k.shape:
        raise ValueError(f"query, key: expected rows, keys and 1…{MAX_HEAD_DIM} dims, got {_sizes(q)} and {_sizes(k)}")
    if k.shape[0] != q.shape[0] or k.shape[3] != q.shape[3]:
        raise ValueError(f"key: expected the windows and dims of query {_sizes(q)}, got {_sizes(k)}")
    for name, edge in (("lo", call.lo), ("hi", call.hi)):
        if edge.dtype != torch.int32:
            raise TypeError(f"{name}: expected int32, got {edge.dtype}")
    for name, x in (("query", q), ("key", k)):
        if x.stride(2) >= TILE_STRIDE_LIMIT:
            raise ValueError(f"{name}: expected rows < {TILE_STRIDE_LIMIT} elements apart, got {x.stride(2)}")


def _sizes(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)
