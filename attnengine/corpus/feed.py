"""What the engine needs of a corpus: windows by number, as model inputs and token facts.

``attnengine.corpus.windows.TextWindows`` is the feed for text, ``attnengine.corpus.images.ImageWindows`` the one for
pictures; the engine treats them alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from attnengine.corpus.documents import Document

if TYPE_CHECKING:
    import torch

    from attnengine_kernels.call import TokenFacts

Streams = dict[str, "TokenFacts"]
Change = Callable[["torch.Tensor"], "torch.Tensor"]


@dataclass(frozen=True)
class WindowBatch:
    """A padded batch: what the model is called with, and the facts of each stream ("" or encoder and decoder)."""

    inputs: dict[str, torch.Tensor]
    streams: Streams  # on the host, where what depends on facts only is worked out
    here: Streams  # the same where the inputs are; the same objects if that is the host

    @classmethod
    def on_host(cls, inputs: dict[str, torch.Tensor], streams: Streams) -> WindowBatch:
        """A batch whose inputs and facts lie in the host's memory."""
        return cls(inputs, streams, streams)

    def to(self, device: str, **options: Any) -> WindowBatch:
        """The batch on a device, its facts on the host too; ``options`` are those of Tensor.to."""
        if device == "cpu":
            return self

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, **options)

        inputs = {name: move(tensor) for name, tensor in self.inputs.items()}
        return WindowBatch(inputs, self.streams, changed(self.streams, move))

    def here_on(self, device: torch.device) -> Streams:
        """The facts on a device: as they are there already, or moved, where a model lies on several."""
        first = next(iter(self.here.values())).real
        if first.device == device:
            return self.here
        return changed(self.streams, lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> WindowBatch:
        """A batch of the host in memory that devices copy from without waiting."""
        inputs = {name: tensor.pin_memory() for name, tensor in self.inputs.items()}
        return WindowBatch.on_host(inputs, changed(self.streams, lambda tensor: tensor.pin_memory()))


def changed(streams: Streams, change: Change) -> Streams:
    """The facts with every tensor changed; streams that share theirs go on sharing them."""
    import torch

    known: dict[int, TokenFacts] = {}
    for one in streams.values():
        if id(one) not in known:
            tensors = {name: change(value) for name, value in vars(one).items() if isinstance(value, torch.Tensor)}
            classes = {name: change(value) for name, value in one.classes.items()}
            known[id(one)] = replace(one, **tensors, classes=classes)
    return {name: known[id(one)] for name, one in streams.items()}


class Feed(Protocol):
    """What the engine needs of a corpus: windows by number."""

    documents: Sequence[Document]
    document: np.ndarray  # (windows,) int32: the document of each window
    start: np.ndarray  # (windows,) int64: first token of the window in its document
    n_tokens: np.ndarray  # (windows,) int32: real tokens of the window, special ones included

    @property
    def left_out(self) -> dict[str, int]:
        """What of the corpus is in no window: counts by name, for the manifest."""
        ...

    def batch(self, windows: Sequence[int], device: str) -> WindowBatch:
        """Model inputs and token facts of these windows, padded on the right to the longest."""
        ...

    def describe(self, window: np.ndarray, position: np.ndarray, *, text: bool) -> pd.DataFrame:
        """The columns of table ``tokens`` for sampled (window, position) pairs."""
        ...
