"""The tables that say where everything came from: ``sites``, ``windows``, ``documents``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from attnengine.corpus.windows import Feed
from attnengine.records import Site


def sites_frame(sites: Sequence[Site]) -> pd.DataFrame:
    """The table ``sites``."""
    frame = pd.DataFrame([asdict(site) for site in sites])
    return frame.astype({"window": "Int32", "softcap": "float64", "site": "int32", "layer": "int32"})


def windows_frame(feed: Feed) -> pd.DataFrame:
    """The table ``windows``."""
    return pd.DataFrame(
        {
            "window": np.arange(len(feed.document), dtype=np.int32),
            "document": feed.document,
            "start": feed.start,
            "n_tokens": feed.n_tokens,
        }
    )


def documents_frame(feed: Feed) -> pd.DataFrame:
    """The table ``documents``; ``n_tokens`` counts the tokens of its windows."""
    tokens = np.bincount(feed.document, weights=feed.n_tokens, minlength=len(feed.documents)).astype(np.int64)
    return pd.DataFrame(
        {
            "document": np.arange(len(feed.documents), dtype=np.int32),
            "source": [document.source for document in feed.documents],
            "byte_start": [document.byte_start for document in feed.documents],
            "byte_end": [document.byte_end for document in feed.documents],
            "n_tokens": tokens,
            "text_hash": [document.digest.hex() for document in feed.documents],
            "label": pd.Series([document.label for document in feed.documents], dtype=object),
        }
    )
