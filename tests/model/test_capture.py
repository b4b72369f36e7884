"""Capture leaves the model as it was, counts its calls, and refuses what it cannot do faithfully."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as tf
from transformers import AttentionMaskInterface

from attnengine.errors import CaptureError, UnsupportedModelError
from attnengine.model import masks
from attnengine.model.capture import Capture, find_sites
from attnengine.model.interface import NAME
from attnengine.model.masks import DenseMaskError
from attnengine.model.self_check import self_check
from attnengine.records import Site
from attnengine_kernels.call import AttentionCall
from tests.model.families import VOCABULARY, batch, build


def nothing(site: Site, call: AttentionCall) -> None:
    """For a forward whose calls are of no interest."""


class BrokenError(Exception):
    """What the tests' own callbacks raise."""


def breaks(site: Site, call: AttentionCall) -> None:
    raise BrokenError


def state(model: Any) -> list[tuple[Any, ...]]:
    parts = [part for part in model.modules() if hasattr(part, "config")]
    return [
        (part.training, part.config._attn_implementation, getattr(part.config, "use_cache", None)) for part in parts
    ]


@pytest.mark.parametrize("name", ["t5", "gemma2", "llama"])
def test_everything_is_put_back_after_the_block(name: str) -> None:
    model, inputs = build(name), batch(name)
    model.set_attn_implementation("eager")
    model.train()
    before = state(model)
    sites = find_sites(model, inputs)
    assert state(model) == before
    with Capture(model, sites) as capture:
        assert {part.config._attn_implementation for part in model.modules() if hasattr(part, "config")} == {NAME}
        assert not model.training
        capture.forward(inputs, nothing)
    assert state(model) == before


def test_everything_is_put_back_after_an_exception_in_the_callback() -> None:
    model, inputs = build("bart"), batch("bart")
    before, sites = state(model), find_sites(model, inputs)
    with pytest.raises(BrokenError), Capture(model, sites) as capture:
        capture.forward(inputs, breaks)
    assert state(model) == before
    with Capture(model, sites) as capture:  # and the model can be captured again
        capture.forward(inputs, nothing)


def test_everything_is_put_back_after_an_exception_in_the_model() -> None:
    model = build("bert")
    before = state(model)
    with pytest.raises(IndexError):
        find_sites(model, {"input_ids": torch.full((2, 5), VOCABULARY + 1)})
    assert state(model) == before


