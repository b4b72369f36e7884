"""Training batches as a function of (seed, step) alone: a resumed training reads what an undisturbed one would have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from examples.train.vocabulary import BOS_ID, SPECIAL

IGNORED = -100  # transformers' label for "no loss here"


@dataclass(frozen=True)
class Mixture:
    """How a batch is made: ``synthetic`` of its ``rows`` rows are random segments repeated to the row's end."""

    seed: int
    rows: int
    length: int
    synthetic: int
    vocabulary: int
    shortest: int = 4
    longest: int = 96


def batch_at(step: int, stream: np.ndarray, mixture: Mixture) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, labels), each (rows, length) int64, of training step ``step``.

    Every row begins with BOS, as the tokenizer begins every text. What cannot be predicted in a random row (the first
    copy, and that it ends where it ends) carries no loss.
    """
    rng = np.random.default_rng([mixture.seed, step])
    ids = np.full((mixture.rows, mixture.length), BOS_ID, dtype=np.int64)
    labels = ids.copy()
    body = mixture.length - 1
    for row in range(mixture.rows):
        if row < mixture.synthetic:
            period = int(rng.integers(mixture.shortest, mixture.longest + 1))
            segment = rng.integers(len(SPECIAL), mixture.vocabulary, size=period)
            ids[row, 1:] = np.resize(segment, body)
            labels[row] = ids[row]
            labels[row, : 2 + period] = IGNORED
        else:
            start = int(rng.integers(0, len(stream) - body))
            ids[row, 1:] = stream[start : start + body]
            labels[row] = ids[row]
    return torch.from_numpy(ids), torch.from_numpy(labels)
