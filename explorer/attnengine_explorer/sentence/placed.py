"""The queries and keys of a typed sentence among the points of a head's stored cloud."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnengine.model.sentence import Sentence
from attnengine.opened import Run
from attnengine_explorer.sentence.tokens import labels


@dataclass(frozen=True)
class Placed:
    """Places of a sentence's tokens in the cloud of (site, head): queries first, then keys.

    points: (m, dims) fp32 in the cloud's coordinates. side: (m,) uint8, 0 for a query, 1 for a key. position: (m,)
    place in the sentence. labels: (m,) how the tokens are written.
    """

    site: int
    head: int
    points: np.ndarray
    side: np.ndarray
    position: np.ndarray
    labels: list[str]


def placed(run: Run, sentence: Sentence, site: int, head: int) -> Placed:
    """Place a sentence in a head's cloud, each vector by itself (attnengine.embedding.transform).

    Raises EmbeddingError if the run, or the head, has no cloud, or one that takes no new points.
    """
    call = sentence.attentions[site]
    queries = call.queries_of(head).astype(np.float32)
    keys = call.keys_of(head).astype(np.float32)
    points = run.embedding(site, head).transform(queries, keys)
    return Placed(
        site,
        head,
        points,
        np.repeat(np.array([0, 1], dtype=np.uint8), [len(queries), len(keys)]),
        np.concatenate([np.arange(len(queries)), np.arange(len(keys))]),
        labels(sentence.query_tokens(site)) + labels(sentence.key_tokens(site)),
    )
