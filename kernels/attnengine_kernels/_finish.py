"""From the raw sums of a path to the names of :mod:`.sums`: a few operations on (window, head) numbers.

They stay on the device where the passes left them, and nothing here waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attnengine_kernels._facts import Prepared
from attnengine_kernels.call import AttentionCall, HeadSums
from attnengine_kernels.cpu._row import SUMS
from attnengine_kernels.cpu._scan import NEURON_SUMS, QK
from attnengine_kernels.sums import PATTERN_BINS, RECEIVED_MIN_ROWS, keeps

Raw = Mapping[str, Tensor]
"""What the passes add up, all fp64, on one device: every name of SUMS (b, h), and

    received      (b, h, k)          Σ_i p
    grid          (b, h, 33, 32)     Σ p by relative bins, the last row for queries without a position
    profile       (b, h, n_bins)
    attended      (b, h, 3, d)       Σ q (p^ K), Σ q² (p^ K²), Σ q² (p^ K), keys about their mean
    neurons       (b, h, len(NEURON_SUMS), d)
    cosine        (b, h)
    query_totals  (b, h, 2, d)       Σ q, Σ q²
    centre        (b, h, d)          the mean key
    query_norm    (b, h)
    key_norm      (b, h)
"""


@dataclass(frozen=True)
class _Known:
    """Facts on the device of the raw sums."""

    counts: HeadSums
    classes: Tensor  # (b, C, k) fp64 0/1
    used: Tensor  # (b, k) bool: real keys seen by enough rows for a Gini
    fair: Tensor  # (b, k) fp64


def _known(facts: Prepared, device: torch.device) -> _Known:
    """Moved once for all layers."""
    key = _Known, device
    if key not in facts.moved:
        counts = {name: value.to(device) for name, value in facts.counts.items()}
        used = torch.from_numpy(facts.real & (facts.key_rows >= RECEIVED_MIN_ROWS)).to(device)
        classes, fair = (torch.from_numpy(array).to(device) for array in (facts.classes, facts.fair))
        facts.moved[key] = _Known(counts, classes, used, fair)
    found: _Known = facts.moved[key]
    return found


def finish(call: AttentionCall, facts: Prepared, raw: Raw, stats: str = "all") -> HeadSums:
    """Every name of :mod:`.sums` that ``stats`` keeps; all sums of a head whose scores were not finite are NaN."""
    h, known = call.query.shape[1], _known(facts, raw["received"].device)
    counts = known.counts
    sums = {name: raw[name] for name in SUMS}
    sums |= _masses(sums, raw, facts, known)
    sums |= _attended(raw)
    if stats == "all":
        sums |= _scores(sums, raw, counts["n_pairs"])
        sums |= _neurons(sums, raw, facts, counts, call.scale)
        sums["received_gini"] = _gini(raw["received"], known)
        sums["received"] = raw["received"]
        sums["pattern"] = raw["grid"][:, :, :PATTERN_BINS]
    for name in ("same_sentence", "score_m2_within", "score_m2_between"):
        del sums[name]
    if call.sink is None:
        del sums["learned_sink_mass"]
    sums = {name: value for name, value in sums.items() if keeps(stats, name)}
    poisoned = ~torch.isfinite(raw[SUMS[0]])  # (b, h)
    if poisoned.device.type != "cpu" or bool(poisoned.any()):  # to ask another device would be to wait for it
        for name, value in sums.items():
            if name == "share_n" or not name.endswith("_n"):
                value.masked_fill_(poisoned.reshape(poisoned.shape + (1,) * (value.dim() - 2)), torch.nan)
    return sums | _spread({name: value for name, value in counts.items() if keeps(stats, name)}, counts, sums, h)


def _scores(sums: HeadSums, raw: Raw, pairs: Tensor) -> HeadSums:
    n = pairs.clamp(min=1)[:, None]
    between = (sums["score_m2_between"] - sums["score_mean"].square() / n).clamp(min=0)
    return {
        "score_m2": sums["score_m2_within"] + between,
        "query_norm": raw["query_norm"],
        "key_norm": raw["key_norm"],
        "qk_cosine": raw["cosine"],
    }


def _masses(sums: HeadSums, raw: Raw, facts: Prepared, known: _Known) -> HeadSums:
    """Masses on classes are sums of the attention received; those of three offsets are bins of the profile."""
    by_class = raw["received"] @ known.classes.transpose(1, 2)  # (b, h, classes + 1)
    out = {f"{name}_mass": by_class[..., n] for n, name in enumerate(facts.class_names)}
    if "same_token_mass_n" not in facts.counts:
        del sums["same_token_mass"], sums["induction_mass"]
    if "cross_sentence_mass_n" in facts.counts:
        out["cross_sentence_mass"] = (by_class[..., -1] - sums["same_sentence"]).clamp(min=0)
    if facts.cross:
        del sums["offset_mean"], sums["distance_mean"]
        return out
    profile = raw["profile"]
    middle = profile.shape[2] // 2
    near = {"next_mass": middle - 1, "self_mass": middle, "previous_mass": middle + 1}
    return out | {name: profile[..., one].clone() for name, one in near.items()} | {"profile": profile}


def _gini(received: Tensor, known: _Known) -> Tensor:
    """Gini of received / fair share over the keys seen by enough rows, times their number (b, h)."""
    used, fair = known.used, known.fair.masked_fill(~known.used, 1.0)  # (b, k)
    a = (received / fair[:, None]).masked_fill(~used[:, None], torch.inf)
    a = _ascending(a)  # the used ones first
    n = used.sum(dim=1)[:, None, None]
    rank = torch.arange(1, a.shape[2] + 1, device=a.device)
    a = torch.where(rank <= n, a, 0.0)
    total = a.sum(dim=-1)
    uneven = ((2 * rank - n - 1) * a).sum(dim=-1)  # (b, h): n² times the mean absolute difference, halved
    return torch.where(total == 0, 0.0, uneven / total)


def _ascending(a: Tensor) -> Tensor:
    """Sorted along the last axis; on the CPU by numpy, several times faster than torch there."""
    return torch.from_numpy(np.sort(a.numpy(), axis=-1)) if a.device.type == "cpu" else torch.sort(a, dim=-1).values


def _attended(raw: Raw) -> HeadSums:
    """Means of q ⊙ k: Σ p^ q k = Σ p^ q (k - k̄) + k̄ Σ q, and over all pairs."""
    first = raw["attended"][:, :, 0] + raw["centre"] * raw["query_totals"][:, :, 0]
    return {"qk": raw["neurons"][:, :, QK].contiguous(), "qk_attended": first}


def _neurons(sums: HeadSums, raw: Raw, facts: Prepared, counts: HeadSums, scale: float) -> HeadSums:
    named = {name: raw["neurons"][:, :, n].contiguous() for n, name in enumerate(NEURON_SUMS)}
    pairs = counts["n_pairs"].clamp(min=1)[:, None, None]
    out = {name: named[name] for name in ("qk_min", "qk_max", "qk_positive")}
    out["qk_m2"] = (named["qk_square"] - named["qk"].square() / pairs).clamp(min=0)
    out["share"] = scale**2 * named["share"]
    out["share_n"] = out["share"].sum(dim=-1)
    _, second, cross = raw["attended"].unbind(dim=2)  # (b, h, d) each
    square, k = raw["query_totals"][:, :, 1], raw["centre"]
    raw_second = second + 2 * k * cross + k.square() * square
    rows = counts["n_queries"].clamp(min=1)[:, None, None]
    out["qk_attended_m2"] = (raw_second - sums["qk_attended"].square() / rows).clamp(min=0)
    if not facts.cross:
        near = counts["distance_pairs"].clamp(min=1)[:, None, None]
        out["distance_qk"] = named["near"]
        out["distance_qk_m2"] = (named["near_square"] - named["near"].square() / near).clamp(min=0)
        out["distance_qk_co"] = named["near_distance"] - named["near"] * counts["distance_sum"][:, None, None] / near
    return out


def _spread(kept: HeadSums, counts: HeadSums, sums: HeadSums, h: int) -> HeadSums:
    """The numbers that belong to ratios, one per head (b, h); counts of windows as they are (those that are kept)."""
    numbers = {f"{name}_n": counts["n_queries"] for name in ("entropy", "p_max", "query_norm", "mass_defect_mean")}
    numbers |= {"score_mean_n": counts["n_pairs"], "qk_cosine_n": counts["n_pairs"], "key_norm_n": counts["n_keys"]}
    if "learned_sink_mass" in sums:
        numbers["learned_sink_mass_n"] = counts["n_queries"]
    numbers = {name: value for name, value in numbers.items() if name.removesuffix("_n") in sums}
    per_window = {"n_queries", "n_pairs", "n_empty_rows", "n_keys", "pattern_n", "profile_n", "received_fair"}
    per_window |= {"distance_pairs", "distance_sum", "distance_m2"}
    numbers |= {name: value for name, value in kept.items() if name not in per_window}
    spread = {name: value[:, None].repeat(1, h) for name, value in numbers.items()}
    return spread | {name: value.clone() for name, value in kept.items() if name in per_window}
