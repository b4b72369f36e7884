"""Every number of a run's tables, against brute force from the model's own eager attention, for nine kinds of model.

MiniLM is the real one; the others are random with wide weights: GPT-2, LLaMA with shared key heads and several windows
a document, Mistral with a sliding window, Gemma2 with a soft-cap, GPT-OSS with learned sinks, T5 with relative bias,
BART with cross-attention, ViT with a picture that is not square.
"""

from __future__ import annotations

import numpy as np
import pytest

from attnengine.store import read_table
from tests.oracle.estimates import profile_bin
from tests.oracle.models import CASES, GPT2
from tests.oracle.tables import deviation, deviations, profiles_like, token_mass

AGREE = 1e-4  # STATISTICS.md, "Agreement in tests"
HEAD = ["site", "layer", "kind", "stack", "head"]
STRIDED = {"window": 64, "stride": 40}
KEYS = {"heads": HEAD, "neurons": [*HEAD, "neuron"], "profiles": [*HEAD, "offset_lo", "offset_hi"]}
models = pytest.mark.parametrize("name", CASES)


@models
def test_the_oracles_hooks_explain_the_models_own_pattern(name, measured):
    """Else the brute force would rest on a wrong score: softmax of what the hooks saw is what eager attention says."""
    for call in (call for calls in measured(name).oracle.calls for call in calls):
        for head in call:
            score = np.where(head.visible, head.score, -np.inf)
            sink = [] if head.sink is None else [np.full((len(score), 1), head.sink)]
            weight = np.exp(np.concatenate([score, *sink], axis=1))
            pattern = (weight / weight.sum(1, keepdims=True))[:, : score.shape[1]]
            np.testing.assert_allclose(head.pattern, pattern, rtol=0, atol=1e-5)
            assert head.pattern.max(1).mean() > 2 / score.shape[1]  # far from uniform, so that mistakes show


@models
def test_heads_equal_brute_force_in_every_column(name, measured):
    one = measured(name)
    assert wrong(deviations(counted(one.run), one.oracle.heads, KEYS["heads"])) == {}


@models
def test_neurons_equal_brute_force_in_every_column(name, measured):
    one = measured(name)
    assert wrong(deviations(one.run.neurons, one.oracle.neurons, KEYS["neurons"])) == {}


@models
def test_profiles_equal_brute_force_in_every_bin(name, measured):
    one = measured(name)
    found = one.run.profiles
    bins = sorted(set(zip(found.offset_lo.tolist(), found.offset_hi.tolist(), strict=True)))
    assert wrong(deviations(found, profiles_like(one.case, one.oracle, bins), KEYS["profiles"])) == {}


@models
def test_offset_bins_are_the_defined_ones_and_hold_every_offset(name, measured):
    one = measured(name)
    found = one.run.profiles
    bins = {(lo, hi - 1) for lo, hi in zip(found.offset_lo.tolist(), found.offset_hi.tolist(), strict=True)}
    longest = max(window.n_tokens for window in one.oracle.windows)
    offsets = range(-longest + 1, longest)
    assert {profile_bin(offset) for offset in offsets} <= bins
    assert all(profile_bin(lo) == profile_bin(hi) == (lo, hi) for lo, hi in bins)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.grid is None])
def test_profiles_sum_to_what_the_learned_sink_leaves(name, measured):
    """Not so in pictures: what prefix tokens send and receive has no offset."""
    one = measured(name)
    heads = one.run.heads[one.run.heads.kind == "self"].set_index(["site", "head"])
    whole = one.run.profiles.groupby(["site", "head"]).mass.sum()
    np.testing.assert_allclose(whole, 1 - heads.learned_sink_mass.fillna(0), atol=1e-5)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.grid is None])
