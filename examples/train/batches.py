"""Training batches as a function of (seed, step) alone: a resumed training reads what an undisturbed one would have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from examples.train.vocabulary import BOS_ID, SPECIAL

IGNORED = -100  # transformers' label for "no loss here"


@dataclass(frozen=True)
class Stage:
    """How batches are made before step ``until``: ``synthetic`` of its rows are repeated random segments."""

    until: int
    rows: int
    length: int
    synthetic: int
    shortest: int = 8  # tokens of a random segment
    longest: int = 64


@dataclass(frozen=True)
class Mixture:
    """The stages in order; the last one has no end."""

    seed: int
    vocabulary: int
    stages: tuple[Stage, ...]

    def stage(self, step: int) -> Stage:
        """The stage of a step."""
        return next((stage for stage in self.stages if step < stage.until), self.stages[-1])

    def synthetic_share(self, steps: int) -> float:
        """Share of all tokens of a training of ``steps`` steps that stand in synthetic rows."""
        stages = [self.stage(step) for step in range(steps)]
        return sum(s.synthetic * s.length for s in stages) / sum(s.rows * s.length for s in stages)


def batch_at(step: int, stream: np.ndarray, mixture: Mixture) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, labels), each (rows, length) int64, of training step ``step``.

    Every row begins with BOS, as the tokenizer begins every text. What cannot be predicted in a random row (the first
    copy, and that it ends where it ends) carries no loss.
    """
    rng, stage = np.random.default_rng([mixture.seed, step]), mixture.stage(step)
    ids = np.full((stage.rows, stage.length), BOS_ID, dtype=np.int64)
    labels = ids.copy()
    body = stage.length - 1
    for row in range(stage.rows):
        if row < stage.synthetic:
            period = int(rng.integers(stage.shortest, stage.longest + 1))
            segment = rng.integers(len(SPECIAL), mixture.vocabulary, size=period)
            ids[row, 1:] = np.resize(segment, body)
            labels[row] = ids[row]
            labels[row, : 2 + period] = IGNORED
        else:
            start = int(rng.integers(0, len(stream) - body))
            ids[row, 1:] = stream[start : start + body]
            labels[row] = ids[row]
    return torch.from_numpy(ids), torch.from_numpy(labels)
