"""What single rows do: statistics of every sampled query row, the material of examples and of one's own statistics.

A value is a number per sampled row and head, NaN where the row has none (no visible target, no position, context of
an overlapping window). The built-in ones are the head statistics before they are averaged, so their mean over all
rows of a corpus is the column of ``heads`` with the same name.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from attnengine.errors import PlanError
from attnengine.statistics.own import OWN, PREFIX
from attnengine.statistics.targets import token_targets
from attnengine_kernels import PatternRows, TokenFacts, TopKeys

PAIR = "pair"  # the weight of the row's heaviest key that is neither the first nor a special token
PAIR_KEY, PAIR_TOKEN = "pair_key", "pair_token"  # where that key stands in the window, and which token it is
TOP_KEY = "top_key"  # where the row's heaviest key stands


def row_values(
    part: PatternRows, top: TopKeys, queries: TokenFacts, keys: TokenFacts, *, cross: bool
) -> dict[str, Tensor]:
    """Name -> (n, h) fp32 of some sampled rows whose pattern and heaviest keys are ``part`` and ``top``.

    Statistics of ``heads`` that are means over rows, :data:`PAIR` with its key (fp32 holds indices up to 2^24), and
    whatever :func:`attnengine.statistic` registered. Raises PlanError as :func:`own_values` does.
    """
    found = _values(part, top, queries, keys, cross) | own_values(part, queries, keys)
    counted = queries.counted[part.window, part.position] & part.visible.any(-1)
    return {name: value.float().masked_fill(~counted[:, None], torch.nan) for name, value in found.items()}


def own_values(part: PatternRows, queries: TokenFacts, keys: TokenFacts) -> dict[str, Tensor]:
    """The values of registered statistics; PlanError if one does not return (n, h) numbers."""
    out = {}
    for name, one in OWN.items():
        value = one.of_rows(part, queries, keys)
        expected = tuple(part.p.shape[:2])
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if got != expected:
            raise PlanError(f"statistic {name}: expected a tensor (rows, heads) = {expected}, got {got}")
        out[name] = value
    return out


def own_sums(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Additive sums of the registered statistics among row values: ``own_<name>`` (n, h) and its number of rows."""
    out: dict[str, Tensor] = {}
    for name in OWN.keys() & values.keys():
        value = values[name].double()
        out |= {f"{PREFIX}{name}": value.nan_to_num(nan=0.0), f"{PREFIX}{name}_n": (~value.isnan()).double()}
    return out


def _values(part: PatternRows, top: TopKeys, queries: TokenFacts, keys: TokenFacts, cross: bool) -> dict[str, Tensor]:
    p, visible, entropy = part.p, part.visible, top.entropy
    total = p.sum(-1)  # (n, h): below 1 with a learned sink
    seen = visible.sum(-1)[:, None]  # (n, 1)
    out = {
        "entropy": entropy,
        "entropy_normalized": (entropy / seen.clamp(min=2).log()).masked_fill(seen < 2, torch.nan),
        "p_max": top.weights[..., 0] / total,
        TOP_KEY: top.keys[..., 0],
    }
    classes = {name: visible & (flags & keys.real)[part.window] for name, flags in keys.classes.items()}
    out |= {f"{name}_mass": _mass(p, target) for name, target in classes.items()}
    out |= _pair(part, keys, p)
    return out if cross else out | _by_place(part, queries, keys)


def _by_place(part: PatternRows, queries: TokenFacts, keys: TokenFacts) -> dict[str, Tensor]:
    """What asks for positions, which cross-attention does not have."""
    i, j = queries.position[part.window, part.position][:, None], keys.position[part.window]  # (n, 1), (n, k)
    placed, offset = part.visible & (i >= 0) & (j >= 0), i - j
    near = {"self": placed & (offset == 0), "previous": placed & (offset == 1), "next": placed & (offset == -1)}
    targets = near | token_targets(part, queries, keys, part.visible, near["self"], near["next"])
    out = {f"{name}_mass": _mass(part.p, target) for name, target in targets.items()}
    distance = offset.abs().to(part.p.dtype)
    if queries.patch is not None and keys.patch is not None:
        step = queries.patch[part.window, part.position][:, None] - keys.patch[part.window]  # (n, k, 2)
        distance = step.to(part.p.dtype).square().sum(-1).sqrt()
    p = part.p * placed[:, None]
    share = p / p.sum(-1, keepdim=True)  # NaN where no key has a position
    out["offset_mean"] = (share @ offset.to(p.dtype)[..., None])[..., 0]
    out["distance_mean"] = (share @ distance[..., None])[..., 0]
    return out


def _mass(p: Tensor, target: Tensor) -> Tensor:
    """Σ p over the row's targets (n, h), NaN for rows that see none; ``target`` (n, k)."""
    mass = (p @ target.to(p.dtype)[..., None])[..., 0]
    return mass.masked_fill(~target.any(-1)[:, None], torch.nan)


def _pair(part: PatternRows, keys: TokenFacts, p: Tensor) -> dict[str, Tensor]:
    outside = keys.real.clone()
    for name in ("first", "special"):
        if name in keys.classes:
            outside &= ~keys.classes[name]
    outside = part.visible & outside[part.window]  # (n, k)
    masked = p.masked_fill(~outside[:, None], -1.0)
    weight, key = masked.max(-1)
    none = weight < 0
    token = torch.full_like(key, -1)
    if keys.token_id is not None:
        token = keys.token_id[part.window[:, None], key]
    found = {PAIR: weight, PAIR_KEY: key, PAIR_TOKEN: token}
    return {name: value.to(p.dtype).masked_fill(none, torch.nan) for name, value in found.items()}


def is_example(name: str) -> bool:
    """Whether a row value is a statistic that examples are drawn for."""
    return name not in (PAIR, PAIR_KEY, PAIR_TOKEN, TOP_KEY)
