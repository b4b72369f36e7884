"""What was lassoed: which tokens, where they stand, how they attend to one another, and which neurons carry that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnengine.embedding.cloud import head_vectors
from attnengine.embedding.clusters import TELLING, log_odds
from attnengine.errors import RunFormatError
from attnengine_explorer.points.attended import Among, among
from attnengine_explorer.points.heads import HeadClouds

TOP_TOKENS = 12
TOP_DOCUMENTS = 5
TOP_NEURONS = 8
#: Attention among lassoed points is asked of so many queries, drawn evenly from them.
MOST_QUERIES = 20_000
POSITION_BINS = 24
NEURON_FORMULA = "c · mean q_d of lassoed queries · (mean k_d of lassoed keys − mean k_d of all sampled keys)"


@dataclass(frozen=True)
class Neurons:
    """Contribution of each neuron (d,) to the score of lassoed pairs, above that of the same queries with any key."""

    contribution: np.ndarray

    @property
    def total(self) -> float:
        """Mean score of the lassoed pairs less the mean score of lassoed queries with all sampled keys."""
        return float(self.contribution.sum())

    def largest(self) -> list[tuple[int, float]]:
        """(neuron, contribution) by size, at most :data:`TOP_NEURONS`."""
        order = np.argsort(-np.abs(self.contribution), kind="stable")[:TOP_NEURONS]
        return [(int(d), float(self.contribution[d])) for d in order]


@dataclass(frozen=True)
class Summary:
    """queries, keys: how many lassoed points of either side. tokens: (text, count, in the sample, log-odds in standard
    errors). documents: (name, count, share of the lassoed). positions: counts (POSITION_BINS,) up to ``last_position``;
    quartiles of the positions. attention and neurons are None where the run stores too little.
    """

    queries: int
    keys: int
    tokens: tuple[tuple[str, int, int, float], ...]
    documents: tuple[tuple[str, int, float], ...]
    n_documents: int
    positions: np.ndarray
    last_position: int
    quartiles: tuple[float, float, float]
    attention: Among | None
    neurons: Neurons | None


def summarise(clouds: HeadClouds, site: int, head: int, chosen: np.ndarray) -> Summary:
    """The summary of ``chosen`` (2n,) bool points of a head, queries then keys; at least one must be chosen."""
    n = len(clouds.tokens)
    is_query, is_key = chosen[:n], chosen[n:]
    rows = np.concatenate([np.flatnonzero(is_query), np.flatnonzero(is_key)])
    position = clouds.tokens.position[rows]
    last = int(clouds.tokens.position.max())
    return Summary(
        queries=int(is_query.sum()),
        keys=int(is_key.sum()),
        tokens=top_tokens(clouds, rows),
        documents=top_documents(clouds, rows),
        n_documents=len(np.unique(clouds.tokens.document[rows])),
        positions=np.histogram(position, bins=POSITION_BINS, range=(0, last + 1))[0],
        last_position=last,
        quartiles=tuple(float(q) for q in np.percentile(position, (25, 50, 75))),  # type: ignore[arg-type]
        attention=attention(clouds, site, head, is_query, is_key),
        neurons=neurons(clouds, site, head, is_query, is_key),
    )


def top_tokens(clouds: HeadClouds, rows: np.ndarray) -> tuple[tuple[str, int, int, float], ...]:
    """The tokens that mark the lassoed points against all points of the head, by log-odds (as clusters are named)."""
    vocabulary = clouds.tokens.vocabulary
    codes = vocabulary.codes[rows]
    count = np.bincount(codes[codes >= 0], minlength=len(vocabulary.texts)).astype(np.float64)
    kept = vocabulary.codes[vocabulary.codes >= 0]
    everywhere = 2.0 * np.bincount(kept, minlength=len(count))  # each token is there as a query and as a key
    if not count.sum():
        return ()
    odds = log_odds(count, everywhere)
    top = [t for t in np.argsort(-odds, kind="stable")[:TOP_TOKENS] if odds[t] > TELLING]
    return tuple((str(vocabulary.texts[t].as_py()), int(count[t]), int(everywhere[t]), float(odds[t])) for t in top)


def top_documents(clouds: HeadClouds, rows: np.ndarray) -> tuple[tuple[str, int, float], ...]:
    """The documents most lassoed points come from."""
    found, counts = np.unique(clouds.tokens.document[rows], return_counts=True)
    names = clouds.documents
    order = np.lexsort((found, -counts))[:TOP_DOCUMENTS]
    return tuple((names.get(int(found[i]), str(found[i])), int(counts[i]), float(counts[i] / len(rows))) for i in order)


def attention(clouds: HeadClouds, site: int, head: int, is_query: np.ndarray, is_key: np.ndarray) -> Among | None:
    """How much lassoed queries attend to lassoed keys; None if the run stores no top keys."""
    queries = np.flatnonzero(is_query)
    if len(queries) > MOST_QUERIES:
        queries = queries[np.linspace(0, len(queries) - 1, MOST_QUERIES).astype(np.int64)]
    try:
        return among(clouds, site, head, queries, is_key)
    except RunFormatError:
        return None


def neurons(clouds: HeadClouds, site: int, head: int, is_query: np.ndarray, is_key: np.ndarray) -> Neurons | None:
    """Which neurons of q ⊙ k carry the lassoed pairs; None unless both sides are there.

    A vector added to every key changes no pattern, so a key counts by what it differs from the mean sampled key: the
    mean over all lassoed pairs (i, j) of c q_id (k_jd − k̄_d), which is c · mean(q_d) · (mean(k_d) − k̄_d).
    """
    if not (is_query.any() and is_key.any()):
        return None
    queries, keys = head_vectors(clouds.run.run, site, head)
    q = queries[is_query].mean(axis=0, dtype=np.float64)
    k = keys[is_key].mean(axis=0, dtype=np.float64) - keys.mean(axis=0, dtype=np.float64)
    return Neurons(clouds.run.sites[site].scale * q * k)
