"""The reference against something that is not torch: sums worked by hand, and loops over the definitions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from attnengine_kernels.call import AttentionCall, HeadSums, TokenFacts, empty_facts
from attnengine_kernels.reference import head_sums, pattern
from attnengine_kernels.sums import profile_edges
from tests.kernels.oracles import make_facts, random_call


def whole(batch: int, n_query: int, n_key: int) -> tuple[torch.Tensor, torch.Tensor]:
    lo = torch.zeros(batch, n_query, dtype=torch.int32)
    return lo, lo + n_key


def test_a_head_whose_queries_are_zero_spreads_evenly() -> None:
    lo, hi = whole(1, 16, 16)
    call = replace(random_call(lo, hi, 16, h=1), query=torch.zeros(1, 1, 16, 16))
    facts = empty_facts(1, 16)
    sums = head_sums(call, facts, facts)
    mean = {name: float(sums[name] / sums[f"{name}_n"]) for name in ("entropy", "p_max", "first_mass", "distance_mean")}
    assert mean["entropy"] == pytest.approx(math.log(16))
    assert mean["p_max"] == pytest.approx(1 / 16)
    assert mean["first_mass"] == pytest.approx(1 / 16)
    assert mean["distance_mean"] == pytest.approx(sum(abs(i - j) for i in range(16) for j in range(16)) / 256)
    assert float(sums["entropy_normalized"] / sums["entropy_normalized_n"]) == pytest.approx(1.0)
    assert float(sums["received_gini"]) == pytest.approx(0.0, abs=1e-12)
    assert float(sums["offset_mean"]) == pytest.approx(0.0, abs=1e-12)


def test_a_causal_head_of_two_tokens_by_hand() -> None:
    """Scores 0 and log 3 for the second row: p = (1/4, 3/4)."""
    call = AttentionCall(
        query=torch.tensor([[[[2.0], [1.0]]]]), key=torch.tensor([[[[0.0], [math.log(3)]]]]),
        value=torch.ones(1, 1, 2, 1),
        lo=torch.zeros(1, 2, dtype=torch.int32), hi=torch.tensor([[1, 2]], dtype=torch.int32), scale=1.0,
    )  # fmt: skip
    facts = empty_facts(1, 2)
    sums = {name: value.flatten().tolist() for name, value in head_sums(call, facts, facts).items()}
    assert sums["entropy"] == pytest.approx([-0.25 * math.log(0.25) - 0.75 * math.log(0.75)])
    assert sums["first_mass"] == pytest.approx([1.25])
    assert sums["self_mass"] == pytest.approx([1.75])
    assert sums["previous_mass"] + sums["previous_mass_n"] == pytest.approx([0.25, 1.0])
    assert sums["next_mass"] + sums["next_mass_n"] == [0.0, 0.0]
    assert sums["offset_mean"] == pytest.approx([0.25])
    assert sums["qk"] + sums["qk_max"] == pytest.approx([math.log(3)] * 2)
    assert sums["qk_attended"] == pytest.approx([0.75 * math.log(3)])
    assert sums["share"] == pytest.approx([math.log(3) ** 2 / 4])
    assert sums["value_weighted_first_mass"] == pytest.approx([1.25])


def loops(call: AttentionCall, facts: TokenFacts, w: int, h: int, edges: list[tuple[int, int]]) -> dict[str, object]:
    """Sums of one head by the definitions, one pair at a time, in Python's own numbers."""
    length, d = call.query.shape[2:]
    q, k, v = (x[w, h].double().tolist() for x in (call.query, call.key, call.value))
    lo, hi, counted, position = (x[w].tolist() for x in (call.lo, call.hi, facts.counted, facts.position))
    real, tokens, sentence = facts.real[w].tolist(), facts.token_id[w].tolist(), facts.sentence[w].tolist()
    rows = [i for i in range(length) if counted[i] and lo[i] < hi[i]]
    see = {i: range(lo[i], hi[i]) for i in rows}
    dot = {(i, j): call.scale * math.fsum(a * b for a, b in zip(q[i], k[j], strict=True)) for i in rows for j in see[i]}
    s = {pair: call.softcap * math.tanh(x / call.softcap) for pair, x in dot.items()}
    z = {i: math.exp(float(call.sink[h])) + math.fsum(math.exp(s[i, j]) for j in see[i]) for i in rows}
    p = {(i, j): math.exp(s[i, j]) / z[i] for i, j in s}
    hat = {i: {j: p[i, j] / math.fsum(p[i, m] for m in see[i]) for j in see[i]} for i in rows}
    targets = {
        "self": lambda i, j: i == j,
        "previous": lambda i, j: j == i - 1,
        "next": lambda i, j: j == i + 1,
        "same_token": lambda i, j: tokens[i] == tokens[j] and i != j,
        "induction": lambda i, j: j > 0 and real[j - 1] and tokens[j - 1] == tokens[i] and j not in (i, i + 1),
        "cross_sentence": lambda i, j: sentence[i] != sentence[j] and -1 not in (sentence[i], sentence[j]),
        "special": lambda i, j: bool(facts.classes["special"][w, j]),
    }
    out: dict[str, object] = {
        "entropy": -sum(x * math.log(x) for i in rows for x in hat[i].values()),
        "p_max": sum(max(hat[i].values()) for i in rows),
        "offset_mean": sum(x * (position[i] - position[j]) for i in rows for j, x in hat[i].items()),
        "distance_mean": sum(x * abs(i - j) for i in rows for j, x in hat[i].items()),
        "learned_sink_mass": sum(math.exp(float(call.sink[h])) / z[i] for i in rows),
        "score_mean": sum(s.values()),
        "score_m2": sum((x - sum(s.values()) / len(s)) ** 2 for x in s.values()),
        "query_norm": sum(math.hypot(*q[i]) for i in rows),
        "key_norm": sum(math.hypot(*k[j]) for j in range(length) if counted[j]),
        "qk_cosine": sum(x / call.scale / math.hypot(*q[i]) / math.hypot(*k[j]) for (i, j), x in dot.items()),
        "n_pairs": len(s),
        "n_queries": len(rows),
        "profile": [sum(x for (i, j), x in p.items() if a <= i - j < b) for a, b in edges],
        "profile_n": [sum(any(a <= i - j < b for j in see[i]) for i in rows) for a, b in edges],
    }
    for name, target in targets.items():
        hit = [(i, j) for i, j in p if real[j] and target(i, j)]
        out[f"{name}_mass"] = sum(p[pair] for pair in hit)
        out[f"{name}_mass_n"] = len({i for i, _ in hit})
    first = real.index(True)
    heavy = {i: sum(p[i, j] * math.hypot(*v[j]) for j in see[i]) for i in rows}
    out["value_weighted_first_mass"] = sum(p.get((i, first), 0.0) * math.hypot(*v[first]) / heavy[i] for i in rows)
    fair = {j: [1 / len(see[i]) for i in rows if j in see[i]] for j in range(length) if real[j]}
    a = [sum(p[i, j] for i in rows if j in see[i]) / sum(seen) for j, seen in fair.items() if len(seen) >= 8]
    uneven = sum(abs(x - y) for x in a for y in a)
    out["received_gini"] = uneven / (2 * len(a) * sum(a)) * len(a) if a else 0.0
    x = {(i, j): [q[i][e] * k[j][e] for e in range(d)] for i, j in p}
    for e in range(d):
        attended = sum(hat[i][j] * x[i, j][e] for i, j in x)
        moments = {
            "qk": sum(one[e] for one in x.values()),
            "qk_m2": sum((one[e] - sum(y[e] for y in x.values()) / len(x)) ** 2 for one in x.values()),
            "qk_min": min(one[e] for one in x.values()),
            "qk_max": max(one[e] for one in x.values()),
            "qk_positive": sum(one[e] > 0 for one in x.values()),
            "qk_attended": attended,
            "qk_attended_m2": sum(hat[i][j] * (x[i, j][e] - attended / len(rows)) ** 2 for i, j in x),
            "share": call.scale
            * sum(covariance([x[i, j][e] for j in see[i]], [dot[i, j] for j in see[i]]) for i in rows),
            "distance_qk_co": len(x) * covariance([one[e] for one in x.values()], [abs(i - j) for i, j in x]),
        }
        for name, value in moments.items():
            out.setdefault(name, []).append(value)  # type: ignore[attr-defined]
    return out


