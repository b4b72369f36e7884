"""The tables that say where everything came from: ``sites``, ``windows``, ``documents``, and the plan's shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from attnengine.corpus.plan import Plan, squares
from attnengine.corpus.windows import Feed
from attnengine.errors import RunFormatError
from attnengine.records import Site


def sites_frame(sites: Sequence[Site]) -> pd.DataFrame:
    """The table ``sites``."""
    frame = pd.DataFrame([asdict(site) for site in sites])
    return frame.astype({"window": "Int32", "softcap": "float64", "site": "int32", "layer": "int32"})


def sites_of(table: pd.DataFrame) -> list[Site]:
    """The sites of a table ``sites``; RunFormatError if it does not hold them."""
    try:
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        found = [Site(**{str(name): value for name, value in row.items()}) for row in rows]
    except (TypeError, ValueError) as error:
        raise RunFormatError(f"sites.parquet does not hold sites ({error}); make the run again") from error
    if [site.site for site in found] != list(range(len(found))) or not found:
        raise RunFormatError("sites.parquet does not number its sites 0, 1, …; make the run again")
    return found


def shards_frame(feed: Feed, plan: Plan) -> pd.DataFrame:
    """What each shard is planned to hold: batches, windows, tokens and Σ L² (what its attention costs)."""
    windows = [np.concatenate([plan.batches[index] for index in shard]).astype(np.int64) for shard in plan.shards]
    return pd.DataFrame(
        {
            "shard": np.arange(len(plan.shards), dtype=np.int32),
            "n_batches": np.asarray([len(shard) for shard in plan.shards], np.int32),
            "n_windows": np.asarray([len(held) for held in windows], np.int64),
            "n_tokens": np.asarray([int(feed.n_tokens[held].sum()) for held in windows], np.int64),
            "sum_squared_length": np.asarray([squares(feed.n_tokens[held]) for held in windows], np.int64),
        }
    )


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


def tokens_frame(feed: Feed, plan: Plan, *, text: bool) -> pd.DataFrame:
    """The table ``tokens``; where tokens were added for a class, ``in_estimates`` says which were not."""
    frame = feed.describe(plan.sample_window, plan.sample_position, text=text)
    return frame if plan.sample_plain.all() else frame.assign(in_estimates=plan.sample_plain)


def vocabulary_frame(tokenizer: Any) -> pd.DataFrame:
    """How every entry of the vocabulary is written (token_id, text); of an image processor, which has none, no row.

    A piece of a character is no text of its own: it is shown as the tokenizer stores it.
    """
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer))) if hasattr(tokenizer, "is_fast") else []
    texts = tokenizer.batch_decode([[i] for i in range(len(pieces))]) if pieces else []
    shown = [piece if "\ufffd" in text else text for piece, text in zip(pieces, texts, strict=True)]
    return pd.DataFrame({"token_id": np.arange(len(shown), dtype=np.int64), "text": pd.Series(shown, dtype=object)})
