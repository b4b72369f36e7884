"""--layers and --heads: the numbers of a whole run for the chosen heads, and nothing for the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import attnengine as ae
from attnengine.embedding.pipeline import embed_run
from attnengine.embedding.settings import EmbedSettings
from attnengine.errors import PlanError
from attnengine.records import Site
from attnengine.run.choice import choose
from attnengine.run.progress import Reporter
from attnengine_explorer.run_data import RunData
from tests.oracle.models import CASES

TEXT = "The cat sat on the mat, and the dog sat on the cat. Then it rained: nobody sat on anything. "
SITES = [Site(i, f"m{i}", 0, "", "self", i, 4, 2, 8, 8, 0.35, None, None, False, False) for i in range(3)]


@pytest.mark.parametrize(
    ("layers", "heads", "expected"),
    [
        (None, None, ((0, 1, 2, 3),) * 3),
        ("1", None, ((), (0, 1, 2, 3), ())),
        ("0-1", None, ((0, 1, 2, 3), (0, 1, 2, 3), ())),
        (None, "L2H3, l0h1,0.0", ((0, 1), (), (3,))),
        ("2", "L0H1", ((), (), ())),
    ],
)
def test_layers_and_heads_add_up(layers: str | None, heads: str | None, expected: Any) -> None:
    expected = ((1,), (), (0, 1, 2, 3)) if (layers, heads) == ("2", "L0H1") else expected
    assert choose(SITES, layers, heads) == expected


@pytest.mark.parametrize(
    ("layers", "heads", "message"),
    [
        ("1-", None, "numbers and ranges"),
        ("3-1", None, "numbers and ranges"),
        ("", None, "numbers and ranges"),
        (None, "5", "names such as"),
        (None, "L1H", "names such as"),
        ("7", None, "no layer 7; its layers are 0 to 2"),
        (None, "L9H0", "no layer 9"),
        (None, "L1H4", "no head L1H4; layer 1 has 4 heads"),
    ],
)
def test_what_the_model_does_not_have_says_so(layers: str | None, heads: str | None, message: str) -> None:
    with pytest.raises((PlanError, ValueError), match=message):
        choose(SITES, layers, heads)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A GQA model (4 heads, 2 key heads) whole, and L0H1, L0H2 (half of each group) with layer 1 alone."""
    case, folder = CASES["llama"], tmp_path_factory.mktemp("choice")
    texts = [TEXT * n for n in (3, 5, 2, 4)]
    made = [
        ae.analyze(case.make(None), case.reader(), texts, output=folder / name, **chosen)
        for name, chosen in (("whole", {}), ("part", {"heads": "L0H1,L0H2,L1H0"}))
    ]
    return made[0], made[1]


@pytest.mark.parametrize("name", ["heads", "neurons", "profiles", "key_tokens", "examples", "head_types", "intervals"])
def test_the_chosen_heads_have_the_numbers_of_a_whole_run(runs: Any, name: str) -> None:
    whole, part = getattr(runs[0], name), getattr(runs[1], name)
    kept = pd.Series(list(zip(whole.layer, whole["head"], strict=True))).isin([(0, 1), (0, 2), (1, 0)]).to_numpy()
    expected = whole[kept].reset_index(drop=True)
    assert 0 < len(expected) < len(whole)
    ignored = [column for column in expected if column.endswith("_q")]  # false discoveries count all heads looked at
    ignored += ["types", "type"] if name != "key_tokens" else []
    pd.testing.assert_frame_equal(
        part.drop(columns=ignored, errors="ignore"), expected.drop(columns=ignored, errors="ignore"),
        rtol=1e-4, atol=1e-5, check_dtype=False,
    )  # fmt: skip


def test_mean_patterns_keep_their_places(runs: Any) -> None:
    whole, part = runs[0].patterns, runs[1].patterns
    assert part.shape == whole.shape
    for site, head in ((0, 1), (0, 2), (1, 0)):
        np.testing.assert_allclose(part[site, head], whole[site, head], atol=1e-6)
    assert np.isnan(part[0, 0]).all()
    assert np.isnan(part[1, 1:]).all()


def test_sampled_arrays_are_indexed_by_the_models_heads(runs: Any) -> None:
    for site in (0, 1):
        np.testing.assert_array_equal(runs[1].queries(site), runs[0].queries(site))
        np.testing.assert_array_equal(runs[1].top_keys(site), runs[0].top_keys(site))


def test_a_layer_that_is_left_out_has_no_arrays_and_the_rest_of_the_house_stands(tmp_path: Path) -> None:
    case = CASES["llama"]
    run = ae.analyze(case.make(None), case.reader(), [TEXT * 4, TEXT * 3], output=tmp_path / "r", layers="1")
    assert set(run.heads.layer) == {1}
    assert not (run.path / "arrays" / "site-000").exists()
    assert run.verify() == []
    shown = RunData(run.path)
    assert {site for site, _ in shown.index} == {1}
    clouds = embed_run(run.path, EmbedSettings(clusters=False), jobs=1, reporter=Reporter(quiet=True))
    assert set(clouds.site) == {1}
