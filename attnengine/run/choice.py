"""Which heads a run looks at: ``--layers 0,2-4`` and ``--heads L5H1,L0H3``, all by default.

Statistics are computed for the chosen heads alone, which saves their time. What is kept is keyed by the model's own
head numbers, so tables of a part fit beside tables of the whole; the sampled arrays keep every head of a chosen site,
because they are indexed by it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from attnengine.errors import PlanError
from attnengine.records import Site
from attnengine_kernels import AttentionCall

Chosen = tuple[tuple[int, ...], ...]  # the chosen heads of each site, ascending; () for a site that is left out
_HEAD = re.compile(r"[Ll]?(\d+)(?:[Hh]|\.)(\d+)")
_LAYERS = re.compile(r"(\d+)(?:-(\d+))?")


def choose(sites: Sequence[Site], layers: str | None, heads: str | None) -> Chosen:
    """The heads in ``layers`` and those named in ``heads``; every head if neither is given.

    A layer is its number in its stack, so in encoder–decoder models it names a site of each stack and kind. Raises
    ValueError for text that is no list, PlanError for a layer or head that the model does not have.
    """
    if layers is None and heads is None:
        return tuple(tuple(range(site.n_heads)) for site in sites)
    whole = _layers(layers) if layers is not None else set()
    named = _heads(heads) if heads is not None else set()
    last = max(site.layer for site in sites)
    if beyond := [layer for layer in whole | {layer for layer, _ in named} if layer > last]:
        raise PlanError(f"the model has no layer {min(beyond)}; its layers are 0 to {last}")
    for layer, head in sorted(named):
        here = [site.n_heads for site in sites if site.layer == layer]
        if head >= max(here, default=0):
            raise PlanError(f"the model has no head L{layer}H{head}; layer {layer} has {max(here, default=0)} heads")
    return tuple(
        tuple(head for head in range(site.n_heads) if site.layer in whole or (site.layer, head) in named)
        for site in sites
    )


def _layers(text: str) -> set[int]:
    found: set[int] = set()
    for word in text.split(","):
        match = _LAYERS.fullmatch(word.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"--layers must be numbers and ranges such as 0,2-4; got {text!r}")
        found |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return found


def _heads(text: str) -> set[tuple[int, int]]:
    matches = [_HEAD.fullmatch(word.strip()) for word in text.split(",")]
    if not all(matches):
        raise ValueError(f"--heads must be names such as L5H1,L0H3 (or 5.1,0.3); got {text!r}")
    return {(int(match[1]), int(match[2])) for match in matches if match}


def restricted(call: AttentionCall, heads: Sequence[int]) -> AttentionCall:
    """The attention call of the chosen heads alone; the call itself where they are all."""
    h, hkv = call.query.shape[1], call.key.shape[1]
    if len(heads) == h:
        return call
    index = torch.tensor(heads, device=call.query.device)
    group = h // hkv
    key_heads = sorted({head // group for head in heads})
    whole = list(heads) == [head for k in key_heads for head in range(k * group, (k + 1) * group)]
    of_key = torch.tensor(key_heads if whole else [head // group for head in heads], device=call.query.device)
    return replace(
        call,
        query=call.query.index_select(1, index),
        key=call.key.index_select(1, of_key),
        value=call.value.index_select(1, of_key),
        sink=None if call.sink is None else call.sink.index_select(0, index),
        bias=call.bias if call.bias is None or call.bias.shape[1] == 1 else call.bias.index_select(1, index),
        lse=None if call.lse is None else call.lse.index_select(1, index),
    )


def narrowed(sites: Sequence[Site], chosen: Chosen) -> list[Site]:
    """The sites that have chosen heads, each with only those: what tables are made from, to be renumbered after."""
    return [replace(site, n_heads=len(heads)) for site, heads in zip(sites, chosen, strict=True) if heads]


def renumbered(table: pd.DataFrame, chosen: Chosen) -> pd.DataFrame:
    """``table`` with the model's head numbers in place of places among the chosen heads."""
    if "head" not in table or not len(table):
        return table
    width = max(len(heads) for heads in chosen)
    numbers = np.array([[*heads, *[-1] * (width - len(heads))] for heads in chosen], dtype=np.int32)
    return table.assign(head=numbers[table["site"].to_numpy(), table["head"].to_numpy()])


def spread(patterns: np.ndarray, sites: Sequence[Site], chosen: Chosen) -> np.ndarray:
    """(sites, heads, ...) with each chosen head in its place, NaN elsewhere; from rows of :func:`narrowed` sites."""
    out = np.full((len(sites), max(site.n_heads for site in sites), *patterns.shape[2:]), np.nan, patterns.dtype)
    for row, site in enumerate(site.site for site, heads in zip(sites, chosen, strict=True) if heads):
        out[site, list(chosen[site])] = patterns[row, : len(chosen[site])]
    return out
