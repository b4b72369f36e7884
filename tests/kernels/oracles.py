"""Token facts to test with, and how far a path may be from the fp64 reference: the limits that always bind."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from attnengine_kernels.call import AttentionCall, HeadSums, TokenFacts
from attnengine_kernels.sums import LIMIT_ENTROPY, LIMIT_MASS

FIRST_MOMENT = {
    "score_m2": ("score_mean", "n_pairs"),
    "qk_m2": ("qk", "n_pairs"),
    "distance_qk_m2": ("distance_qk", "distance_pairs"),
    "qk_attended_m2": ("qk_attended", "n_queries"),
}


def make_facts(
    batch: int, length: int, *, left: int = 0, right: int = 0, images: bool = False, seed: int = 0
) -> TokenFacts:
    """Facts of windows whose first one is padded, with few token ids so that tokens repeat; or of square images."""
    make = torch.Generator().manual_seed(seed)
    real = torch.ones(batch, length, dtype=torch.bool)
    real[0, :left] = False
    real[0, length - right :] = False
    counted = real & (torch.rand(batch, length, generator=make) < 0.9)
    prefix = 2 if images else 0  # tokens before the patches: real, but without a place
    position = torch.where(real, real.cumsum(1) - 1 - prefix, -1).clamp(min=-1).int()
    flags = torch.rand(2, batch, length, generator=make) < torch.tensor([0.1, 0.3])[:, None, None]
    classes = {"first": real & (real.cumsum(1) == 1), "special": flags[0] & real, "punctuation": flags[1] & real}
    if images:
        side = max(int(length**0.5), 1)
        patch = torch.stack([position // side, position % side], dim=-1).masked_fill((position < 0)[..., None], -1)
        return TokenFacts(real, counted, position, classes, patch=patch.int())
    token_id = torch.randint(0, 7, (batch, length), generator=make)
    sentence = (torch.rand(batch, length, generator=make) < 0.2).cumsum(1).int().masked_fill(classes["special"], -1)
    return TokenFacts(real, counted, position, classes, token_id, sentence)


def random_call(
    lo: Tensor, hi: Tensor, n_key: int, *, h: int = 2, hkv: int = 1, d: int = 16, dv: int = 8, seed: int = 0,
    dtype: torch.dtype = torch.float32, softcap: float | None = None, sink: bool = False, bias: str = "none",
) -> AttentionCall:  # fmt: skip
    """A seeded call in the layout of transformers, keys about a mean of 0.5; ``bias`` is none, finite or hiding."""
    make = torch.Generator().manual_seed(seed)
    b, n_query = lo.shape
    q = torch.randn(b, n_query, h, d, generator=make).to(dtype).transpose(1, 2)
    k = (torch.randn(b, n_key, hkv, d, generator=make) + 0.5).to(dtype).transpose(1, 2)
    v = torch.randn(b, n_key, hkv, dv, generator=make).to(dtype).transpose(1, 2)
    added = torch.randn(1, h, n_query, n_key, generator=make) if bias != "none" else None
    if bias == "hiding" and added is not None:
        hidden = torch.rand(1, 1, n_query, n_key, generator=make) < 0.3
        added = added.masked_fill(hidden.expand_as(added), -torch.inf)
    learned = torch.randn(h, generator=make) if sink else None
    return AttentionCall(q, k, v, lo, hi, d**-0.5, softcap=softcap, sink=learned, bias=added)


def poisoned(call: AttentionCall, queries: TokenFacts, keys: TokenFacts) -> AttentionCall:
    """NaN in every padded query, key and value; the mask must hide padded keys."""
    return replace(
        call,
        query=call.query.masked_fill(~queries.real[:, None, :, None], torch.nan),
        key=call.key.masked_fill(~keys.real[:, None, :, None], torch.nan),
        value=call.value.masked_fill(~keys.real[:, None, :, None], torch.nan),
    )


def agree(got: HeadSums, want: HeadSums, *, but: tuple[str, ...] = ()) -> None:
    """Assert the same names and shapes, equal counts, and every sum within its limit, ``but`` some."""
    assert set(got) == set(want)
    for name in sorted(set(want) - set(but)):
        expected, value = want[name], got[name].cpu()
        assert value.shape == expected.shape, name
        assert value.dtype == torch.float64, name
        if name.endswith("_n") and name != "value_weighted_first_mass_n" and name != "share_n":
            assert torch.equal(value, expected), name
            continue
        limit = _limit(name, expected, want).reshape(-1, *[1] * (expected.ndim - 1))  # (b, 1, …)
        off = torch.where(value == expected, 0.0, (value - expected).abs())  # infinities that are equal
        assert bool((off <= limit).all()), f"{name} is off by {float((off - limit).max()):.2e} more than its limit"


def _limit(name: str, expected: Tensor, want: HeadSums) -> Tensor:
    """What each window's numbers may be off by (b,): limits a row times rows, else relative to the largest number."""
    rows = want["n_queries"].clamp(min=1)
    size = expected.abs().nan_to_num(posinf=0.0).flatten(1).amax(1) if expected.ndim > 1 else expected.abs()
    if name in ("entropy", "entropy_normalized"):
        return LIMIT_ENTROPY * rows
    if name.endswith("_mass") or name in ("p_max", "profile", "pattern", "mass_defect_mean", "mass_defect_max"):
        return LIMIT_MASS * rows
    if name in ("offset_mean", "distance_mean"):
        return LIMIT_MASS * rows * (1 + size / rows)
    if name == "received_gini":
        return 1e-4 * want["received_gini_n"].amax(1)
    if name == "qk_cosine":
        return 1e-6 * want["n_pairs"]
    if name in FIRST_MOMENT:  # about the mean, from sums of squares: the digits of those are what counts
        first, number = FIRST_MOMENT[name]
        return 1e-4 * size + 1e-6 * (want[first].square().flatten(1).amax(1) / want[number].clamp(min=1))
    return (1e-4 if name.startswith(("share", "distance_qk_co")) else 1e-5) * size + 1e-9
