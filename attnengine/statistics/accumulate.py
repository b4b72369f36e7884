"""Adding kernel sums over windows into document groups, in fp64, so that they can be merged and stored.

Four kinds of numbers, and nothing else:

    grouped    (groups, ...)  added per document group: values *and* their clustered errors come from these
    pooled     (...)          added over all windows: mean patterns, which carry no error
    extreme    (...)          minimum or maximum over all windows
    tokens     (tokens, ...)  added per vocabulary entry: attention received, see :mod:`.key_tokens`

Second moments arrive about each window's own mean and leave about a fixed pilot c of their site and head:
Σ(x − c)² = M2 + n (mean − c)². The pilot makes them additive without losing the digits that a raw Σx² would.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attnengine.statistics.adding import add_at
from attnengine.statistics.key_tokens import KeyTokens
from attnengine_kernels.sums import PER_KEY

Sums = dict[str, Tensor]

POOLED = ("pattern", "pattern_n")
MINIMA = ("score_min", "qk_min")
MAXIMA = ("score_max", "qk_max", "mass_defect_max")
#: second moment -> (first moment, number, pilot): how a window's centred moment becomes additive.
MOMENTS = {
    "score_m2": ("score_mean", "score_mean_n", "score"),
    "qk_m2": ("qk", "n_pairs", "qk"),
    "qk_attended_m2": ("qk_attended", "n_queries", "qk"),
    "distance_qk_m2": ("distance_qk", "distance_pairs", "qk"),
    "distance_m2": ("distance_sum", "distance_pairs", "distance"),
}
#: The sums that a pilot is made from; only "all" runs have them all, and only self-attention has distances.
PILOT_SUMS = ("n_pairs", "score_mean", "score_mean_n", "qk", "distance_sum", "distance_pairs")


@dataclass(frozen=True)
class Pilot:
    """The fixed centres of a site: near the means, so that centred second moments keep their digits."""

    score: Tensor  # (h,) fp64
    qk: Tensor  # (h, d) fp64
    distance: Tensor  # () fp64

    def to(self, device: torch.device | str) -> Pilot:
        """The same on a device."""
        return Pilot(self.score.to(device), self.qk.to(device), self.distance.to(device))

    @classmethod
    def zero(cls, n_heads: int, d_qk: int) -> Pilot:
        """The pilot of a site without second moments."""
        return cls(*(torch.zeros(shape, dtype=torch.float64) for shape in ((n_heads,), (n_heads, d_qk), ())))

    @classmethod
    def of(cls, sums: Mapping[str, Tensor]) -> Pilot:
        """The means over one batch of kernel sums; 0 where it has no pair or is not finite."""
        pairs = sums["n_pairs"].sum().clamp(min=1)
        score = sums["score_mean"].sum(0) / sums["score_mean_n"].sum(0).clamp(min=1)
        distance = torch.zeros((), dtype=torch.float64)
        if "distance_sum" in sums:
            distance = sums["distance_sum"].sum() / sums["distance_pairs"].sum().clamp(min=1)
        qk = sums["qk"].sum(0) / pairs
        return cls(*(torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0) for x in (score, qk, distance)))


def shifted(sums: Mapping[str, Tensor], pilot: Pilot) -> Sums:
    """The window sums with every second moment about the pilot instead of the window's own mean."""
    out = dict(sums)
    for name, (first, number, centre) in MOMENTS.items():
        if name in sums:
            n, c = _like(sums[number], sums[name]), getattr(pilot, centre)
            mean = sums[first] / n.clamp(min=1)
            out[name] = sums[name] + n * (mean - c) ** 2
    if "distance_qk_co" in sums:
        n = _like(sums["distance_pairs"], sums["distance_qk_co"])
        x = sums["distance_qk"] / n.clamp(min=1)
        d = _like(sums["distance_sum"], x) / n.clamp(min=1)
        out["distance_qk_co"] = sums["distance_qk_co"] + n * (x - pilot.qk) * (d - pilot.distance)
    return out


def _like(count: Tensor, other: Tensor) -> Tensor:
    """``count`` with trailing axes of length 1, to broadcast against ``other``."""
    return count.reshape(count.shape + (1,) * (other.dim() - count.dim()))


@dataclass
class SiteSums:
    """Everything added up for one site so far."""

    pilot: Pilot
    grouped: Sums = field(default_factory=dict)
    pooled: Sums = field(default_factory=dict)
    extremes: Sums = field(default_factory=dict)
    tokens: KeyTokens = field(default_factory=KeyTokens)

    def add(self, sums: Mapping[str, Tensor], group: Tensor, n_groups: int) -> None:
        """Add one batch: ``sums`` (windows, ...) from the kernels, ``group`` (windows,) int64 on the same device.

        Sums stay on that device, and nothing waits for it. What the kernels give per key is left to ``tokens.add``,
        which knows what the keys are.
        """
        self.pilot = self.pilot.to(group.device)
        for name, value in shifted(sums, self.pilot).items():
            if name in PER_KEY:
                continue
            if name in POOLED:
                self._merge(self.pooled, name, value.sum(0), torch.add)
            elif name in MINIMA:
                self._merge(self.extremes, name, value.amin(0), torch.minimum)
            elif name in MAXIMA:
                self._merge(self.extremes, name, value.amax(0), torch.maximum)
            else:
                if name not in self.grouped:
                    self.grouped[name] = value.new_zeros((n_groups, *value.shape[1:]), dtype=torch.float64)
                add_at(self.grouped[name], group, value)

    def on_host(self) -> SiteSums:
        """The same in the host's memory, for the disk; this waits for the device."""
        grouped, pooled, extremes = (
            {name: value.cpu() for name, value in sums.items()} for sums in (self.grouped, self.pooled, self.extremes)
        )
        return SiteSums(self.pilot.to("cpu"), grouped, pooled, extremes, self.tokens.on_host())

    def merge(self, other: SiteSums) -> None:
        """Add what another shard has of the same site, under the same plan (so the same groups and pilot)."""
        for name, value in other.grouped.items():
            self._merge(self.grouped, name, value, torch.add)
        for name, value in other.pooled.items():
            self._merge(self.pooled, name, value, torch.add)
        for name, value in other.extremes.items():
            self._merge(self.extremes, name, value, torch.minimum if name in MINIMA else torch.maximum)
        self.tokens.merge(other.tokens)

    @staticmethod
    def _merge(store: Sums, name: str, value: Tensor, how) -> None:  # type: ignore[no-untyped-def]
        store[name] = how(store[name], value) if name in store else value.clone()

    def tensors(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) pairs for the disk: ``<prefix>.<kind>.<statistic>``."""
        for kind in ("grouped", "pooled", "extremes"):
            for name, value in getattr(self, kind).items():
                yield f"{prefix}.{kind}.{name}", value
        yield from self.tokens.tensors(f"{prefix}.tokens").items()
