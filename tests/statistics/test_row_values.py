"""Row values are the head statistics before they are averaged; one's own statistics become columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import attnengine as ae
from attnengine.bundled import bundled_model
from attnengine.errors import PlanError
from attnengine.statistics.row_pass import read_rows
from attnengine.statistics.row_values import PAIR, PAIR_KEY, PAIR_TOKEN, is_example
from attnengine_kernels import reference
from tests.kernels.oracles import make_facts, random_call
from tests.kernels.test_paths import intervals

B, L = 2, 37


def every_row(batch: int, length: int) -> torch.Tensor:
    return torch.cartesian_prod(torch.arange(batch), torch.arange(length))


@pytest.mark.parametrize("mask", ["whole", "causal", "window", "scattered"])
@pytest.mark.parametrize("kind", ["text", "images", "cross", "sink"])
def test_their_mean_is_the_head_statistic_of_the_reference(mask: str, kind: str) -> None:
    lo, hi = intervals(mask, L, L, B)
    call = random_call(lo, hi, L, h=4, hkv=2, d=8, sink=kind == "sink", bias="hiding", seed=3)
    queries = make_facts(B, L, left=2, right=3, images=kind == "images", seed=1)
    keys = make_facts(B, L, seed=2) if kind == "cross" else queries
    sums = reference.head_sums(call, queries, keys, cross=kind == "cross")
    values = read_rows(
        call, range(4), *[(queries, keys)] * 2, every_row(B, L), cross=kind == "cross", max_length=L
    ).values
    compared = [name for name in values if is_example(name)]
    assert {"entropy", "entropy_normalized", "p_max", "first_mass", "special_mass"} <= set(compared)
    assert ("induction_mass" in compared) == (kind in ("text", "sink"))
    for name in compared:
        value = values[name].double()
        number = (~value.isnan()).sum(0).double()
        torch.testing.assert_close(number, sums[f"{name}_n"].sum(0), msg=name)
        mean, expected = value.nansum(0) / number, sums[name].sum(0) / sums[f"{name}_n"].sum(0)
        torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-5, equal_nan=True, msg=name)


def test_the_pair_is_the_heaviest_key_that_is_neither_first_nor_special() -> None:
    lo, hi = intervals("causal", L, L, B)
    call, facts = random_call(lo, hi, L, h=4, hkv=2, d=8, seed=5), make_facts(B, L, right=3, seed=4)
    rows, dense = every_row(B, L), reference.pattern(call)
    values = read_rows(call, range(4), *[(facts, facts)] * 2, rows, cross=False, max_length=L).values
    assert facts.token_id is not None
    seen = 0
    for n, (w, i) in enumerate(rows.tolist()):
        allowed = [j for j in range(L) if dense.visible[w, i, j] and facts.real[w, j] and facts.counted[w, i]
                   and not facts.classes["first"][w, j] and not facts.classes["special"][w, j]]  # fmt: skip
        for head in range(4):
            if not allowed:
                assert values[PAIR][n, head].isnan()
                continue
            best = max(allowed, key=lambda j: float(dense.p[w, head, i, j]))
            assert int(values[PAIR_KEY][n, head]) == best
            assert int(values[PAIR_TOKEN][n, head]) == int(facts.token_id[w, best])
            assert float(values[PAIR][n, head]) == pytest.approx(float(dense.p[w, head, i, best]), rel=1e-4)
            seen += 1
    assert seen > 100


def models() -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    folder = bundled_model()
    return AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


TEXTS = ["The cat sat on the mat, and the dog sat on the cat. " * 3, "A list is a sequence; so is a tuple.", "One two."]


def test_ones_own_statistic_becomes_a_column_with_its_error() -> None:
    @ae.statistic("largest_again", title="p_max, by hand", low=0, high=1)
    def largest(rows: Any, _queries: Any, _keys: Any) -> Any:
        return (rows.p / rows.p.sum(-1, keepdim=True)).amax(-1)

    @ae.statistic("on_capitals_only")
    def sometimes(rows: Any, _queries: Any, _keys: Any) -> Any:
        return rows.p[..., 0].masked_fill((rows.position % 2 == 1)[:, None], torch.nan)

    run = ae.analyze(*models(), TEXTS)
    heads = run.heads
    assert len(run.tokens) == run.manifest["corpus"]["tokens"]  # all rows are sampled: the same rows
    np.testing.assert_allclose(heads.largest_again, heads.p_max, rtol=1e-5)
    np.testing.assert_allclose(heads.largest_again_se, heads.p_max_se, rtol=1e-3, atol=1e-6)
    assert (heads.largest_again_n == heads.n_queries).all()
    assert (heads.on_capitals_only_n == (run.tokens.position % 2 == 0).sum()).all()
    assert [one["name"] for one in run.manifest["own_statistics"]] == ["largest_again", "on_capitals_only"]
    assert "largest_again" in set(run.examples.statistic)


def test_a_run_goes_on_only_with_the_same_definition(tmp_path: Any) -> None:
    model, tokenizer = models()
    ae.statistic("one")(lambda rows, _q, _k: rows.p[..., 0])
    ae.analyze(model, tokenizer, TEXTS[2:], output=tmp_path / "r")
    first = ae.open_run(tmp_path / "r").manifest["plan"]
    ae.statistic("one")(lambda rows, _q, _k: rows.p[..., 0] * 2)
    with pytest.raises(PlanError):
        ae.analyze(model, tokenizer, TEXTS[2:], output=tmp_path / "r")
    assert ae.analyze(model, tokenizer, TEXTS[2:]).manifest["plan"] != first


def test_what_is_no_statistic_says_so() -> None:
    with pytest.raises(ValueError, match="identifier"):
        ae.statistic("my stat")
    with pytest.raises(ValueError, match="taken"):
        ae.statistic("entropy")
    with pytest.raises(TypeError, match="expected a function"):
        ae.statistic("fine")(3)  # type: ignore[arg-type]
    ae.statistic("wrong_shape")(lambda rows, _q, _k: rows.p)
    with pytest.raises(PlanError, match=r"statistic wrong_shape: expected a tensor \(rows, heads\)"):
        ae.analyze(*models(), TEXTS[2:])
