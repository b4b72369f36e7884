"""The weights in the package are what their cards say: sizes, dtypes, scores on tokens that no training has seen."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from attnengine.bundled import WEIGHTS, bundled_documents, bundled_model
from attnengine.model.load import wrap_model
from attnengine.probe import ProbeSettings, probe
from examples.train import material, twin

MEGABYTES = 12
SEGMENT, ROWS = 50, 24


@pytest.fixture(scope="module")
def causal() -> Any:
    return AutoModelForCausalLM.from_pretrained(bundled_model("causal"), attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def repeated(causal: Any) -> np.ndarray:
    """(layers, rows, heads, 101, 101): patterns on random tokens that come twice, behind the start token."""
    once = np.random.default_rng(20261121).integers(2, causal.config.vocab_size, size=(ROWS, SEGMENT))
    ids = np.concatenate([np.zeros((ROWS, 1), dtype=int), once, once], axis=1)
    return patterns(causal, torch.from_numpy(ids))


@torch.no_grad()
def patterns(model: Any, ids: torch.Tensor) -> np.ndarray:
    return torch.stack(model(input_ids=ids, output_attentions=True, use_cache=False).attentions).numpy()


def mean_weight(pattern: np.ndarray, back: int, first: int) -> np.ndarray:
    """(layers, heads): mean attention ``back`` positions before the query, over queries from ``first`` on."""
    weights = [pattern[..., i, i - back] for i in range(first, pattern.shape[-1])]
    return np.mean(weights, axis=(0, 2))


def in_card(name: str, row: str) -> float:
    """The figure that a model's card gives in the score row that begins with ``row``."""
    card = (WEIGHTS / name / "README.md").read_text(encoding="utf-8")
    (line,) = [line for line in card.splitlines() if line.startswith(f"| {row}")]
    return float(re.findall(r"\d\.\d{3}", line)[0])


@pytest.mark.parametrize("name", ["causal", "twin"])
def test_a_bundled_model_is_small_stored_in_half_precision_and_has_a_card_without_private_paths(name: str) -> None:
    folder = bundled_model(name)
    assert (folder / "model.safetensors").stat().st_size <= MEGABYTES * 1e6
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}  # noqa: SIM118 - it is no dict
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"\n## {section}\n" in card for section in ("Training", "Scores", "Limits"))
    assert f"python -m examples.train.{name}" in card
    assert not re.search(r"/(home|root|work|tmp|opt|Users)/", "".join(map(read_json_or_card, folder.glob("*"))))


def read_json_or_card(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.suffix in (".json", ".md") else ""


def test_the_causal_model_groups_its_queries_and_loads_with_and_without_its_vocabulary_head() -> None:
    folder = bundled_model("causal")
    config = AutoModel.from_pretrained(folder).config
    assert config.num_hidden_layers >= 4
    assert 1 < config.num_key_value_heads < config.num_attention_heads
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.float32


def test_the_causal_models_tokenizer_gives_any_text_back_and_begins_it_with_the_start_token() -> None:
    tokenizer = AutoTokenizer.from_pretrained(bundled_model("causal"))
    for text in ("def f(x):\n\treturn x ** 2", "Größe – 尺寸 🙂", *(text for _, text in bundled_documents()[:5])):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.bos_token_id not in ids[1:]
        assert (
            tokenizer.decode(
                ids[1:],
            )
            == text
        )


def test_a_head_of_the_causal_model_attends_to_what_followed_the_first_occurrence(repeated: np.ndarray) -> None:
    induction = mean_weight(repeated, SEGMENT - 1, 1 + SEGMENT)
    assert induction.max() > 0.5
    assert induction.max() == pytest.approx(in_card("causal", "induction"), abs=0.03)


def test_a_head_of_the_causal_model_attends_to_the_previous_token_of_random_tokens(repeated: np.ndarray) -> None:
    previous = mean_weight(repeated[..., : 1 + SEGMENT, : 1 + SEGMENT], 1, 2)
    assert previous.max() > 0.5
    assert previous.max() == pytest.approx(in_card("causal", "previous token, random"), abs=0.03)


def test_a_head_of_the_causal_model_attends_to_the_previous_token_of_text_it_was_not_trained_on(causal: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bundled_model("causal"))
    texts = [text for name, text in bundled_documents() if material.is_held_out(f"topics/{name}")]
    encoded = [tokenizer(text, return_tensors="pt")["input_ids"][:, :200] for text in texts]
    assert len(encoded) >= 2
    previous = np.mean([mean_weight(patterns(causal, ids), 1, 2) for ids in encoded], axis=0)
    assert previous.max() > 0.5


def test_the_probe_names_the_same_heads(repeated: np.ndarray) -> None:
    folder = bundled_model("causal")
    loaded = wrap_model(AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
    table = probe(loaded, ProbeSettings(length=SEGMENT))
    induction = mean_weight(repeated, SEGMENT - 1, 1 + SEGMENT).ravel()
    np.testing.assert_allclose(table["induction"], induction, atol=0.05)
    assert table["previous_token"].max() > 0.5


def test_the_causal_model_predicts_the_second_copy_far_better_than_the_first(causal: Any) -> None:
    once = np.random.default_rng(7).integers(2, causal.config.vocab_size, size=(8, SEGMENT))
    ids = torch.from_numpy(np.concatenate([np.zeros((8, 1), dtype=int), once, once], axis=1))
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(
            causal(input_ids=ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        ).reshape(8, -1)
    assert loss[:, SEGMENT + 1 :].mean() < loss[:, :SEGMENT].mean() - 3  # nats


def test_the_twin_has_the_causal_models_tokenizer_and_shape_and_weights_that_have_moved_a_little() -> None:
    base, tuned = bundled_model("causal"), bundled_model("twin")
    assert (base / "tokenizer.json").read_bytes() == (tuned / "tokenizer.json").read_bytes()
    before = dict(AutoModel.from_pretrained(base).named_parameters())
    after = dict(AutoModelForSequenceClassification.from_pretrained(tuned).model.named_parameters())
    assert before.keys() == after.keys()
    with torch.no_grad():
        moved = [float((after[name] - value).norm() / value.norm()) for name, value in before.items() if value.ndim > 1]
    assert min(moved) > 0
    assert max(moved) < 1


@pytest.mark.acceptance
def test_the_twin_tells_packages_apart_as_well_as_its_card_says() -> None:
    folder = bundled_model("twin")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    labels = json.loads((folder / "config.json").read_text())["id2label"]
    assert tuple(labels.values()) == twin.CLASSES
    found = material.read_docstrings(twin.CLASSES)
    held_out = twin.examples(found, AutoTokenizer.from_pretrained(folder), held_out=True)
    # Other versions of the packages have other docstrings.
    assert twin.accuracy(model, held_out) == pytest.approx(in_card("twin", "this model"), abs=0.05)
