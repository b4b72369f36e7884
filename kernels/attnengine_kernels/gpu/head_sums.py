"""The CUDA path: Triton's row pass and scan pass, and torch blocks (:mod:`..blocked`) for where p lies."""

from __future__ import annotations

from dataclasses import replace

import torch

from attnengine_kernels._check import check_call
from attnengine_kernels._exact import exact_products
from attnengine_kernels._facts import Memory
from attnengine_kernels._finish import finish
from attnengine_kernels.blocked import Operands, collect, start, sweep
from attnengine_kernels.call import AttentionCall, HeadSums, TokenFacts
from attnengine_kernels.cpu._scan import HIGH, LOW, POSITIVE, QK, SQUARE
from attnengine_kernels.gpu.rows import row_pass
from attnengine_kernels.gpu.scans import scan_pass


def head_sums(
    call: AttentionCall,
    queries: TokenFacts,
    keys: TokenFacts,
    *,
    cross: bool = False,
    max_length: int | None = None,
    memory: Memory | None = None,
) -> HeadSums:
    """Every sum of :mod:`.sums` for one attention call whose tensors Triton can run on.

    As :func:`.reference.head_sums`; raises ValueError or TypeError for what the kernels do not take.
    """
    check_call(call)
    facts = (memory or Memory()).find(call, queries, keys, cross=cross, max_length=max_length)
    with exact_products():
        counted = replace(call, lo=_like(facts.lo, call), hi=_like(facts.hi, call))
        operands = start(call, facts)
        operands = _rows(counted, operands)
        factors = facts.hidden.size == 0  # pairs hidden inside the interval are left to torch
        if factors:
            _scan(counted, operands)
        sweep(operands, rows=False, scans=not factors)
        return finish(call, facts, collect(operands))


def _like(array: object, call: AttentionCall) -> torch.Tensor:
    return torch.as_tensor(array, device=call.query.device)


def _rows(call: AttentionCall, operands: Operands) -> Operands:
    """Adds what the row pass gives per row; the operands come back with its lse and its mean key."""
    row = row_pass(call, want_ak=True, want_ak2=True)
    assert row.ak is not None  # asked for, as are the next two
    assert row.ak2 is not None
    assert row.key_shift is not None
    named, n = operands.named, row.visible.double()  # (b, h, q)
    seen, mean = n > 0, row.score_mean.double()
    entropy = row.entropy.double()
    named["entropy"] += entropy.sum(dim=-1)
    named["entropy_normalized"] += (entropy / n.clamp(min=2).log()).masked_fill(n < 2, 0.0).sum(dim=-1)
    named["p_max"] += row.p_max.double().sum(dim=-1)
    named["score_mean"] += (n * mean).sum(dim=-1)
    named["score_m2_within"] += row.score_m2.double().sum(dim=-1)
    named["score_m2_between"] += (n * mean.square()).sum(dim=-1)
    named["score_min"].copy_(row.score_min.double().masked_fill(~seen, torch.inf).amin(dim=-1))
    named["score_max"].copy_(row.score_max.double().masked_fill(~seen, -torch.inf).amax(dim=-1))
    centre = row.key_shift.double().repeat_interleave(call.query.shape[1] // call.key.shape[1], dim=1)  # (b, h, d)
    q, ak2 = operands.query.double(), row.ak2.double()
    ak = row.ak.double() - centre[:, :, None]  # rows that see nothing have q = 0
    named["attended"] += torch.stack([(q * ak).sum(2), (q * q * ak2).sum(2), (q * q * ak).sum(2)], dim=2)
    return replace(operands, call=replace(operands.call, lse=row.lse), centre=centre)


def _scan(call: AttentionCall, operands: Operands) -> None:
    found, neurons = scan_pass(call), operands.named["neurons"]
    neurons[:, :, QK] += found["qk"]
    neurons[:, :, SQUARE] += found["qk_m2"] + found["qk"].square() / found["n_pairs"].clamp(min=1)[:, None, None]
    neurons[:, :, POSITIVE] += found["qk_positive"]
    neurons[:, :, LOW], neurons[:, :, HIGH] = found["qk_min"], found["qk_max"]
