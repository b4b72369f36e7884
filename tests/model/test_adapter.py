"""A PEFT adapter is merged weight for weight, and one that does not fit is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers as tf
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.numpy import load_file

from attnengine.errors import ModelError
from attnengine.model.load import load_model
from tests.model.families import VOCABULARY
from tests.model.test_load import saved

# PEFT still asks transformers under the old name when an adapter is made.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
RANK, ALPHA = 4, 12


def base_model(layers: int = 2) -> Any:
    """A tiny Llama with its vocabulary head."""
    tf.set_seed(3)
    config = tf.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=64,
    )  # fmt: skip
    return tf.LlamaForCausalLM(config)


def make_adapter(path: Path, model: Any, **changes: Any) -> Path:
    """An adapter on queries and keys whose random factors are not zero, as PEFT saves it."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["q_proj", "k_proj"], task_type="CAUSAL_LM",
                        init_lora_weights=False)  # fmt: skip
    get_peft_model(model, config).save_pretrained(path)
    settings = path / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | changes))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The base model on disk."""
    return saved(base_model(), tmp_path / "base")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter for it."""
    return make_adapter(tmp_path / "adapter", base_model())


def test_every_adapted_weight_is_base_plus_scaled_product(folder: Path, adapter: Path) -> None:
    plain, tuned = load_model(str(folder)), load_model(str(folder), adapter=str(adapter))
    factors = load_file(adapter / "adapter_model.safetensors")
    before, after = plain.model.state_dict(), tuned.model.state_dict()
    assert before.keys() == after.keys()
    for name, weight in before.items():
        key = f"base_model.model.model.{name.removesuffix('.weight')}.lora_{{}}.weight"
        change = np.zeros(weight.shape)
        if key.format("A") in factors:
            change = ALPHA / RANK * factors[key.format("B")] @ factors[key.format("A")]
            assert np.abs(change).max() > 1e-3
        assert np.allclose(after[name].numpy(), weight.numpy() + change, rtol=0, atol=1e-6), name


def test_the_adapter_is_named_and_hashed(folder: Path, adapter: Path) -> None:
    plain, tuned = load_model(str(folder)), load_model(str(folder), adapter=str(adapter))
    assert (plain.adapter, tuned.adapter) == (None, str(adapter))
    assert tuned.as_dict()["adapter"] == str(adapter)
    assert tuned.weights_sha256 != plain.weights_sha256
    assert tuned.class_name == plain.class_name == "LlamaModel"


def test_an_adapter_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    deeper = make_adapter(tmp_path / "deeper", base_model(layers=3))
    with pytest.raises(ModelError, match=r"does not fit this base model: 4 of its tensors have no place"):
        load_model(str(folder), adapter=str(deeper))


def test_an_adapter_that_lacks_tensors_is_refused(tmp_path: Path, adapter: Path) -> None:
    base = saved(base_model(layers=3), tmp_path / "three")
    with pytest.raises(ModelError, match=r"does not fit this base model: it lacks 4"):
        load_model(str(base), adapter=str(adapter))


def test_an_adapter_that_adds_tokens_is_refused(folder: Path, tmp_path: Path) -> None:
    prompt = get_peft_model(base_model(), PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    prompt.save_pretrained(tmp_path / "prompt")
    with pytest.raises(ModelError, match="adds tokens instead of changing weights"):
        load_model(str(folder), adapter=str(tmp_path / "prompt"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
        (lambda path: (path / "adapter_model.safetensors").write_bytes(b"\x00" * 40), "failed|damaged"),
        (lambda path: (path / "adapter_config.json").write_text("{"), "cannot be read as JSON"),
        (lambda path: (path / "adapter_config.json").unlink(), "has no adapter_config.json"),
        (lambda path: (path / "adapter_config.json").write_text('{"task_type": "DANCE"}'), "task_type 'DANCE'"),
        (lambda path: (path / "adapter_config.json").write_text('{"task_type": "CAUSAL_LM"}'), "failed"),
    ],
)
def test_a_broken_adapter_is_one_sentence(folder: Path, adapter: Path, spoil: Any, message: str) -> None:
    spoil(adapter)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(str(folder), adapter=str(adapter))
    assert "\n" not in str(caught.value)


def test_an_adapter_that_is_not_there_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        load_model(str(folder), adapter=str(tmp_path / "nowhere"))
