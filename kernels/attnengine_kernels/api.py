"""One call for every device: which implementation runs, said openly."""

from __future__ import annotations

from collections.abc import Callable

import torch

from attnengine_kernels import blocked, reference
from attnengine_kernels._facts import Memory
from attnengine_kernels.call import AttentionCall, HeadSums, TokenFacts
from attnengine_kernels.cpu import head_sums as cpu
from attnengine_kernels.sums import STATS, keeps

#: Path -> pass -> what runs it. "places" is where the pattern lies: keys, offsets, groups of tokens; "facts" is what
#: depends on tokens and masks only; "hidden scans" replaces "scans" where a bias of -inf hides pairs.
PASSES = {
    "numba": {"rows": "numba", "scans": "numba", "hidden scans": "numba", "places": "numba", "facts": "numba"},
    "torch": {"rows": "torch", "scans": "torch", "hidden scans": "torch", "places": "torch", "facts": "numba"},
    "triton": {"rows": "triton", "scans": "triton", "hidden scans": "torch", "places": "triton", "facts": "numba"},
}


def path_for(device_type: str, dtype: torch.dtype = torch.float32) -> dict[str, str]:
    """Which implementation runs which pass for calls on a device ("cpu", "cuda", …), for the manifest."""
    return dict(PASSES[_chosen(device_type, dtype)])


def _chosen(device_type: str, dtype: torch.dtype) -> str:
    if dtype == torch.float64:
        return "torch"
    return {"cpu": "numba", "cuda": "triton"}.get(device_type, "torch")


def head_sums(
    call: AttentionCall,
    queries: TokenFacts,
    keys: TokenFacts,
    *,
    cross: bool = False,
    max_length: int | None = None,
    stats: str = "all",
    path: str = "auto",
    memory: Memory | None = None,
) -> HeadSums:
    """Every statistic of one attention call as sums per window and head: names and shapes in :mod:`.sums`.

    ``queries`` and ``keys`` are the facts of the tokens on either side (the same object in self-attention), ``cross``
    says that they are two streams, ``max_length`` fixes the profile's bins (default: the longer side). ``memory``
    keeps what depends on facts and masks only: make one :class:`Memory` for a run and pass it to every call.
    ``stats``: "all", or "core" for what :mod:`.sums` lists under that name.

    ``path``: "numba" (CPU, fp32 and half), "torch" (any device, any floating type), "triton" (CUDA, fp32 and half,
    d <= 256), "reference" (fp64, O(L² D), the definitions), or "auto", which is what :func:`path_for` says.

    Returns name -> fp64 tensor on the call's device; token facts are best left on the host. Raises ValueError or
    TypeError for tensors that do not fit together or that the path does not take.
    """
    if stats not in STATS:
        raise ValueError(f"stats: expected one of {', '.join(STATS)}, got {stats!r}")
    if path == "auto":
        path = _chosen(call.query.device.type, torch.promote_types(call.query.dtype, call.key.dtype))
    if path == "reference":
        sums = reference.head_sums(call, queries, keys, cross=cross, max_length=max_length)
    elif path == "numba":  # the path that leaves out the work, too
        sums = cpu.head_sums(call, queries, keys, cross=cross, max_length=max_length, memory=memory, stats=stats)
    elif path in PASSES:
        sums = _implementation(path)(call, queries, keys, cross=cross, max_length=max_length, memory=memory)
    else:
        raise ValueError(f"path: expected one of {', '.join(['auto', *PASSES, 'reference'])}, got {path!r}")
    return {name: value for name, value in sums.items() if keeps(stats, name)}


def _implementation(path: str) -> Callable[..., HeadSums]:
    if path == "torch":
        return blocked.head_sums
    from attnengine_kernels.gpu import head_sums as gpu  # triton exists on Linux only

    return gpu.head_sums
