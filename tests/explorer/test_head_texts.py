"""The open head in words: types, key tokens and examples say what the tables on disk say."""

from __future__ import annotations

import numpy as np
import pytest

from attnengine_explorer.head_texts import example_rows, example_statistics, key_token_rows, sentence, type_rows
from attnengine_explorer.run_data import RunData
from tests.explorer.synthetic_run import site, write_run
from tests.explorer.synthetic_tables import with_derived

SITES = [site(0, 0, heads=3), site(1, 0, heads=2, kind="cross")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return RunData(with_derived(write_run(tmp_path_factory.mktemp("texts") / "run", SITES, n_tokens=200)))


def test_types_are_ordered_by_what_they_are_above_chance_and_say_the_tables_numbers(run):
    shown = type_rows(run, 0, 1)
    row = run.run.heads.query("site == 0 and head == 1").iloc[0]
    expected = sorted(run.type_titles, key=lambda name: -(row[f"{name}_score"] - row[f"{name}_null"]))
    assert [one["title"] for one in shown] == [run.type_titles[name].removesuffix(" head") for name in expected]
    for name, one in zip(expected, shown, strict=True):
        assert float(one["score"]) == pytest.approx(row[f"{name}_score"], abs=5e-4)
        assert float(one["null"]) == pytest.approx(row[f"{name}_null"], abs=5e-4)
        assert one["typed"] == (name in row.types.split(","))
        assert one["bar"][1:3] == [pytest.approx(row[f"{name}_{end}"], abs=1e-4) for end in ("lo", "hi")]


def test_key_tokens_stand_with_their_share_their_base_rate_and_the_lift(run):
    shown = key_token_rows(run, 0, 2)
    table = run.run.key_tokens.query("site == 0 and head == 2").sort_values("rank")
    assert [one["n"] for one in shown] == [str(n) for n in table.n_keys]
    assert [float(one["lift"]) for one in shown] == pytest.approx(list(table.lift), rel=0.01)
    assert [float(one["share"]) for one in shown] == pytest.approx(list(100 * table.share), rel=0.01)
    assert shown[0]["bar"] == [1.0, pytest.approx(table.expected_share.iloc[0] / table.share.iloc[0], abs=1e-4)]


def test_examples_are_top_rows_then_deciles_from_the_highest_and_pairs_stand_alone(run):
    shown = example_rows(run, 0, 0, "entropy")
    table = run.run.examples.query("site == 0 and head == 0 and statistic == 'entropy'")
    assert [one["top"] for one in shown] == [True] * 10 + [False] * 10
    assert [one["token"] for one in shown[:10]] == list(table[table["rank"].notna()].sort_values("rank").token)
    assert [one["place"] for one in shown[10:]] == [f"{d}/9" for d in range(9, -1, -1)]
    assert len(example_rows(run, 0, 0, "pair")) == 10
    assert example_statistics(run)[0] == ("pair", "Heaviest pairs of tokens")
    assert isinstance(example_rows(run, 0, 0, "no_such"), str)


def test_an_examples_sentence_holds_its_query_and_the_stored_weights_at_their_places(run):
    tokens = run.run.tokens
    for one in run.run.examples.query("site == 0 and head == 1").itertuples():
        parts = sentence(run, 0, 1, one)
        query = next(part for part in parts if part.get("query"))
        assert query["position"] == one.query_pos == tokens.position[one.token]
        keys, weights = run.run.top_keys(0)[one.token, 1], run.run.top_weights(0)[one.token, 1]
        stored = dict(zip(keys.tolist(), weights.tolist(), strict=True))
        for part in (part for part in parts if "gap" not in part):
            row = tokens[(tokens.window == one.window) & (tokens.position == part["position"])]
            assert len(row) == 1
            assert part.get("weight") == (pytest.approx(stored[part["position"]], abs=1e-4)
                                          if part["position"] in stored else None)  # fmt: skip


def test_keys_of_cross_attention_are_not_taken_for_tokens_of_the_query_s_text(run):
    one = next(run.run.examples.query("site == 1").itertuples())
    assert not any("weight" in part for part in sentence(run, 1, 0, one))


def test_a_sample_finds_rows_by_place_and_says_where_there_is_none(run):
    tokens = run.run.tokens
    assert run.sample.rows(int(tokens.window[17]), np.array([tokens.position[17]])).tolist() == [17]
    assert run.sample.rows(99, np.array([0, 1])).tolist() == [-1, -1]
    assert run.sample.document(0) == "report-0.txt"
    assert run.sample.document(77) == "document 77"


def test_a_run_without_these_tables_says_so(tmp_path):
    bare = RunData(write_run(tmp_path / "run", SITES[:1], n_tokens=20))
    assert type_rows(bare, 0, 0) == []
    assert example_statistics(bare) == []
    for found in (key_token_rows(bare, 0, 0), example_rows(bare, 0, 0, "pair")):
        assert found.startswith("This run keeps no")
