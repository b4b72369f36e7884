"""The scores of the training scripts, against patterns whose scores are known and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from examples.train import scores

SEGMENT = 7
LENGTH = 1 + 2 * SEGMENT


def pattern_of(target: int | None, offset: int = 0) -> torch.Tensor:
    """(1, 1, 1, length, length): all weight on a fixed key, or on the key ``offset`` before the query."""
    pattern = torch.zeros(1, 1, 1, LENGTH, LENGTH)
    for query in range(LENGTH):
        pattern[..., query, max(0, query - offset) if target is None else target] = 1
    return pattern


@pytest.mark.parametrize(
    ("pattern", "induction", "duplicate", "previous", "first"),
    [
        (pattern_of(None, SEGMENT - 1), 1, 0, 0, SEGMENT - 1),
        (pattern_of(None, SEGMENT), 0, 1, 0, SEGMENT),
        (pattern_of(None, 1), 0, 0, 1, 1),
        (pattern_of(0), 0, 0, 0, LENGTH - 1),
    ],
    ids=["induction", "duplicate", "previous", "first"],
)
def test_a_head_that_does_one_thing_scores_one_there_and_nothing_elsewhere(
    pattern: torch.Tensor, induction: float, duplicate: float, previous: float, first: float
) -> None:
    assert scores.induction_score(pattern, segment=SEGMENT).item() == induction
    assert scores.duplicate_score(pattern, segment=SEGMENT).item() == duplicate
    assert scores.previous_token_score(pattern).item() == previous
    assert scores.first_token_score(pattern).item() == pytest.approx(first / (LENGTH - 1))


def test_the_scores_are_means_over_the_pairs_that_their_definitions_name() -> None:
    torch.manual_seed(0)
    pattern = torch.rand(2, 3, 4, LENGTH, LENGTH).tril().double()
    ids = scores.repeated_random_tokens(10**6, 3, segment=SEGMENT)
    for layer in range(2):
        for head in range(4):
            induction, duplicate = [], []
            for row in range(3):
                for i in range(1 + SEGMENT, LENGTH):
                    (before,) = [j for j in range(1, 1 + SEGMENT) if ids[row, j] == ids[row, i]]
                    induction.append(pattern[layer, row, head, i, before + 1].item())
                    duplicate.append(pattern[layer, row, head, i, before].item())
            found = scores.induction_score(pattern, segment=SEGMENT)[layer, head].item()
            assert found == pytest.approx(np.mean(induction))
            found = scores.duplicate_score(pattern, segment=SEGMENT)[layer, head].item()
            assert found == pytest.approx(np.mean(duplicate))


def test_patterns_are_the_models_own_and_leave_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            intermediate_size=32,
        )
    )  # fmt: skip
    before = model.config._attn_implementation
    found = scores.patterns(model, scores.repeated_random_tokens(50, 3, segment=SEGMENT))
    assert found.shape == (2, 3, 2, LENGTH, LENGTH)
    assert torch.allclose(found.sum(-1), torch.ones(2, 3, 2, LENGTH))
    assert found.triu(1).abs().max() == 0
    assert model.config._attn_implementation == before
    assert model.training


def test_the_best_head_is_named_by_layer_and_head() -> None:
    assert scores.best(torch.tensor([[0.1, 0.2, 0.0], [0.3, 0.9, 0.4]])) == ("L1H1", pytest.approx(0.9))
