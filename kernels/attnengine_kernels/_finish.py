"""From the raw sums of the CPU path to the names of :mod:`.sums`: a few operations on (window, head) numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnengine_kernels._facts import Prepared
from attnengine_kernels.call import AttentionCall, HeadSums
from attnengine_kernels.cpu._row import SUMS
from attnengine_kernels.cpu._scan import NEURON_SUMS, QK
from attnengine_kernels.sums import PATTERN_BINS, RECEIVED_MIN_ROWS, keeps

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Raw:
    """What the passes add up, all fp64."""

    tile: Array  # (b, h, len(SUMS))
    received: Array  # (b, h, k): Σ_i p
    grid: Array  # (b, h, 33, 32): Σ p by relative bins, the last row for queries without a position
    profile: Array  # (b, h, n_bins)
    attended: Array  # (b, h, 3, d): Σ q (p^ K), Σ q² (p^ K²), Σ q² (p^ K), keys about their mean
    neurons: Array  # (b, h, len(NEURON_SUMS), d)
    cosine: Array  # (b, h)
    query_totals: Array  # (b, h, 2, d): Σ q, Σ q²
    centre: Array  # (b, h, d): the mean key
    query_norm: Array  # (b, h)
    key_norm: Array  # (b, h)


def finish(call: AttentionCall, facts: Prepared, raw: Raw, stats: str = "all") -> HeadSums:
    """Every name of :mod:`.sums` that ``stats`` keeps; all sums of a head whose scores were not finite are NaN."""
    h = call.query.shape[1]
    counts = facts.counts
    sums = {name: torch.from_numpy(np.ascontiguousarray(raw.tile[..., n])) for n, name in enumerate(SUMS)}
    received = torch.from_numpy(raw.received)
    sums |= _masses(sums, received, raw, facts)
    sums |= _attended(raw)
    if stats == "all":
        sums |= _scores(sums, raw, counts["n_pairs"])
        sums |= _neurons(sums, raw, facts, call.scale)
        sums["received_gini"] = _gini(received, facts)
        sums["received"] = received
        sums["pattern"] = torch.from_numpy(raw.grid[:, :, :PATTERN_BINS])
    for name in ("same_sentence", "score_m2_within", "score_m2_between"):
        del sums[name]
    if call.sink is None:
        del sums["learned_sink_mass"]
    sums = {name: value for name, value in sums.items() if keeps(stats, name)}
    poisoned = torch.from_numpy(~np.isfinite(raw.tile[..., 0]))  # (b, h)
    if bool(poisoned.any()):
        for name, value in sums.items():
            if name == "share_n" or not name.endswith("_n"):
                value[poisoned] = torch.nan
    return sums | _spread({name: value for name, value in counts.items() if keeps(stats, name)}, counts, sums, h)


def _scores(sums: HeadSums, raw: Raw, pairs: Tensor) -> HeadSums:
    n = pairs.clamp(min=1)[:, None]
    between = (sums["score_m2_between"] - sums["score_mean"].square() / n).clamp(min=0)
    return {
        "score_m2": sums["score_m2_within"] + between,
        "query_norm": torch.from_numpy(raw.query_norm),
        "key_norm": torch.from_numpy(raw.key_norm),
        "qk_cosine": torch.from_numpy(raw.cosine),
    }


def _masses(sums: HeadSums, received: Tensor, raw: Raw, facts: Prepared) -> HeadSums:
    """Masses on classes are sums of the attention received; those of three offsets are bins of the profile."""
    by_class = received @ torch.from_numpy(facts.classes).transpose(1, 2)  # (b, h, classes + 1)
    out = {f"{name}_mass": by_class[..., n] for n, name in enumerate(facts.class_names)}
    if "same_token_mass_n" not in facts.counts:
        del sums["same_token_mass"], sums["induction_mass"]
    if "cross_sentence_mass_n" in facts.counts:
        out["cross_sentence_mass"] = (by_class[..., -1] - sums["same_sentence"]).clamp(min=0)
    if facts.cross:
        del sums["offset_mean"], sums["distance_mean"]
        return out
    profile = torch.from_numpy(raw.profile)
    middle = profile.shape[2] // 2
    near = {"next_mass": middle - 1, "self_mass": middle, "previous_mass": middle + 1}
    return out | {name: profile[..., one].clone() for name, one in near.items()} | {"profile": profile}


def _gini(received: Tensor, facts: Prepared) -> Tensor:
    """Gini of received / fair share over the keys seen by enough rows, times their number (b, h)."""
    used = torch.from_numpy(facts.real & (facts.key_rows >= RECEIVED_MIN_ROWS))  # (b, k)
    fair = torch.from_numpy(facts.fair).masked_fill(~used, 1.0)
    a = (received / fair[:, None]).masked_fill(~used[:, None], torch.inf)
    a = torch.from_numpy(np.sort(a.numpy(), axis=-1))  # the used ones first; several times faster than torch's sort
    n = used.sum(dim=1)[:, None, None]
    rank = torch.arange(1, a.shape[2] + 1)
    a = torch.where(rank <= n, a, 0.0)
    total = a.sum(dim=-1)
    uneven = ((2 * rank - n - 1) * a).sum(dim=-1)  # (b, h): n² times the mean absolute difference, halved
    return torch.where(total == 0, 0.0, uneven / total)


def _attended(raw: Raw) -> HeadSums:
    """Means of q ⊙ k: Σ p^ q k = Σ p^ q (k - k̄) + k̄ Σ q, and over all pairs."""
    total, k = torch.from_numpy(raw.query_totals[:, :, 0]), torch.from_numpy(raw.centre)
    first = torch.from_numpy(raw.attended[:, :, 0]) + k * total
    return {"qk": torch.from_numpy(np.ascontiguousarray(raw.neurons[:, :, QK])), "qk_attended": first}


def _neurons(sums: HeadSums, raw: Raw, facts: Prepared, scale: float) -> HeadSums:
    named = {name: torch.from_numpy(np.ascontiguousarray(raw.neurons[:, :, n])) for n, name in enumerate(NEURON_SUMS)}
    counts = facts.counts
    pairs = counts["n_pairs"].clamp(min=1)[:, None, None]
    out = {name: named[name] for name in ("qk_min", "qk_max", "qk_positive")}
    out["qk_m2"] = (named["qk_square"] - named["qk"].square() / pairs).clamp(min=0)
    out["share"] = scale**2 * named["share"]
    out["share_n"] = out["share"].sum(dim=-1)
    _, second, cross = torch.from_numpy(raw.attended).unbind(dim=2)  # (b, h, d) each
    square, k = torch.from_numpy(raw.query_totals[:, :, 1]), torch.from_numpy(raw.centre)
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
