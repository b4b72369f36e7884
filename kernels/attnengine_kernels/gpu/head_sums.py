"""The CUDA path: every pass over scores in Triton, and here the small sums that turn rows and keys into windows.

Rows, keys, the band and places are swept one after the other with the row pass's lse; what factors over pairs is
scanned. Pairs that a bias of -inf hides inside the intervals factor no more: torch blocks (:mod:`..blocked`) take
those scans.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from attnengine_kernels._check import check_call
from attnengine_kernels._exact import exact_products
from attnengine_kernels._facts import Memory, Prepared
from attnengine_kernels._finish import finish
from attnengine_kernels.blocked import neuron_sums
from attnengine_kernels.call import AttentionCall, HeadSums, TokenFacts
from attnengine_kernels.cpu._scan import (
    HIGH,
    LOW,
    NEAR,
    NEAR_DISTANCE,
    NEAR_SQUARE,
    NEURON_SUMS,
    POSITIVE,
    QK,
    SHARE,
    SQUARE,
)
from attnengine_kernels.gpu._moved import Moved, moved
from attnengine_kernels.gpu.band import band_pass
from attnengine_kernels.gpu.columns import column_pass
from attnengine_kernels.gpu.distances import distance_pass
from attnengine_kernels.gpu.pairs import cosine_sums
from attnengine_kernels.gpu.places import BINS, places_pass
from attnengine_kernels.gpu.rows import RowStats, row_pass
from attnengine_kernels.gpu.scans import scan_pass
from attnengine_kernels.gpu.share import share_pass
from attnengine_kernels.sums import EXACT_OFFSETS, PATTERN_BINS, profile_edges

Sums = dict[str, Tensor]


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
        here = moved(facts, call.query.device)
        counted = replace(call, lo=here.lo, hi=here.hi)
        row = row_pass(counted, want_ak=True, want_ak2=True)
        assert row.key_shift is not None
        centre = row.key_shift.double().repeat_interleave(_group(call), dim=1)  # (b, h, d)
        known = replace(counted, lse=row.lse)
        named = _norms(call, here) | _rows(known, row, here) | _attended(known, row, here)
        named |= _columns(known, here)
        named |= _places(known, facts, here, named["received"])
        if facts.hidden.size:  # pairs hidden inside the intervals: nothing factors
            named["neurons"], named["cosine"] = neuron_sums(call, facts)
        else:
            named |= {"neurons": _neurons(counted, facts, here), "cosine": cosine_sums(counted)}
        return finish(call, facts, named | {"centre": centre})


def _group(call: AttentionCall) -> int:
    return call.query.shape[1] // call.key.shape[1]


def _sum(x: Tensor, where: Tensor) -> Tensor:
    """(b, h, q) to (b, h) in fp64, over the rows of ``where`` (b, q)."""
    return x.masked_fill(~where[:, None], 0.0).sum(dim=-1, dtype=torch.float64)


def _norms(call: AttentionCall, here: Moved) -> Sums:
    """Lengths of counted queries and keys, summed; Σ q and Σ q² come with :func:`_attended`."""
    query = torch.linalg.vector_norm(call.query, dim=-1, dtype=torch.float64)
    key = torch.linalg.vector_norm(call.key, dim=-1, dtype=torch.float64).masked_fill(~here.counted_keys[:, None], 0.0)
    return {
        "query_norm": _sum(query, here.rows),
        "key_norm": key.sum(dim=-1).repeat_interleave(_group(call), dim=1),
    }


def _rows(call: AttentionCall, row: RowStats, here: Moved) -> Sums:
    """What the row pass gives per row, summed over each window's counted rows."""
    n, rows = here.visible[:, None], here.rows
    entropy, mean = row.entropy.double(), row.score_mean.double()
    sums = {
        "entropy": _sum(entropy, rows),
        "entropy_normalized": _sum(entropy / n.clamp(min=2).log(), rows & (here.visible >= 2)),
        "p_max": _sum(row.p_max, rows),
        "score_mean": _sum(n * mean, rows),
        "score_m2_within": _sum(row.score_m2, rows),
        "score_m2_between": _sum(n * mean.square(), rows),
        "score_min": row.score_min.double().masked_fill(~rows[:, None], torch.inf).amin(dim=-1),
        "score_max": row.score_max.double().masked_fill(~rows[:, None], -torch.inf).amax(dim=-1),
        "mass_defect_mean": _sum(row.mass_defect, rows),
        "mass_defect_max": row.mass_defect.double().masked_fill(~rows[:, None], 0.0).amax(dim=-1),
        "learned_sink_mass": torch.zeros_like(entropy[..., 0]),
    }
    if call.sink is not None:
        sums["learned_sink_mass"] = _sum(torch.exp(call.sink.double()[:, None] - row.lse.double()), rows)
    return sums


