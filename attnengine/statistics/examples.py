"""Where it can be seen: for each head and statistic the sampled rows with the highest values, and one at each decile.

A context is a query token (row of table ``tokens``) and the key it attends to most. Of a document at most one row is
taken for a top list, as long as there are documents enough, so that ten examples are ten places and not one. Ties fall
to the earlier row. ``statistic`` "pair" lists the heaviest (query, key) pairs among keys that are neither the first
nor a special token, each pair of tokens once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from attnengine.records import Site
from attnengine.statistics.catalogue import HEADS
from attnengine.statistics.row_values import PAIR, PAIR_KEY, PAIR_TOKEN, TOP_KEY, is_example

TOP = 10
DECILES = 10  # decile d is the row at place d/9 of the sorted values: 0 the lowest, 9 the highest
COLUMNS = (
    "site", "layer", "kind", "stack", "head", "statistic", "rank", "decile", "token", "document", "window",
    "query_pos", "key_pos", "value",
)  # fmt: skip
Array = np.ndarray
Rows = Mapping[str, Array]


def examples_table(sites: Sequence[Site], values: Mapping[int, Rows], tokens: pd.DataFrame) -> pd.DataFrame:
    """The table ``examples``.

    ``values[site]`` has name -> (n, h) of :func:`.row_values.row_values`, row n being row n of ``tokens``; without a
    sample it is empty. ``rank`` counts a top list from 0 and ``decile`` is null there, and the other way round.
    """
    frames, document, token_id = [], tokens.document.to_numpy(), tokens.token_id.to_numpy()
    for site in sites:
        mine = values.get(site.site, {})
        for name in sorted(filter(is_example, mine), key=_place):  # shard files keep no order
            picked = [_of_statistic(mine[name][:, head], document) for head in range(mine[name].shape[1])]
            frames.append(_frame(site, name, picked, mine[name], mine[TOP_KEY], tokens))
        if mine:
            picked = [_of_pairs(mine, head, token_id) for head in range(mine[PAIR].shape[1])]
            frames.append(_frame(site, PAIR, picked, mine[PAIR], mine[PAIR_KEY], tokens))
    found = [frame for frame in frames if len(frame)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=list(COLUMNS))


def _place(name: str) -> tuple[int, str]:
    """Statistics in the order of the table ``heads``, then one's own by name."""
    return list(HEADS).index(name) if name in HEADS else len(HEADS), name


Picked = tuple[Array, Array]  # rows, and their rank >= 0, or −1 − decile


def _of_statistic(value: Array, document: Array) -> Picked:
    used = np.flatnonzero(np.isfinite(value))
    if not len(used):
        return used, used
    order = used[np.argsort(-value[used], kind="stable")]  # highest first, ties by row
    first = np.sort(np.unique(document[order], return_index=True)[1])  # of each document its highest row
    top = order[first if len(first) >= TOP else slice(None)][:TOP]
    places = np.rint(np.linspace(len(order) - 1, 0, DECILES)).astype(np.int64)
    rows = np.concatenate([top, order[places]])
    return rows, np.concatenate([np.arange(len(top)), -1 - np.arange(DECILES)])


def _of_pairs(values: Rows, head: int, token_id: Array) -> Picked:
    weight = values[PAIR][:, head]
    used = np.flatnonzero(np.isfinite(weight))
    order = used[np.argsort(-weight[used], kind="stable")]
    which = np.stack([token_id[order], values[PAIR_TOKEN][order, head].astype(np.int64)], axis=1)
    unnamed = which[:, 1] < 0  # patches have no token: every pair is one of its own
    which[unnamed, 0] = -1 - order[unnamed]
    first = np.sort(np.unique(which, axis=0, return_index=True)[1])[:TOP] if len(order) else order
    return order[first], np.arange(len(first))


def _frame(
    site: Site, name: str, picked: Sequence[Picked], value: Array, key: Array, tokens: pd.DataFrame
) -> pd.DataFrame:
    rows = np.concatenate([one for one, _ in picked])
    place = np.concatenate([one for _, one in picked])
    head = np.repeat(np.arange(len(picked)), [len(one) for one, _ in picked])
    at = tokens.iloc[rows]
    return pd.DataFrame(
        {
            "site": np.int32(site.site),
            "layer": np.int32(site.layer),
            "kind": site.kind,
            "stack": site.stack,
            "head": head.astype(np.int32),
            "statistic": name,
            "rank": pd.arrays.IntegerArray(place.astype(np.int32), place < 0),
            "decile": pd.arrays.IntegerArray((-1 - place).astype(np.int32), place >= 0),
            "token": at.token.to_numpy(),
            "document": at.document.to_numpy(),
            "window": at.window.to_numpy(),
            "query_pos": at.position.to_numpy(),
            "key_pos": key[rows, head].astype(np.int32),
            "value": value[rows, head].astype(np.float64),
        },
        columns=list(COLUMNS),
    )