def covariance(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True)) / len(x) - sum(x) / len(x) * sum(y) / len(y)


@pytest.mark.parametrize("mask", ["whole", "causal", "window"])
def test_loops_over_the_definitions_give_the_same_numbers(mask: str) -> None:
    length = 12
    i = torch.arange(length, dtype=torch.int32).repeat(2, 1)
    lo = (i - 3).clamp(min=0) if mask == "window" else torch.zeros_like(i)
    hi = torch.full_like(i, length) if mask == "whole" else i + 1
    hi[1, 4] = lo[1, 4]  # a row that sees nothing
    call = random_call(lo, hi, length, h=2, hkv=2, d=3, dv=4, sink=True, softcap=3.0)
    facts = make_facts(2, length)
    sums = head_sums(call, facts, facts)
    for w in range(2):
        for h in range(2):
            for name, value in loops(call, facts, w, h, profile_edges(length)).items():
                got = sums[name][w] if sums[name].shape[:2] != (2, 2) or name == "profile_n" else sums[name][w, h]
                assert got.tolist() == pytest.approx(value, rel=1e-9, abs=1e-9), (name, w, h)


def test_sums_that_must_fit_each_other() -> None:
    lo, hi = whole(2, 20, 20)
    call, facts = random_call(lo, hi, 20, h=4, hkv=2), make_facts(2, 20)
    sums: HeadSums = head_sums(call, facts, facts)
    rows = sums["n_queries"][:, None]
    torch.testing.assert_close(sums["share"].sum(-1), sums["share_n"])
    torch.testing.assert_close(sums["profile"].sum(-1), rows.expand(2, 4))
    torch.testing.assert_close(sums["pattern"].sum((-1, -2)), rows.expand(2, 4))
    torch.testing.assert_close(sums["qk"].sum(-1) * call.scale, sums["score_mean"])
    torch.testing.assert_close(sums["distance_qk"], sums["qk"])
    lse = pattern(call).lse.masked_fill(~facts.counted[:, None], 0.0).sum(-1)
    torch.testing.assert_close(sums["entropy"], lse - call.scale * sums["qk_attended"].sum(-1))


