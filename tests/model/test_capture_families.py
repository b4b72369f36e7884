"""The capture oracle: 31 families, padded on either side, against the models' own eager attention and stock SDPA."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch

from attnengine.model.capture import Capture, find_sites, inexact_reason
from attnengine.records import Site
from attnengine_kernels.call import AttentionCall
from tests.model.families import FAMILIES, batch, build

SIDES = {"text": ["right", "left"], "pair": ["right", "left"], "mel": ["right", "left"]}
CASES = [(name, side) for name, family in FAMILIES.items() for side in SIDES.get(family.inputs, ["right"])]
EAGER_LISTS = {
    ("", "self"): "attentions",
    ("encoder", "self"): "encoder_attentions",
    ("decoder", "self"): "decoder_attentions",
    ("decoder", "cross"): "cross_attentions",
}


@dataclass(frozen=True)
class Trial:
    """One family captured, and run by transformers alone in its two own ways."""

    sites: list[Site]
    calls: list[AttentionCall]
    captured: Any
    sdpa: Any  # None where transformers does not run the family with SDPA
    eager: Any
    inputs: dict[str, torch.Tensor]
    reason: str | None


@cache
def trial(name: str, side: str) -> Trial:
    model, inputs = build(name), batch(name, side)
    sites = find_sites(model, inputs)
    calls: list[AttentionCall] = []
    with Capture(model, sites) as capture:
        captured = capture.forward(inputs, lambda _site, call: calls.append(call))
    return Trial(
        sites=sites,
        calls=calls,
        captured=captured,
        sdpa=by_transformers(name, inputs, "sdpa") if FAMILIES[name].sdpa else None,
        eager=by_transformers(name, inputs, "eager", output_attentions=True),
        inputs=inputs,
        reason=inexact_reason(model),
    )


def by_transformers(name: str, inputs: dict[str, torch.Tensor], implementation: str, **more: Any) -> Any:
    """The outputs of a second, untouched copy of the model, without any of our code."""
    model = build(name)
    model.set_attn_implementation(implementation)
    for part in model.modules():
        if getattr(getattr(part, "config", None), "use_cache", False):
            part.config.use_cache = False
    with torch.inference_mode():
        return model(**inputs, **more)


def real_rows(found: Trial, site: Site, call: AttentionCall) -> torch.Tensor:
    """(b, q): real queries that see a key. Padded rows that see keys differ between eager and SDPA by their inputs."""
    sees = call.hi > call.lo
    mask = found.inputs.get("decoder_attention_mask" if site.stack == "decoder" else "attention_mask")
    return sees & mask.bool() if mask is not None and mask.shape == sees.shape else sees


def softmax_by_definition(call: AttentionCall) -> tuple[torch.Tensor, torch.Tensor]:
    """Pattern (b, h, q, k) and lse (b, h, q) of a call in fp64, one key at a time as AttentionCall defines them."""
    batch_size, heads, rows, _ = call.query.shape
    per_key_head = heads // call.key.shape[1]
    score = torch.full((batch_size, heads, rows, call.key.shape[2]), float("-inf"), dtype=torch.float64)
    for head in range(heads):
        product = call.query[:, head].double() @ call.key[:, head // per_key_head].double().mT * call.scale
        score[:, head] = product if call.softcap is None else (product / call.softcap).tanh() * call.softcap
    if call.bias is not None:
        score += call.bias
    keys = torch.arange(score.shape[-1])
    hidden = (keys < call.lo[..., None]) | (keys >= call.hi[..., None])
    score = score.masked_fill(hidden[:, None], float("-inf"))
    lse = score.logsumexp(-1)
    if call.sink is not None:
        lse = torch.logaddexp(lse, call.sink.double()[None, :, None])
    return torch.exp(score - lse.nan_to_num(neginf=0)[..., None]), lse


@pytest.mark.parametrize(("name", "side"), CASES)
def test_pattern_from_captured_queries_and_keys_is_the_eager_pattern(name: str, side: str) -> None:
    found = trial(name, side)
    assert len(found.calls) == len(found.sites) == FAMILIES[name].calls
    sharpest = 0.0
    for site, call in zip(found.sites, found.calls, strict=True):
        eager = found.eager[EAGER_LISTS[site.stack, site.kind]]
        if name == "t5" and not eager:
            pytest.skip("this transformers release records no T5 attentions (5.17)")
        theirs = eager[site.layer]
        ours, _ = softmax_by_definition(call)
        rows = real_rows(found, site, call)[:, None, :, None].expand(ours.shape)
        assert bool(rows.any())
        assert float((ours - theirs)[rows].abs().max()) <= 1e-6
        sharpest = max(sharpest, float((theirs - 1 / theirs.shape[-1])[rows].abs().max()))
    assert sharpest > 0.1, "a uniform pattern would agree with any mask and scale"


@pytest.mark.parametrize(("name", "side"), CASES)
def test_output_is_bit_identical_to_stock_sdpa_or_close_to_fp32_eager(name: str, side: str) -> None:
    found = trial(name, side)
    ours = found.captured.last_hidden_state
    if FAMILIES[name].sdpa:
        assert found.reason is None
        assert torch.equal(ours, found.sdpa.last_hidden_state)
        return
    assert found.reason is not None
    assert name in found.reason
    theirs = found.eager.last_hidden_state
    rows = found.inputs["attention_mask"].bool()
    assert float((ours - theirs)[rows].abs().max() / theirs[rows].abs().max()) <= 1e-5


@pytest.mark.parametrize(("name", "side"), CASES)
def test_lse_is_the_natural_log_of_the_sum_over_visible_keys_and_sink(name: str, side: str) -> None:
    found = trial(name, side)
    given = [call.lse is not None for call in found.calls]
    assert all(given) or name == "deepseek_v3"  # MLA: torch's CPU flash kernel wants d_qk = d_v
    for call in found.calls:
        if call.lse is not None:
            sees = (call.hi > call.lo)[:, None].expand(call.lse.shape)
            _, lse = softmax_by_definition(call)
            assert call.lse.dtype == torch.float32
            assert torch.allclose(call.lse[sees].double(), lse[sees], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "llama", "mistral", "t5"])
def test_layers_with_the_same_mask_share_the_very_same_intervals(name: str) -> None:
    found = trial(name, "right")
    first: dict[tuple[str, str], AttentionCall] = {}
    for site, call in zip(found.sites, found.calls, strict=True):
        leader = first.setdefault((site.stack, site.kind), call)
        assert call.lo is leader.lo
        assert call.hi is leader.hi


@pytest.mark.parametrize(("name", "window"), [("mistral", 5), ("gemma2", 5), ("gpt_oss", 5), ("modernbert", 5)])
def test_sliding_windows_reach_the_site_and_the_intervals(name: str, window: int) -> None:
    found = trial(name, "right")
    windowed = [(s, c) for s, c in zip(found.sites, found.calls, strict=True) if s.window is not None]
    assert windowed
    for site, call in windowed:
        assert site.window == window
        widest = int((call.hi - call.lo).max())
        assert widest == (2 * window - 1 if name == "modernbert" else window)


def test_sites_are_numbered_within_their_stack_and_kind() -> None:
    sites = trial("bart", "right").sites
    assert [(site.stack, site.kind, site.layer) for site in sites] == [
        ("encoder", "self", 0),
        ("encoder", "self", 1),
        ("decoder", "self", 0),
        ("decoder", "cross", 0),
        ("decoder", "self", 1),
        ("decoder", "cross", 1),
    ]
    assert sites[3].name == "decoder L0 cross"


def test_a_module_called_once_a_layer_is_told_apart_by_its_ordinal() -> None:
    sites = trial("albert", "right").sites
    assert len({site.module for site in sites}) == 1
    assert [site.ordinal for site in sites] == [0, 1]


def test_facts_that_change_the_mathematics_are_on_the_site() -> None:
    assert trial("gemma2", "right").sites[0].softcap == 2.0
    assert trial("gpt_oss", "right").sites[0].has_sink
    assert trial("t5", "right").sites[0].has_bias
    assert not trial("t5", "right").sites[3].has_bias  # cross-attention: T5 passes zeros
    assert trial("opt", "right").sites[0].scale == 1.0  # its queries come scaled
    mla = trial("deepseek_v3", "right").sites[0]
    assert (mla.d_qk, mla.d_v) == (16, 12)
    assert trial("llama", "right").sites[0].n_kv_heads == 2
