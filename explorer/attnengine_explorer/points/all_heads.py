"""The clouds of all heads as one picture: read once, a head at a time, then drawn anew in one pass at each step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attnengine.errors import AttnEngineError
from attnengine_explorer.points import composed
from attnengine_explorer.points.colouring import OF_HEADS, Colouring, colouring, of_tokens, scale, values
from attnengine_explorer.points.heads import HeadClouds

Head = tuple[int, int]


class AllHeads:
    """Small clouds of every head of a run, in one projection and cell size. Shared by all sessions.

    ``pixels`` holds the heads read so far, ``problems`` why a head has no cloud.
    """

    def __init__(self, clouds: HeadClouds, projection: str, size: int) -> None:
        self.clouds = clouds
        self.projection = projection
        self.size = size
        self.pixels: dict[Head, np.ndarray] = {}
        self.problems: dict[Head, str] = {}
        self._numbers: dict[str, dict[Head, np.ndarray]] = {name: {} for name in OF_HEADS}

    @property
    def n_grey(self) -> int:
        """Heads read so far whose stored figures call their layout too unfaithful to be read."""
        return sum(self._is_grey(head) for head in self.pixels)

    def _is_grey(self, head: Head) -> bool:
        return self.projection == "layout" and self.clouds.is_grey(*head)  # components have no stored figures

    def reading(self, by: str) -> Iterator[int]:
        """Read what is missing for a picture coloured ``by``, a head a step; yields how many heads are done."""
        numbers = self._numbers.get(by)
        for done, head in enumerate(self.clouds.run.index, 1):
            if head in self.problems or (head in self.pixels and (numbers is None or head in numbers)):
                continue
            try:
                if head not in self.pixels:
                    self.pixels[head] = self._read(head)
                if numbers is not None:
                    numbers[head] = values(self.clouds, *head, by).astype(np.float32)
            except (AttnEngineError, ValueError) as problem:
                self.pixels.pop(head, None)
                self.problems[head] = str(problem)
            yield done

    def _read(self, head: Head) -> np.ndarray:
        cloud = self.clouds.read(*head, self.projection)  # not kept: a thousand of them would push out the open one
        return composed.pixels(cloud, self.size)

    def colours(self, by: str) -> dict[Head, Colouring]:
        """The colours of each head; lengths have a scale of their own in each, all else is on one scale."""
        if by not in OF_HEADS:
            n = len(self.clouds.tokens)
            same = np.repeat([0.0, 1.0], n) if by == "side" else np.tile(of_tokens(self.clouds, by), 2)
            return dict.fromkeys(self.pixels, colouring(self.clouds, by, same))
        numbers = self._numbers[by]
        ends = None
        if by == "entropy" and numbers:
            each = [scale(by, found) for found in numbers.values() if np.isfinite(found).any()]
            ends = (min((low for low, _ in each), default=0.0), max((high for _, high in each), default=1.0))
        return {head: colouring(self.clouds, by, found, ends) for head, found in numbers.items()}

    def cell(self, head: Head, colours: Colouring, emphasised: np.ndarray | None) -> np.ndarray:
        """(size, size) codes of one head."""
        shown = colours.known if emphasised is None else colours.known & emphasised
        look = composed.Look(colours.level, shown, colours.kind == "classes", self._is_grey(head))
        return composed.cell(self.pixels[head], look, self.size)