def test_importing_registers_nothing() -> None:
    code = (
        "import attnengine.model.capture, transformers as tf;"
        f"print(*({NAME!r} in found._global_mapping for found in (tf.AttentionInterface, tf.AttentionMaskInterface)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


def test_outputs_carry_no_gradient_and_no_cache() -> None:
    model, inputs = build("llama"), batch("llama")
    with Capture(model, find_sites(model, inputs)) as capture:
        outputs = capture.forward(inputs, nothing)
    assert outputs.last_hidden_state.is_inference()
    assert outputs.past_key_values is None


def test_the_same_model_is_captured_once_at_a_time() -> None:
    model, inputs = build("bert"), batch("bert")
    sites = find_sites(model, inputs)
    with Capture(model, sites) as capture:
        with pytest.raises(CaptureError, match="captured already"):
            find_sites(model, inputs)
        capture.forward(inputs, nothing)


def test_running_a_captured_model_directly_is_an_error_not_a_silent_fallback() -> None:
    model, inputs = build("bert"), batch("bert")
    with Capture(model, find_sites(model, inputs)), pytest.raises(CaptureError, match=r"outside Capture\.forward"):
        model(**inputs)


def test_a_forward_outside_the_block_is_an_error() -> None:
    model, inputs = build("bert"), batch("bert")
    capture = Capture(model, find_sites(model, inputs))
    with pytest.raises(CaptureError, match="outside its with-block"):
        capture.forward(inputs, nothing)


def test_two_threads_capture_two_models_without_mixing_calls() -> None:
    counts: dict[str, list[int]] = {}

    def work(name: str) -> None:
        model, inputs = build(name), batch(name)
        widths: list[int] = []
        with Capture(model, find_sites(model, inputs)) as capture:
            for _ in range(20):
                capture.forward(inputs, lambda _site, call: widths.append(call.query.shape[-1]))
        counts[name] = widths

    threads = [threading.Thread(target=work, args=(name,)) for name in ("llama", "qwen3")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {"llama": [8] * 40, "qwen3": [16] * 40}


def test_a_capture_inside_the_callback_of_another_keeps_both_apart() -> None:
    outer, inner = build("bert"), build("qwen3")
    seen: list[int] = []

    def nested(site: Site, call: AttentionCall) -> None:
        seen.append(call.query.shape[-1])
        find_sites(inner, batch("qwen3"))

    with Capture(outer, find_sites(outer, batch("bert"))) as capture:
        capture.forward(batch("bert"), nested)
    assert seen == [8, 8]


def test_a_site_that_is_not_called_is_an_error() -> None:
    model, inputs = build("bert"), batch("bert")
    sites = find_sites(model, inputs)
    ghost = replace(sites[0], site=2, module="encoder.layer.7.attention.self")
    with Capture(model, [*sites, ghost]) as capture, pytest.raises(CaptureError, match=r"layer\.7"):
        capture.forward(inputs, nothing)


def test_a_call_that_is_no_site_is_an_error() -> None:
    model, inputs = build("albert"), batch("albert")
    sites = find_sites(model, inputs)
    with Capture(model, sites[:1]) as capture, pytest.raises(CaptureError, match="attention call 1"):
        capture.forward(inputs, nothing)


def test_a_site_of_another_shape_is_an_error() -> None:
    model, inputs = build("bert"), batch("bert")
    sites = [replace(site, n_heads=site.n_heads + 1) for site in find_sites(model, inputs)]
    with Capture(model, sites) as capture, pytest.raises(CaptureError, match="in the dry forward"):
        capture.forward(inputs, nothing)


def test_an_unknown_keyword_is_refused_with_its_name() -> None:
    model, inputs = build("llama"), batch("llama")
    with pytest.raises(UnsupportedModelError, match="sparse_blocks"):
        find_sites(model, inputs | {"sparse_blocks": torch.ones(1)})
    assert len(find_sites(model, inputs | {"sparse_blocks": None})) == 2  # None asks for nothing


def test_is_causal_given_as_a_keyword_is_honoured() -> None:
    model = build("llama")
    inputs = {"input_ids": batch("llama")["input_ids"]}
    causal, both = [], []
    with Capture(model, find_sites(model, inputs)) as capture:
        capture.forward(inputs, lambda _site, call: causal.append(call.hi))
        capture.forward(inputs | {"is_causal": False}, lambda _site, call: both.append(call.hi))
    length = inputs["input_ids"].shape[1]
    assert causal[0][0].tolist() == list(range(1, length + 1))
    assert both[0][0].tolist() == [length] * length


def test_a_missing_scale_means_one_over_the_root_of_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = build("bert"), batch("bert")
    for layer in model.encoder.layer:
        monkeypatch.setattr(layer.attention.self, "scaling", None)
    assert find_sites(model, inputs)[0].scale == 8**-0.5


def test_the_mask_trap_is_caught_by_the_self_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mask function transformers passes attention_mask=None everywhere and says nothing."""
    model, inputs = build("bert"), batch("bert")
    sites = find_sites(model, inputs)
    monkeypatch.setattr(AttentionMaskInterface, "register", lambda name, function: None)
    monkeypatch.delitem(AttentionMaskInterface._global_mapping, NAME)
    with pytest.raises(CaptureError, match="outputs differ"):
        self_check(model, sites, inputs)


def test_a_dense_mask_above_the_limit_asks_for_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = build("llama"), batch("llama")
    sites = find_sites(model, inputs)
    length = inputs["input_ids"].shape[1]
    monkeypatch.setattr(masks, "DENSE_MASK_LIMIT", 5 * length * length)  # one boolean and fp32 mask fits, two do not
    before = state(model)
    with Capture(model, sites) as capture, pytest.raises(DenseMaskError) as caught:
        capture.forward(inputs, nothing)
    assert caught.value.rows == 1
    assert state(model) == before
    with Capture(model, sites) as capture:
        for row in range(2):
            capture.forward({name: value[row : row + 1] for name, value in inputs.items()}, nothing)


def test_masks_that_need_no_dense_form_are_never_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "DENSE_MASK_LIMIT", 100)
    bert, unpadded = build("bert"), {"input_ids": batch("llama")["input_ids"]}
    assert len(find_sites(bert, batch("bert"))) == 2  # padding alone stays (b, 1, 1, k)
    assert len(find_sites(build("llama"), unpadded)) == 2  # plain causal needs none


def outside(name: str, **more: Any) -> Any:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = getattr(tf, f"{name}Config")(**(sizes | {"intermediate_size": 48} | more))
    return getattr(tf, f"{name}Model")._from_config(config).eval()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("DebertaV2", {}),
        ("Bloom", {}),
        ("Falcon", {}),
        ("GPTJ", {"rotary_dim": 4}),
        ("XLNet", {"d_inner": 48, "d_head": 8}),
        ("Longformer", {"attention_window": 4}),
    ],
)
def test_models_outside_the_interface_are_refused_with_the_reason(name: str, more: dict[str, Any]) -> None:
    model = outside(name, **more)
    before = state(model)
    with pytest.raises(UnsupportedModelError, match=r"does not use transformers' attention interface"):
        find_sites(model, batch("bert"))
    assert state(model) == before


def test_a_model_without_attention_is_refused_as_such() -> None:
    with pytest.raises(UnsupportedModelError, match="no attention at all"):
        find_sites(outside("Mamba", state_size=4), {"input_ids": batch("bert")["input_ids"]})
