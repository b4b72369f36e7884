"""The cosine of q and k, summed over all visible pairs, without L x L work.

    Σ_ij (q_i . k_j) / (|q_i| |k_j|) = Σ_d Σ_i u_id Σ_j v_jd,  u = q / |q|, v = k / |k|

which is the scan pass (:mod:`.scans`) over unit vectors, so its cost and its digits: O(L T D) FLOPs with T = 32; two
fp32 copies of q and k in memory (8 D bytes a token and head) beside what the scan reads.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu.scans import scan_pass


def cosine_sums(
    call: AttentionCall,
    counted: Bool[Tensor, "b q"] | None = None,
    *,
    cu_seqlens: Int[Tensor, " n"] | None = None,
) -> Float64[Tensor, "w h"]:
    """Sum of the cosine over the visible pairs (0 where a norm is 0), ``qk_cosine`` of :mod:`attnengine_kernels.sums`.

    ``counted``, ``cu_seqlens``, NaN and errors as :func:`.scans.scan_pass`; off by less than 1e-6 a pair.
    """
    units = scan_pass(replace(call, query=_unit(call.query), key=_unit(call.key)), counted, cu_seqlens=cu_seqlens)
    return units["qk"].sum(dim=-1)


def _unit(x: Tensor) -> Tensor:
    x = x.float()
    largest = x.abs().amax(dim=-1, keepdim=True)  # first, so that no square over- or underflows
    scaled = x / torch.where(largest == 0, 1.0, largest)
    length = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return scaled / torch.where(length == 0, 1.0, length)
