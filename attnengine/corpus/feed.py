"""What the engine needs of a corpus: windows by number, as model inputs and token facts.

``attnengine.corpus.windows.TextWindows`` is the feed for text, ``attnengine.corpus.images.ImageWindows`` the one for
pictures; the engine treats them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd

from attnengine.corpus.documents import Document

if TYPE_CHECKING:
    import torch

    from attnengine_kernels.call import TokenFacts


@dataclass(frozen=True)
class WindowBatch:
    """A padded batch: what the model is called with, and the facts of each stream ("" or encoder and decoder)."""

    inputs: dict[str, torch.Tensor]
    streams: dict[str, TokenFacts]


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
