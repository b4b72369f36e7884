"""What the heads have learnt: the scores of Olsson et al. 2022 (arXiv 2209.11895), measured on held-out tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from examples.train.vocabulary import BOS_ID, SPECIAL

SEGMENT = 50  # tokens, repeated once
SCORE_SEED = 20_260_000  # never a training seed: the segments are new to the model


def repeated_random_tokens(vocabulary: int, rows: int, *, segment: int = SEGMENT) -> torch.Tensor:
    """(rows, 1 + 2·segment): BOS, random tokens, the same tokens again."""
    rng = np.random.default_rng(SCORE_SEED)
    once = rng.integers(len(SPECIAL), vocabulary, size=(rows, segment))
    start = np.full((rows, 1), BOS_ID)
    return torch.from_numpy(np.concatenate([start, once, once], axis=1))


def windows_of(stream: np.ndarray, rows: int, length: int) -> torch.Tensor:
    """(rows, length): BOS and evenly spaced stretches of held-out text."""
    starts = np.linspace(0, len(stream) - length, rows).astype(int)
    text = np.stack([stream[start : start + length - 1] for start in starts]).astype(np.int64)
    return torch.from_numpy(np.concatenate([np.full((rows, 1), BOS_ID), text], axis=1))


@torch.no_grad()
def patterns(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """(layers, rows, heads, length, length): attention patterns from transformers' own eager attention."""
    before, training = model.config._attn_implementation, model.training
    model.set_attn_implementation("eager")
    model.eval()
    try:
        return torch.stack(model(input_ids=ids, output_attentions=True, use_cache=False).attentions)
    finally:
        model.set_attn_implementation(before)
        model.train(training)


def induction_score(pattern: torch.Tensor, *, segment: int = SEGMENT) -> torch.Tensor:
    """(layers, heads): mean weight from the second copy to the token after the first occurrence."""
    query = torch.arange(1 + segment, 1 + 2 * segment)
    return pattern[..., query, query - segment + 1].mean(dim=(1, 3))


def duplicate_score(pattern: torch.Tensor, *, segment: int = SEGMENT) -> torch.Tensor:
    """(layers, heads): mean weight from the second copy to the first occurrence."""
    query = torch.arange(1 + segment, 1 + 2 * segment)
    return pattern[..., query, query - segment].mean(dim=(1, 3))


def previous_token_score(pattern: torch.Tensor) -> torch.Tensor:
    """(layers, heads): mean weight on i − 1, from the third token on (the second one's previous token is BOS)."""
    query = torch.arange(2, pattern.shape[-1])
    return pattern[..., query, query - 1].mean(dim=(1, 3))


def first_token_score(pattern: torch.Tensor) -> torch.Tensor:
    """(layers, heads): mean weight on BOS, from the second token on."""
    return pattern[..., 1:, 0].mean(dim=(1, 3))


def score_table(model: Any, held_out: np.ndarray, *, rows: int = 32) -> dict[str, torch.Tensor]:
    """Every score by name, each (layers, heads)."""
    random = patterns(model, repeated_random_tokens(model.config.vocab_size, rows))
    text = patterns(model, windows_of(held_out, rows, 128))
    return {
        "induction": induction_score(random),
        "duplicate": duplicate_score(random),
        "previous_random": previous_token_score(random[..., : 1 + SEGMENT, : 1 + SEGMENT]),
        "previous_text": previous_token_score(text),
        "first_text": first_token_score(text),
    }


def best(scores: torch.Tensor) -> tuple[str, float]:
    """The highest score and its head, as L1H5."""
    place = int(scores.argmax())
    layer, head = divmod(place, scores.shape[1])
    return f"L{layer}H{head}", float(scores.flatten()[place])


@torch.no_grad()
def held_out_loss(model: Any, held_out: np.ndarray, *, rows: int = 64) -> float:
    """Mean cross-entropy in nats a token on held-out text, in windows of the model's whole context."""
    ids = windows_of(held_out, rows, model.config.max_position_embeddings)
    losses = [float(model(input_ids=part, labels=part, use_cache=False).loss) for part in ids.split(16)]
    return sum(losses) / len(losses)
