"""Examples are the rows that a sort of all values would pick."""

from __future__ import annotations

import numpy as np
import pandas as pd

from attnengine.records import Site
from attnengine.statistics.examples import DECILES, TOP, examples_table
from attnengine.statistics.row_values import PAIR, PAIR_KEY, PAIR_TOKEN, TOP_KEY

SITE = Site(2, "m", 0, "", "self", 1, 2, 2, 8, 8, 0.35, None, None, False, False)
N = 400


def made(documents: int) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Values of 400 rows and two heads with ties and holes, and their tokens."""
    rng = np.random.default_rng(documents)
    value = np.round(rng.random((N, 2)), 2).astype(np.float32)
    value[rng.random((N, 2)) < 0.2] = np.nan
    key = rng.integers(0, 60, (N, 2)).astype(np.float32)
    pair_token = rng.integers(0, 4, (N, 2)).astype(np.float32)
    tokens = pd.DataFrame(
        {
            "token": np.arange(N),
            "document": np.sort(rng.integers(0, documents, N)),
            "window": np.arange(N) // 8,
            "position": np.arange(N) % 8,
            "token_id": rng.integers(0, 5, N),
        }
    )
    return {"entropy": value, TOP_KEY: key, PAIR: value, PAIR_KEY: key, PAIR_TOKEN: pair_token}, tokens


def test_the_top_list_is_the_best_row_of_each_of_the_best_documents() -> None:
    values, tokens = made(documents=50)
    table = examples_table([SITE], {2: values}, tokens)
    assert set(zip(table.site, table.layer, strict=True)) == {(2, 1)}
    for head in (0, 1):
        top = table[(table["head"] == head) & (table.statistic == "entropy") & table["rank"].notna()]
        frame = tokens.assign(value=values["entropy"][:, head]).dropna()
        best = frame.sort_values(["value", "token"], ascending=[False, True]).groupby("document", sort=False).head(1)
        assert top.token.tolist() == best.token.head(TOP).tolist()
        assert top["rank"].tolist() == list(range(TOP))
        np.testing.assert_array_equal(top.key_pos, values[TOP_KEY][top.token, head])
        np.testing.assert_array_equal(top.query_pos, tokens.position.to_numpy()[top.token])
        np.testing.assert_array_equal(top.value, values["entropy"][top.token, head])


def test_with_few_documents_the_best_rows_are_taken_as_they_come() -> None:
    values, tokens = made(documents=3)
    table = examples_table([SITE], {2: values}, tokens)
    top = table[(table["head"] == 0) & (table.statistic == "entropy") & table["rank"].notna()]
    value = values["entropy"][:, 0]
    assert top.value.tolist() == np.sort(value[np.isfinite(value)])[::-1][:TOP].tolist()


def test_deciles_run_from_the_lowest_to_the_highest_value() -> None:
    values, tokens = made(documents=50)
    table = examples_table([SITE], {2: values}, tokens)
    rows = table[(table["head"] == 1) & (table.statistic == "entropy") & table.decile.notna()].sort_values("decile")
    ordered = np.sort(values["entropy"][np.isfinite(values["entropy"][:, 1]), 1])
    assert rows.decile.tolist() == list(range(DECILES))
    wanted = np.quantile(ordered, np.linspace(0, 1, DECILES), method="nearest")
    np.testing.assert_allclose(rows.value, wanted, atol=0.011)


def test_each_pair_of_tokens_is_listed_once_with_its_heaviest_row() -> None:
    values, tokens = made(documents=50)
    table = examples_table([SITE], {2: values}, tokens)
    found = table[(table["head"] == 0) & (table.statistic == PAIR)]
    frame = tokens.assign(value=values[PAIR][:, 0], other=values[PAIR_TOKEN][:, 0]).dropna()
    best = frame.sort_values(["value", "token"], ascending=[False, True]).drop_duplicates(["token_id", "other"])
    assert found.token.tolist() == best.token.head(TOP).tolist()


def test_without_a_sample_the_table_is_empty_and_keeps_its_columns() -> None:
    _, tokens = made(documents=3)
    table = examples_table([SITE], {2: {}}, tokens.iloc[:0])
    assert len(table) == 0
    assert {"statistic", "rank", "decile", "value"} <= set(table.columns)
