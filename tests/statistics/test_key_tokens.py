"""Attention received by token: a plain loop over the pattern says the same, however the windows are cut."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
import torch

from attnengine.records import Site
from attnengine.statistics.key_tokens import KeyTokens, TokenRows, key_tokens_table
from attnengine_kernels import AttentionCall, TokenFacts, head_sums, reference
from tests.kernels.oracles import make_facts, random_call

WORDS = pd.DataFrame({"token_id": [3, 5], "text": ["the", "of"]})
SITE = Site(0, "m", 0, "", "self", 0, 4, 2, 8, 8, 0.35, None, None, False, False)


def a_batch(seed: int, batch: int = 3, length: int = 23) -> tuple[AttentionCall, TokenFacts]:
    """A causal call of 4 heads over 2 key heads, padded on the right."""
    lo = torch.zeros(batch, length, dtype=torch.int32)
    hi = (torch.arange(length, dtype=torch.int32) + 1).repeat(batch, 1)
    return random_call(lo, hi, length, h=4, hkv=2, d=8, seed=seed), make_facts(batch, length, right=4, seed=seed)


def by_loop(batches: list[tuple[AttentionCall, TokenFacts]]) -> dict[int, tuple[int, float, np.ndarray]]:
    """token -> (keys, expected, mass per head), pair by pair from the fp64 pattern."""
    keys: dict[int, int] = defaultdict(int)
    expected: dict[int, float] = defaultdict(float)
    mass: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(4))
    for call, facts in batches:
        dense = reference.pattern(call)
        assert facts.token_id is not None
        for w in range(len(call.query)):
            visible = dense.visible[w] & facts.counted[w][:, None]
            for j in torch.nonzero(visible.any(0)).squeeze(1).tolist():
                token = int(facts.token_id[w, j])
                keys[token] += 1
                for i in torch.nonzero(visible[:, j]).squeeze(1).tolist():
                    expected[token] += 1 / int(visible[i].sum())
                    mass[token] += dense.p[w, :, i, j].numpy()
    return {token: (keys[token], expected[token], mass[token]) for token in keys}


def added(batches: list[tuple[AttentionCall, TokenFacts]]) -> KeyTokens:
    found = KeyTokens()
    for call, facts in batches:
        found.add(head_sums(call, facts, facts), TokenRows.of(facts, "cpu"))
    return found.on_host()


def test_mass_and_expectation_are_those_of_a_loop_over_all_pairs() -> None:
    batches = [a_batch(0), a_batch(1)]
    found, truth = added(batches), by_loop(batches)
    assert found.token_id.tolist() == sorted(truth)
    assert found.mass is not None
    for row, token in enumerate(found.token_id.tolist()):
        keys, expected, mass = truth[token]
        assert int(found.n_keys[row]) == keys
        assert float(found.expected[row]) == pytest.approx(expected, rel=1e-12)
        assert np.allclose(found.mass[row].numpy(), mass, rtol=1e-5, atol=1e-6)


def test_shards_merge_to_what_one_pass_adds_up() -> None:
    one, other = added([a_batch(0)]), added([a_batch(1)])
    both = added([a_batch(0), a_batch(1)])
    one.merge(other)
    for name in ("token_id", "n_keys", "expected", "mass"):
        assert torch.equal(getattr(one, name), getattr(both, name)), name


def test_attention_and_its_expectation_add_up_to_the_rows() -> None:
    call, facts = a_batch(2)
    found, rows = added([(call, facts)]), int(facts.counted.sum())
    assert found.mass is not None
    assert torch.allclose(found.mass.sum(0), torch.tensor(float(rows), dtype=torch.float64), rtol=1e-5)
    assert float(found.expected.sum()) == pytest.approx(rows, rel=1e-12)


def test_the_table_ranks_tokens_by_attention_above_expectation() -> None:
    found = KeyTokens(
        token_id=torch.tensor([3, 5, 9]),
        n_keys=torch.tensor([10, 10, 10]),
        expected=torch.tensor([5.0, 3.0, 2.0], dtype=torch.float64),
        mass=torch.tensor([[4.0, 0.0], [5.0, float("nan")], [1.0, 0.0]], dtype=torch.float64),
    )
    table = key_tokens_table([SITE], [found], WORDS, kept=2)
    assert table[["head", "rank", "token_id", "text"]].to_numpy().tolist() == [[0, 0, 5, "of"], [0, 1, 3, "the"]]
    assert table.share.tolist() == [0.5, 0.4]
    assert table.lift.tolist() == pytest.approx([0.5 / 0.3, 0.4 / 0.5])


def test_pictures_have_no_tokens_and_an_empty_table_keeps_its_columns() -> None:
    call, facts = a_batch(0)
    pictures = TokenFacts(facts.real, facts.counted, facts.position)
    found = KeyTokens()
    found.add(head_sums(call, pictures, pictures), TokenRows.of(pictures, "cpu"))
    assert found.tensors("x") == {}
    assert list(key_tokens_table([SITE], [found], WORDS).columns[:5]) == ["site", "layer", "kind", "stack", "head"]
