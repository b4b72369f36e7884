"""The self-check measures what it says, and fails where capture and model disagree."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from attnengine.errors import CaptureError
from attnengine.model import capture as capture_module
from attnengine.model import self_check as self_check_module
from attnengine.model.capture import find_sites
from attnengine.model.keywords import Keywords
from attnengine.model.self_check import self_check
from tests.model.families import batch, build


def check(name: str, dtype: torch.dtype = torch.float32) -> self_check_module.SelfCheck:
    model, inputs = build(name, dtype), batch(name)
    return self_check(model, find_sites(model, inputs), inputs)


def test_the_record_is_json_and_says_what_was_measured() -> None:
    found = check("bert")
    assert json.loads(json.dumps(found.as_dict())) == found.as_dict()
    assert (found.calls, found.pattern_sites, found.nan_outputs) == (2, 2, 0)
    assert found.exact
    assert found.output_error == found.output_limit == 0.0
    assert found.pattern_error is not None
    assert found.pattern_error <= 1e-6


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss"])
def test_models_without_sdpa_are_marked_and_close_to_eager(name: str) -> None:
    found = check(name)
    assert not found.exact
    assert found.reason is not None
    assert found.output_error <= found.output_limit == 1e-5


@pytest.mark.parametrize("name", ["bert", "llama", "gemma2", "t5"])
def test_bf16_models_pass_with_the_limits_of_bf16(name: str) -> None:
    found = check(name, torch.bfloat16)
    assert found.dtype == "bfloat16"
    assert found.pattern_sites == found.calls
    assert found.output_error == 0.0 or not found.exact


@pytest.mark.parametrize("name", ["bert", "gpt_oss"])
def test_nan_weights_are_counted_not_stumbled_over(name: str) -> None:
    model, inputs = build(name), batch(name)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    found = self_check(model, find_sites(model, inputs), inputs)
    assert found.nan_outputs > 0
    assert found.output_error == 0.0
    assert found.pattern_error == 0.0
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_wrong_scale_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    make = capture_module.AttentionCall

    def tampered(*args: Any, **kwargs: Any) -> Any:
        call = make(*args, **kwargs)
        return replace(call, scale=call.scale * 1.1)

    monkeypatch.setattr(capture_module, "AttentionCall", tampered)
    with pytest.raises(CaptureError, match="rebuilt from captured queries and keys"):
        check("bert")


def test_a_forgotten_softcap_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    read = capture_module.read_keywords

    def forgetful(*args: Any) -> Keywords:
        return replace(read(*args), softcap=None)

    monkeypatch.setattr(capture_module, "read_keywords", forgetful)
    with pytest.raises((CaptureError, ValueError), match=r"softcap|outputs differ|rebuilt from captured"):
        check("gemma2")


def test_an_output_off_by_one_bit_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = capture_module.stock_attention

    def nudged(*args: Any, **kwargs: Any) -> Any:
        output, lse = attend(*args, **kwargs)
        return torch.nextafter(output, output + 1), lse

    monkeypatch.setattr(capture_module, "stock_attention", nudged)
    with pytest.raises(CaptureError, match="outputs differ"):
        check("bert")


def test_a_model_that_differs_from_itself_is_held_to_the_loose_limit_and_marked() -> None:
    model, inputs = build("bert"), batch("bert")

    def jitter(module: Any, given: Any, output: torch.Tensor) -> torch.Tensor:
        return output * (1 + 1e-7 * torch.rand_like(output))

    model.embeddings.register_forward_hook(jitter)
    found = self_check(model, find_sites(model, inputs), inputs)
    assert not found.exact
    assert found.reason is not None
    assert "model alone" in found.reason
    assert 0 < found.output_error <= 1e-5


def test_a_model_that_draws_at_random_fails_with_that_as_the_reason() -> None:
    model, inputs = build("bert"), batch("bert")
    model.embeddings.register_forward_hook(lambda module, given, output: output + torch.rand_like(output))
    with pytest.raises(CaptureError, match="two runs of the model alone differ"):
        self_check(model, find_sites(model, inputs), inputs)


def test_without_an_eager_pattern_the_record_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check_module, "_eager_patterns", lambda model, sites, inputs: [None] * len(sites))
    found = check("bert")
    assert found.pattern_error is None
    assert found.pattern_sites == 0
