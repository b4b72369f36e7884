"""Pictures as windows: one image is one window of patches, after the model's prefix tokens (CLS, registers)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from attnengine.corpus.documents import Corpus, Document
from attnengine.corpus.feed import WindowBatch

if TYPE_CHECKING:
    import torch


class ImageWindows:
    """Images through the model's own processor.

    ``grid`` is (rows, columns) of patches and ``prefix`` the number of tokens before the first patch; the model's
    dry forward gives their sum.
    """

    def __init__(self, documents: Sequence[Document], processor: Any, *, grid: tuple[int, int], prefix: int) -> None:
        self.documents, self.processor, self.grid, self.prefix = documents, processor, grid, prefix
        n = len(documents)
        self.document = np.arange(n, dtype=np.int32)
        self.start = np.zeros(n, dtype=np.int64)
        self.n_tokens = np.full(n, prefix + grid[0] * grid[1], dtype=np.int32)

    @property
    def left_out(self) -> dict[str, int]:
        """What of the corpus is in no window, counted."""
        return dict(self.documents.left_out) if isinstance(self.documents, Corpus) else {}

    def pixels(self, windows: Sequence[int], device: str) -> torch.Tensor:
        """(b, channels, height, width) as the model's processor makes them."""
        pictures = [self.documents[window].picture() for window in windows]
        values: torch.Tensor = self.processor(images=pictures, return_tensors="pt")["pixel_values"]
        return values.to(device)

    def batch(self, windows: Sequence[int], device: str) -> WindowBatch:
        """Pixels and token facts; patches carry (row, column), prefix tokens are special and have no position."""
        import torch

        from attnengine_kernels.call import TokenFacts

        index = np.arange(self.prefix + self.grid[0] * self.grid[1]) - self.prefix
        patch = np.stack([index // self.grid[1], index % self.grid[1]], axis=-1)
        patch[index < 0] = -1
        position = np.maximum(index, -1)

        def every(array: np.ndarray) -> torch.Tensor:
            tensor = torch.from_numpy(np.ascontiguousarray(array))
            return tensor.expand(len(windows), *tensor.shape).contiguous()

        real = every(np.ones(len(index), dtype=bool))
        facts = TokenFacts(
            real=real,
            counted=real,
            position=every(position.astype(np.int32)),
            classes={"first": every(np.arange(len(index)) == 0), "special": every(index < 0)},
            patch=every(patch.astype(np.int32)),
        )
        return WindowBatch.on_host({"pixel_values": self.pixels(windows, "cpu")}, {"": facts}).to(device)

    def describe(self, window: np.ndarray, position: np.ndarray, *, text: bool) -> pd.DataFrame:
        """The columns of table ``tokens``: patches are named by row and column, prefix tokens are special."""
        index = position.astype(np.int64) - self.prefix
        inside = index >= 0
        row, col = np.where(inside, index // self.grid[1], -1), np.where(inside, index % self.grid[1], -1)
        names = [f"r{r}c{c}" if r >= 0 else f"[prefix {p}]" for r, c, p in zip(row, col, position, strict=True)]
        nothing = np.full(len(window), -1, np.int64)
        return pd.DataFrame(
            {
                "token": np.arange(len(window), dtype=np.int64),
                "document": self.document[window],
                "window": window.astype(np.int32),
                "position": position.astype(np.int32),
                "token_id": nothing,
                "text": pd.Series(names if text else None, index=range(len(window)), dtype=object),
                "text_start": nothing,
                "text_end": nothing,
                "is_first": position == 0,
                "is_special": ~inside,
                "is_punctuation": np.zeros(len(window), dtype=bool),
                "row": row.astype(np.int32),
                "col": col.astype(np.int32),
            }
        )


def patch_grid(config: Any, pixels: tuple[int, int], n_tokens: int) -> tuple[tuple[int, int], int]:
    """((rows, columns), prefix) from the patch size and what the dry forward saw.

    Raises ValueError if the tokens cannot be a grid of patches behind a few prefix tokens.
    """
    size = getattr(config, "patch_size", None)
    if size is None:
        raise ValueError("the model's configuration has no patch_size, so its tokens cannot be placed in the image")
    tall, wide = (size, size) if isinstance(size, int) else (size[0], size[1])
    grid = (pixels[0] // tall, pixels[1] // wide)
    prefix = n_tokens - grid[0] * grid[1]
    if prefix < 0:
        raise ValueError(f"{n_tokens} tokens are fewer than the {grid[0]}×{grid[1]} patches of the image")
    return grid, prefix
