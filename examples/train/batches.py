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
    shortest: int = 8  # tokens of a random segment; gaps between its copies have up to ``longest``
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

    Every row begins with BOS, as the tokenizer begins every text.
    """
    rng, stage = np.random.default_rng([mixture.seed, step]), mixture.stage(step)
    ids = np.full((stage.rows, stage.length), BOS_ID, dtype=np.int64)
    labels = ids.copy()
    body = stage.length - 1
    for row in range(stage.rows):
        if row < stage.synthetic:
            ids[row, 1:], known = repeated_segments(rng, stage, mixture.vocabulary)
            labels[row, 1:] = np.where(known, ids[row, 1:], IGNORED)
        else:
            start = int(rng.integers(0, len(stream) - body))
            ids[row, 1:] = stream[start : start + body]
            labels[row] = ids[row]
        labels[row, 0] = IGNORED
    return torch.from_numpy(ids), torch.from_numpy(labels)


def repeated_segments(rng: np.random.Generator, stage: Stage, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids, known), each (length - 1,): one random segment again and again, behind gaps of other random tokens.

    Since the gaps differ in length, how far back a copy lies must be found from its tokens: with one period a row,
    heads of a fixed distance predict it without any induction. ``known`` marks what can be predicted: every copy
    behind the first, but for its first token.
    """
    segment = rng.integers(len(SPECIAL), vocabulary, size=int(rng.integers(stage.shortest, stage.longest + 1)))
    later = np.arange(len(segment)) > 0
    ids, known = list[np.ndarray](), list[np.ndarray]()
    while sum(map(len, ids)) < stage.length - 1:
        gap = rng.integers(len(SPECIAL), vocabulary, size=int(rng.integers(0, stage.longest + 1)))
        known += [np.zeros(len(gap), dtype=bool), later & bool(ids)]
        ids += [gap, segment]
    return np.concatenate(ids)[: stage.length - 1], np.concatenate(known)[: stage.length - 1]
