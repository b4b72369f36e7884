"""Drawn calls, and every pass by name with all of its outputs, for the tests of what must hold of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu.band import band_pass
from attnengine_kernels.gpu.columns import column_pass
from attnengine_kernels.gpu.distances import distance_pass
from attnengine_kernels.gpu.fused import fused_attention
from attnengine_kernels.gpu.histograms import joint_histograms, score_histograms
from attnengine_kernels.gpu.pairs import cosine_sums
from attnengine_kernels.gpu.places import places_pass
from attnengine_kernels.gpu.product import product_pass
from attnengine_kernels.gpu.rows import row_pass
from attnengine_kernels.gpu.scans import scan_pass
from attnengine_kernels.gpu.share import share_pass
from attnengine_kernels.gpu.top_keys import top_keys
from tests.kernels.calls import DEVICE, make_call

MASKS = ("full", "causal", "window", "wide window", "right padding", "left padding", "packed", "one key")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
DIMS, JOINT_DIMS = 16, 2  # of passes whose dims never meet, and in which every dim costs time


def with_values(call: AttentionCall, dv: int) -> AttentionCall:
    """The call with random values of width ``dv``."""
    b, hkv, n_keys, _ = call.key.shape
    v = torch.randn(b, n_keys, hkv, dv, generator=torch.Generator().manual_seed(11)).to(DEVICE, call.key.dtype)
    return replace(call, value=v.transpose(1, 2))


@st.composite
def calls(
    draw: st.DrawFn, *, most: int = 70, plain: bool = False, masks: tuple[str, ...] = MASKS, batch: int = 1,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
) -> AttentionCall:  # fmt: skip
    """A small call; ``plain`` ones have nothing but scaled dot products in their scores."""
    mask = draw(st.sampled_from(masks))
    n_query = draw(st.integers(10 if "padding" in mask else 1, most))
    square = mask in ("packed", "right padding", "left padding", "one key")
    n_key = n_query if square else draw(st.one_of(st.just(n_query), st.integers(1, most)))
    h, hkv = draw(st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 2)]))
    call = make_call(
        mask, n_query, n_key, batch=batch, h=h, hkv=hkv, d=draw(st.sampled_from([16, 24, 32, 72])),
        dtype=draw(st.sampled_from(dtypes)), seed=draw(st.integers(0, 9)), bias=not plain and draw(st.booleans()),
        sink=not plain and draw(st.booleans()), softcap=None if plain else draw(st.sampled_from([None, 2.0, 30.0])),
    )  # fmt: skip
    return with_values(call, draw(st.sampled_from([16, 40])))


def features_of(call: AttentionCall) -> Tensor:
    """(b, k, 3): ones, every third key, a digit of the position."""
    j = torch.arange(call.key.shape[2], device=DEVICE)
    return torch.stack([torch.ones_like(j), j % 3 == 0, j % 16], dim=1).float().expand(call.key.shape[0], -1, -1)


def last_dims(call: AttentionCall, n: int) -> AttentionCall:
    """The call with the last ``n`` dims of its queries and keys alone."""
    return replace(call, query=call.query[..., -n:], key=call.key[..., -n:])


def chosen_rows(call: AttentionCall, most: int = 6) -> Tensor:
    """(b m, 2) windows and queries: in every window the first, the last and some between."""
    b, n = call.lo.shape
    m = min(n, most)
    return torch.cartesian_prod(torch.arange(b), torch.arange(m) * (n - 1) // max(m - 1, 1)).to(DEVICE)


def by_window(call: AttentionCall, x: Tensor) -> Tensor:
    """What :func:`chosen_rows` gave, (b m, …), as (b, m, …)."""
    return x.unflatten(0, (call.lo.shape[0], -1))


def _flat(result: Any) -> dict[str, Tensor]:
    named = result if isinstance(result, dict) else asdict(result)
    return {name: value for name, value in named.items() if value is not None}


def _chosen(call: AttentionCall, result: Any) -> dict[str, Tensor]:
    return {name: by_window(call, value) for name, value in _flat(result).items()}


def _histograms(call: AttentionCall) -> dict[str, Tensor]:
    joint = joint_histograms(last_dims(replace(call, bias=None), JOINT_DIMS))
    scores, log_p = score_histograms(call), score_histograms(call, log_p=True)
    return {"joint": joint.counts, "joint_nan": joint.not_numbers, "scores": scores.counts, "log_p": log_p.counts,
            "scores_nan": scores.not_numbers, "log_p_nan": log_p.not_numbers}  # fmt: skip


#: Every pass with all of its outputs, by name; the first axis of each output is the window.
PASSES: dict[str, Callable[[AttentionCall], dict[str, Tensor]]] = {
    "rows": lambda call: _flat(row_pass(call, features_of(call), want_ak2=True)),
    "fused": lambda call: _flat(fused_attention(call, features_of(call))),
    "columns": lambda call: _flat(column_pass(call, want_aq=True)),
    "band": lambda call: _flat(band_pass(call)),
    "places": lambda call: _flat(places_pass(call)),
    "scans": lambda call: _flat(scan_pass(replace(call, bias=None))),
    "share": lambda call: _flat(share_pass(replace(call, bias=None))),
    "distances": lambda call: _flat(distance_pass(replace(call, bias=None))),
    "histograms": _histograms,
    "product": lambda call: _chosen(call, product_pass(call, chosen_rows(call))),
    "top_keys": lambda call: _chosen(call, top_keys(call, chosen_rows(call, 3), top=2)),
    "cosine": lambda call: {"qk_cosine": cosine_sums(last_dims(replace(call, bias=None), DIMS))},
}