def _attended(call: AttentionCall, row: RowStats, here: Moved) -> Sums:
    """Σ_i q (p^ K), q² (p^ K²), q² (p^ K), keys about their mean, and Σ q, Σ q²; one window at a time to save room."""
    assert row.ak is not None
    assert row.ak2 is not None
    assert row.key_shift is not None
    attended, totals = [], []
    for w in range(len(here.rows)):
        some = here.rows[w, :, None]
        q = call.query[w].float().masked_fill(~some, 0.0)  # (h, q, d)
        square = q.square()
        shift = row.key_shift[w].repeat_interleave(_group(call), dim=0)  # (h, d)
        ak = (row.ak[w] - shift[:, None]).masked_fill(~some, 0.0)
        terms = (q * ak, square * row.ak2[w].masked_fill(~some, 0.0), square * ak)
        attended.append(torch.stack([x.sum(dim=1, dtype=torch.float64) for x in terms], dim=1))
        totals.append(torch.stack([x.sum(dim=1, dtype=torch.float64) for x in (q, square)], dim=1))
    return {"attended": torch.stack(attended), "query_totals": torch.stack(totals)}


def _columns(call: AttentionCall, here: Moved) -> Sums:
    """Attention received, and the pattern on relative positions: rows binned in the pass, keys here."""
    found = column_pass(call, here.row_bins.to(call.query.dtype))
    assert found.masses is not None
    b, h = found.received.shape[:2]
    grid = found.received.new_zeros((b, h, PATTERN_BINS + 1, PATTERN_BINS), dtype=torch.float64)
    for w in range(b):
        grid[w, :, :PATTERN_BINS] = found.masses[w].double().transpose(1, 2) @ here.key_bins[w]
    return {"received": found.received.double(), "grid": grid}


def _places(call: AttentionCall, facts: Prepared, here: Moved, received: Tensor) -> Sums:
    """Masses by token, sentence, offset and distance; the values' weight on the first key."""
    found, rows = places_pass(call, here.places), here.rows
    empty = torch.zeros_like(received[..., 0])
    names = {"same_token_mass": found.same_token, "induction_mass": found.induction}
    names |= {"offset_mean": found.offset, "distance_mean": found.distance}
    sums = {name: empty if x is None else _sum(x, rows) for name, x in names.items()}
    told = (received * here.told[:, None]).sum(dim=-1)
    other = empty if found.other_sentence is None else _sum(found.other_sentence, rows)
    sums["same_sentence"] = told - other  # rows in no sentence have all of it in their own
    used = ~(found.value_weight <= 0)  # (b, h, q); NaN stays in
    share = found.value_weight_first.double() / found.value_weight.double()
    sums["value_weighted_first_mass"] = share.masked_fill(~used, 0.0).sum(dim=-1)
    sums["value_weighted_first_mass_n"] = used.sum(dim=-1).double()
    sums["profile"] = empty[..., None].repeat(1, 1, len(profile_edges(facts.max_length)))
    if found.behind is not None and found.ahead is not None:
        band = band_pass(call, here.places.query_position, here.places.key_position)
        far = sums["profile"].shape[2] // 2 - (EXACT_OFFSETS - 1)  # bins beyond the band on either side
        sums["profile"][..., far : far + band.profile.shape[2]] = band.profile
        most = min(far, BINS)
        sums["profile"][..., far - most : far] = found.ahead[..., :most].flip(-1)
        sums["profile"][..., far + band.profile.shape[2] :][..., :most] = found.behind[..., :most]
    return sums


def _neurons(call: AttentionCall, facts: Prepared, here: Moved) -> Tensor:
    """NEURON_SUMS (b, h, sums, d): moments, extremes, signs, shares and distances of q_id k_jd over visible pairs."""
    (b, h, _, d), found = call.query.shape, scan_pass(call)
    out = torch.zeros(b, h, len(NEURON_SUMS), d, dtype=torch.float64, device=call.query.device)
    out[:, :, QK], out[:, :, SQUARE] = found["qk"], _square(found)
    out[:, :, POSITIVE], out[:, :, LOW], out[:, :, HIGH] = found["qk_positive"], found["qk_min"], found["qk_max"]
    if call.scale != 0:
        out[:, :, SHARE] = share_pass(call).share / call.scale**2  # the last step puts the scale back
    if not facts.cross:
        near = found
        if not here.all_placed:
            near = scan_pass(replace(call, lo=here.near_lo, hi=here.near_hi))
        distances = distance_pass(call, here.places)
        far = facts.counts["distance_sum"].to(out.device)[:, None, None]
        out[:, :, NEAR], out[:, :, NEAR_SQUARE] = near["qk"], _square(near)
        out[:, :, NEAR_DISTANCE] = distances.distance_qk + distances.pilot.double() * far
    return out


def _square(found: Sums) -> Tensor:
    """Σ x² of a scan, from the moments about its mean."""
    return found["qk_m2"] + found["qk"].square() / found["n_pairs"].clamp(min=1)[:, None, None]
