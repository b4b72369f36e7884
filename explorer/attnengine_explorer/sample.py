"""The sampled tokens of a run: which row of ``tokens`` stands where, what it says, and in which document."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from attnengine_explorer.cloud_data import visible
from attnengine_explorer.run_data import RunData

#: More positions than any window has: window · WIDTH + position names a place.
WIDTH = 1 << 32


class Sample:
    """Places of sampled tokens, sorted once. Empty for a run whose table of tokens cannot be read."""

    def __init__(self, run: RunData) -> None:
        tokens, documents = run.table("tokens"), run.table("documents")
        whole = tokens is not None and {"window", "position"} <= set(tokens.columns)
        places = np.zeros(0, dtype=np.int64)
        if tokens is not None and whole:
            places = tokens["window"].to_numpy(dtype=np.int64) * WIDTH + tokens["position"].to_numpy(dtype=np.int64)
        self._order = np.argsort(places, kind="stable")
        self._places = places[self._order]
        self._texts = tokens["text"] if tokens is not None and "text" in tokens.columns else None
        self._names: dict[int, str] = {}
        if documents is not None and {"document", "source"} <= set(documents.columns):
            names = zip(documents["document"], documents["source"], strict=True)
            self._names = {int(number): Path(str(source)).name for number, source in names}

    def rows(self, window: int, positions: np.ndarray) -> np.ndarray:
        """The rows of ``tokens`` (n,) at these positions (n,) of a window; −1 where the token was not sampled."""
        wanted = window * WIDTH + np.asarray(positions, dtype=np.int64)
        at = np.searchsorted(self._places, wanted)
        found = np.append(self._places, -1)[at] == wanted
        return np.where(found, np.append(self._order, -1)[at], -1)

    def text(self, row: int) -> str:
        """A sampled token with its spaces and line breaks made visible."""
        return visible(None if self._texts is None else self._texts.iloc[row])

    def document(self, number: int) -> str:
        """The name of a document, or its number."""
        return self._names.get(number, f"document {number}")
