"""What a user may choose about a run; everything here is written to the manifest and hashed into the plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from attnengine.corpus.token_classes import check_classes
from attnengine_kernels.sums import STATS


@dataclass(frozen=True)
class RunSettings:
    """Settings that change numbers or what is kept."""

    stats: str = "all"  # all | core: entropy, masses, distance and neuron means, without profiles and patterns
    window: int | None = None  # tokens a window, special ones included; None: min(model positions, 1024)
    stride: int | None = None  # content tokens from one window to the next; None: no overlap
    bos: str = "auto"  # auto | always | never
    batch_tokens: int | None = None  # padded tokens a batch; None: 4096, on CUDA what its free memory holds
    shard_tokens: int = 32768  # real tokens a shard on average: what a kill can lose
    sample: int = 5000  # tokens whose q, k, v are kept
    sample_by: str | None = None  # as many tokens again, of segments that hold this class; no estimate is made of them
    seed: int = 0
    max_tokens: int | None = None  # stop adding windows once this many tokens are in
    threads: int | None = None  # of torch's CPU operations, whose last bits depend on it; None: as torch has it
    keep_text: bool = True  # store the text of sampled tokens, not offsets only
    layers: str | None = None  # "0,2-4": only the heads of these layers, and those in ``heads``
    heads: str | None = None  # "L5H1,L0H3": only these heads, and those in ``layers``; neither: all
    token_class: dict[str, str] = field(default_factory=dict)  # name -> expression: a mass column of your own

    def __post_init__(self) -> None:
        if self.stats not in STATS:
            raise ValueError(f"stats must be {' or '.join(STATS)}, got {self.stats!r}")
        for name in ("window", "stride", "batch_tokens", "shard_tokens", "max_tokens", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.sample < 0:
            raise ValueError(f"sample must be 0 or more tokens, got {self.sample}")
        if self.sample_by is not None and not self.sample:
            raise ValueError("sample_by adds to a sample: it needs a sample above 0")
        check_classes(self.token_class)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the manifest."""
        return asdict(self)
