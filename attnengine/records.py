"""Frozen records that the rooms of the engine hand to each other. No torch, no transformers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """An attention call of the model, in the order of first call in the dry forward (STATISTICS.md, "Keys").

    ``module`` is the qualified name of the calling module, ``ordinal`` counts the calls of that module within one
    forward (ALBERT calls one module once a layer), ``stack`` is "encoder", "decoder" or "" for models with one
    stack, ``kind`` "self" or "cross", ``layer`` the rank within its stack and kind.
    """

    site: int
    module: str
    ordinal: int
    stack: str
    kind: str
    layer: int
    n_heads: int
    n_kv_heads: int
    d_qk: int
    d_v: int
    scale: float
    window: int | None
    softcap: float | None
    has_sink: bool
    has_bias: bool

    @property
    def name(self) -> str:
        """What a person calls it: ``L5``, ``decoder L0 cross``."""
        words = [self.stack, f"L{self.layer}", "cross" if self.kind == "cross" else ""]
        return " ".join(word for word in words if word)


def head_name(site: Site, head: int) -> str:
    """``L5H3``; the stack and "cross" are said where a model has them."""
    return f"{site.name}H{head}" if site.kind == "self" else f"{site.name} H{head}"
