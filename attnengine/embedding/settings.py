"""What a user may choose about an embedding; it is hashed, and a head made with other settings is not mixed in."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

METHODS = ("umap", "umap-learn", "t-sne", "pca")
#: Names of gauge.GAUGES, said here because that module is loaded only where heads are embedded.
GAUGE_NAMES = ("attentionviz", "norm-matched", "correlated", "balanced", "attentionviz-uncentred")
#: Points up to which neighbours are searched exactly; beyond it pynndescent (Dong et al. 2011) is faster, its
#: compilation included.
EXACT_LIMIT = 20_000
#: Raised whenever the same settings would give other numbers.
RECIPE = 1


@dataclass(frozen=True)
class EmbedSettings:
    """Settings that change numbers. ``like`` is the hash of the embedding that a warm start begins from."""

    method: str = "umap"  # umap: ours; umap-learn, t-sne, pca: other people's
    gauge: str = "auto"  # auto: the most faithful that joins queries and keys
    dims: int = 2
    neighbours: int = 15  # counting the point itself
    search: str = "auto"  # of neighbours: exact, or by search graph above 20,000 points; "exact": always
    epochs: int = 200
    min_dist: float = 0.1
    seed: int = 0
    clusters: bool = True
    like: str | None = None

    def __post_init__(self) -> None:
        choices = (
            ("method", METHODS), ("gauge", ("auto", *GAUGE_NAMES)), ("dims", (2, 3)), ("search", ("auto", "exact")),
        )  # fmt: skip
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                listed = ", ".join(map(str, allowed))
                raise ValueError(f"{name} must be one of {listed}; got {getattr(self, name)!r}")
        for name, least, most in (("neighbours", 3, 200), ("epochs", 10, 10_000)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be {least} to {most}, got {getattr(self, name)}")
        if not 0 <= self.min_dist < 3:
            raise ValueError(f"min_dist must be at least 0 and below 3, got {self.min_dist}")
        if self.like is not None and self.method != "umap":
            raise ValueError(f"a warm start needs method umap, got {self.method!r}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the disk."""
        return asdict(self)

    def digest(self, run_hash: str) -> str:
        """Hash of the settings and of the run whose vectors they are applied to."""
        text = json.dumps([RECIPE, run_hash, self.as_dict()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def head_seed(seed: int, site: int, head: int) -> int:
    """32 bits of splitmix64(seed, site, head): a head's picture does not depend on which others are made."""
    state = seed & (2**64 - 1)
    for part in (site, head):
        state = _splitmix64(state ^ _splitmix64(part))
    return state >> 32


def _splitmix64(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & (2**64 - 1)
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return x ^ (x >> 31)