def test_images_measure_distance_in_patches_and_leave_prefix_tokens_out() -> None:
    facts = make_facts(1, 11, images=True)  # 2 prefix tokens, 9 patches
    lo, hi = whole(1, 11, 11)
    call = replace(random_call(lo, hi, 11, h=1), query=torch.zeros(1, 1, 11, 16))
    sums = head_sums(call, facts, facts)
    spots = facts.patch[0, 2:].double()
    rows = facts.counted[0, 2:]
    assert float(sums["distance_mean"]) == pytest.approx(float(torch.cdist(spots, spots)[rows].mean(1).sum()))
    assert float(sums["distance_mean_n"]) == int(rows.sum())
    assert float(sums["profile"].sum()) == pytest.approx(int(rows.sum()) * 9 / 11)
    assert "same_token_mass" not in sums


def test_cross_attention_has_no_offsets() -> None:
    lo, hi = whole(1, 5, 9)
    queries, keys = make_facts(1, 5), make_facts(1, 9, seed=1)
    sums = head_sums(random_call(lo, hi, 9), queries, keys, cross=True)
    absent = {
        "self_mass",
        "offset_mean",
        "distance_mean",
        "profile",
        "profile_n",
        "distance_qk_co",
        "cross_sentence_mass",
    }
    assert not absent & set(sums)
    assert {"same_token_mass", "pattern", "entropy"} <= set(sums)


def test_a_row_that_sees_nothing_counts_as_empty_and_nowhere_else() -> None:
    lo, hi = whole(1, 6, 6)
    hi[0, 2] = 0
    facts = empty_facts(1, 6)
    sums = head_sums(random_call(lo, hi, 6), facts, facts)
    assert (float(sums["n_empty_rows"]), float(sums["n_queries"]), float(sums["entropy_n"][0, 0])) == (1, 5, 5)


def test_a_lse_that_was_given_shows_its_defect() -> None:
    lo, hi = whole(1, 6, 6)
    call, facts = random_call(lo, hi, 6), empty_facts(1, 6)
    wrong = pattern(call).lse + 0.01
    sums = head_sums(replace(call, lse=wrong.float()), facts, facts)
    torch.testing.assert_close(
        sums["mass_defect_max"], torch.full((1, 2), 1 - math.exp(-0.01)).double(), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(sums["entropy"], head_sums(call, facts, facts)["entropy"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": torch.zeros(1, 2, 6, 8)}, "key: expected shape"),
        ({"lo": torch.zeros(1, 5, dtype=torch.int32)}, "lo: expected shape"),
        ({"query": torch.zeros(1, 3, 6, 16)}, "query heads: expected a multiple"),
        ({"bias": torch.zeros(1, 2, 6, 5)}, "bias: expected shape"),
        ({"softcap": 0.0}, "softcap: expected a positive number"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: dict[str, object], message: str) -> None:
    lo, hi = whole(1, 6, 6)
    call = replace(random_call(lo, hi, 6, h=2, hkv=2), **change)
    with pytest.raises(ValueError, match=message):
        head_sums(call, empty_facts(1, 6), empty_facts(1, 6))


def test_a_bias_that_hides_different_pairs_in_different_heads_is_refused() -> None:
    lo, hi = whole(1, 6, 6)
    bias = torch.zeros(1, 2, 6, 6)
    bias[0, 1, 2, 3] = -torch.inf
    with pytest.raises(ValueError, match="same pairs in every head"):
        head_sums(replace(random_call(lo, hi, 6), bias=bias), empty_facts(1, 6), empty_facts(1, 6))


def test_positions_that_jump_are_refused() -> None:
    lo, hi = whole(1, 3, 3)
    facts = replace(empty_facts(1, 3), position=torch.tensor([[0, 2, 3]], dtype=torch.int32))
    with pytest.raises(ValueError, match="rise by one"):
        head_sums(random_call(lo, hi, 3), facts, facts)
