"""What an embedding asks of whoever lays out a head, a worker or a GPU, and what that one reads for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from attnengine.embedding.cloud import head_vectors, read_embedding
from attnengine.embedding.faithfulness import sight
from attnengine.embedding.head import Head
from attnengine.embedding.settings import EmbedSettings
from attnengine.errors import EmbeddingError
from attnengine.opened import Run, open_run


@dataclass(frozen=True)
class Order:
    """What every worker needs to know, small enough to send to each."""

    run: Path
    settings: EmbedSettings
    digest: str
    like: Path | None = None


@lru_cache(maxsize=2)
def opened(path: Path) -> Run:
    """A run, opened once a worker."""
    return open_run(path)


def read(run: Run, site: int, head: int) -> Head:
    """A head's sample and what its queries see."""
    row = run.sites[run.sites.site == site].iloc[0]
    window = None if pd.isna(row.window) else int(row.window)
    seen = sight(run.tokens, kind=str(row.kind), window=window, top_keys=run.top_keys(site))
    queries, keys = head_vectors(run, site, head)
    return Head(queries, keys, seen, run.tokens.token_id.to_numpy(), bool(row.has_sink))


def start(order: Order, site: int, head: int) -> np.ndarray | None:
    """The picture that a warm start begins from; EmbeddingError if the other run has none of this head."""
    if order.like is None:
        return None
    found = read_embedding(opened(order.like), site, head).points
    if found.shape[1] != order.settings.dims:
        raise EmbeddingError(f"the picture to start from has {found.shape[1]} dimensions, not {order.settings.dims}")
    return found