def test_the_tokens_a_head_attends_to_equal_brute_force(name, measured):
    one = measured(name)
    table = one.run.key_tokens
    assert set(zip(table.site, table["head"], strict=True)) == set(zip(one.run.heads.site, one.run.heads["head"],
                                                                       strict=True))  # fmt: skip
    for (site, head), rows in table.groupby(["site", "head"]):
        truth = token_mass(one.oracle, one.case, site, head)
        whole, even = sum(mass for _, _, mass in truth.values()), sum(fair for _, fair, _ in truth.values())
        excess = sorted((mass / whole - fair / even for _, fair, mass in truth.values()), reverse=True)[: len(rows)]
        np.testing.assert_allclose(rows.share - rows.expected_share, excess, atol=1e-6)  # the best ones, in order
        told = np.array([truth[token] for token in rows.token_id])
        np.testing.assert_array_equal(rows.n_keys, told[:, 0])
        np.testing.assert_allclose(rows.expected_share, told[:, 1] / even, rtol=1e-9)
        np.testing.assert_allclose(rows.mass, told[:, 2], rtol=AGREE, atol=1e-5)
        np.testing.assert_allclose(rows.lift, told[:, 2] / whole / (told[:, 1] / even), rtol=1e-3, atol=1e-4)


def test_a_token_is_shown_as_it_is_written(measured):
    table = measured("minilm").run.key_tokens
    assert {"[SEP]", "[CLS]"} & set(table.text)
    assert table.text.map(type).eq(str).all()


@models
def test_mean_patterns_equal_brute_force(name, measured):
    one = measured(name)
    assert one.run.patterns.shape == one.oracle.patterns.shape
    assert deviation(one.run.patterns.astype(float), one.oracle.patterns, "mass") <= AGREE


@models
def test_sites_are_the_models_attention_calls_in_order(name, measured):
    one = measured(name)
    sites, case = one.run.sites, one.case
    expected = [(layer.stack, layer.kind, layer.layer, layer.module) for layer in case.layers]
    names = sites[["stack", "kind", "layer", "module"]]
    assert list(names.itertuples(index=False, name=None)) == expected
    assert set(sites.n_heads) == {case.heads}
    assert set(sites.n_kv_heads) == {case.kv_heads}
    np.testing.assert_allclose(sites.scale, case.scale, rtol=1e-6)
    assert [None if np.isnan(cap) else cap for cap in sites.softcap] == [case.softcap] * len(sites)
    assert list(sites.has_sink) == [bool(layer.sinks) for layer in case.layers]


def test_a_token_of_two_overlapping_windows_is_counted_once(measured):
    one = measured("gpt2", **STRIDED)
    tokens = sum(len(ids) for ids in GPT2.reader()(GPT2.documents(), add_special_tokens=False)["input_ids"])
    assert sum(window.n_tokens for window in one.oracle.windows) > tokens
    assert set(one.run.heads.n_queries) == {tokens}


@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_overlapping_windows_equal_brute_force_in_every_column(name, measured):
    """BART adds what GPT-2 lacks: special tokens in each window, and a decoder one step behind the counted tokens."""
    one = measured(name, **STRIDED)
    assert len(one.oracle.windows) > 6
    assert wrong(deviations(counted(one.run), one.oracle.heads, KEYS["heads"])) == {}
    assert wrong(deviations(one.run.neurons, one.oracle.neurons, KEYS["neurons"])) == {}
    assert deviation(one.run.patterns.astype(float), one.oracle.patterns, "mass") <= AGREE


@pytest.mark.parametrize("name", ["llama", "gpt_oss", "t5", "vit"])
def test_other_batches_and_shards_give_the_same_tables(name, measured, run_case):
    """Here every window is its own batch and shard, and no token is padding."""
    one = measured(name)
    other = run_case(one.case, batch_tokens=1, shard_tokens=1)
    assert len(list((other.path / "shards").glob("shard-*"))) == len(one.oracle.windows)
    for table, keys in KEYS.items():
        mine, theirs = (counted(run) if table == "heads" else getattr(run, table) for run in (other, one.run))
        assert wrong(deviations(mine, theirs, keys)) == {}


def counted(run):
    """``heads`` as it was written, without the head types that ``run.heads`` joins to it (test_head_types.py)."""
    return read_table(run.path, "heads")


def wrong(found: dict[str, float]) -> dict[str, float]:
    """The columns beyond the rule."""
    return {name: off for name, off in found.items() if not off <= AGREE}
