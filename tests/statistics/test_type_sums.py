"""The sums behind head types, against loops over rows and keys of the dense fp64 pattern."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch

from attnengine.statistics.row_pass import read_rows
from attnengine_kernels import TokenFacts
from attnengine_kernels.reference import pattern
from attnengine_kernels.sums import profile_edges
from tests.kernels.oracles import random_call

LENGTHS = (150, 97)  # beyond 128, so that far bins and the band of 128 tokens matter
L = max(LENGTHS)


def text_facts(seed: int = 0) -> TokenFacts:
    """Two windows, the second padded and partly context; special tokens at the ends and one in the middle."""
    rng = np.random.default_rng(seed)
    real = np.arange(L)[None] < np.asarray(LENGTHS)[:, None]
    special = np.zeros_like(real)
    for w, n in enumerate(LENGTHS):
        special[w, [0, 40, n - 1]] = True
    sentence = np.where(special, -1, np.arange(L)[None] // 30)
    counted = real.copy()
    counted[1, 1:30] = False
    position = np.where(real, np.arange(L)[None], -1)
    classes = {
        "first": (position == 0),
        "special": special & real,
        "punctuation": (rng.random(real.shape) < 0.2) & real,
    }
    return TokenFacts(
        real=torch.from_numpy(real),
        counted=torch.from_numpy(counted),
        position=torch.from_numpy(position.astype(np.int32)),
        classes={name: torch.from_numpy(flags) for name, flags in classes.items()},
        token_id=torch.from_numpy(rng.integers(0, 9, real.shape)),
        sentence=torch.from_numpy(sentence.astype(np.int32)),
    )


def picture_facts() -> TokenFacts:
    """Two pictures behind two prefix tokens."""
    index = torch.arange(L).expand(2, L)
    every = torch.ones(2, L, dtype=torch.bool)
    classes = {"first": index == 0, "special": index < 2}
    return TokenFacts(real=every, counted=every, position=(index - 2).clamp(min=-1).int(), classes=classes)


def intervals(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    n = torch.tensor(LENGTHS)[:, None]
    i = torch.arange(L)[None].expand(2, L)
    hi = {"full": n.expand(2, L), "causal": i + 1, "window": i + 1}[kind].minimum(n).int()
    lo = ((i - 20).clamp(min=0) if kind == "window" else torch.zeros_like(i)).int()
    return torch.minimum(lo, hi).contiguous(), hi.contiguous()


ROWS = torch.tensor([(w, i) for w, n in enumerate(LENGTHS) for i in [*range(12), *range(75, n, 1)]])


def brute_force(call, facts, rows, *, cross):
    """name -> window -> sum, from the definitions, one row and one key at a time."""
    p_all, visible_all = pattern(call).p.numpy(), pattern(call).visible.numpy()
    f = {name: getattr(facts, name).numpy() for name in ("real", "counted", "position")}
    classes = {name: flags.numpy() for name, flags in facts.classes.items()}
    ids = None if facts.token_id is None else facts.token_id.numpy()
    heads = p_all.shape[1]
    out = defaultdict(lambda: defaultdict(float))
    for w, i in rows.tolist():
        if not f["counted"][w, i]:
            continue
        p, add = p_all[w, :, i], lambda name, value, w=w: out[name].__setitem__(w, out[name][w] + value)
        seen = [j for j in range(L) if visible_all[w, i, j]]
        inside = {name: [j for j in seen if classes[name][w, j]] for name in ("first", "special")}
        keys = [j for j in seen if f["real"][w, j] and j not in inside["first"] + inside["special"]]
        m, n, at = p[:, keys].sum(1), len(keys), f["position"][w, i]
        add("type_rows", float(n > 0))
        add("type_outside", m)
        for name in ("first", "special"):
            add(f"type_{name}_token", p[:, inside[name]].sum(1))
            add(f"type_{name}_token_n", float(len(inside[name]) > 0))
            add(f"type_{name}_token_null", p[:, seen].sum(1) * len(inside[name]) / max(len(seen), 1))
        many = n >= 2
        hat = p[:, keys] / m[:, None] if many else np.ones((heads, 1))
        share = -(hat * np.log(hat)).sum(1) / np.log(n) if many else np.zeros(heads)
        division = (sum(1 / x for x in range(1, n + 1)) - 1) / np.log(n) if many else 0.0
        add("type_broad", share)
        add("type_broad_n", np.full(heads, float(many)))
        add("type_broad_null", np.full(heads, (max(division, 0.95) - 0.1) * many))
        if cross:
            continue
        keys = [j for j in keys if at >= 0]
        offset = {j: at - f["position"][w, j] for j in keys}
        near = [j for j in keys if abs(offset[j]) < 128]
        squares, b = (p[:, keys] ** 2).sum(1), len(near)
        add("type_positional", (p[:, near] ** 2).sum(1))
        add("type_positional_n", float(b > 0))
        add("type_positional_null", b * squares / max(n, 1))
        add("type_positional_spread", b * (squares / max(n, 1) - (m / max(n, 1)) ** 2))
        targets = {
            "previous_token": [j for j in keys if offset[j] == 1],
            "next_token": [j for j in keys if offset[j] == -1],
            "local": [j for j in keys if 0 < abs(offset[j]) <= 5],
        }
        if ids is not None:
            s = facts.sentence.numpy()[w]
            targets["duplicate_token"] = [j for j in keys if ids[w, j] == ids[w, i] and j != i]
            followers = [j for j in keys if j > 0 and ids[w, j - 1] == ids[w, i]]
            targets["induction"] = [j for j in followers if j not in (i, i + 1)]
            targets["punctuation"] = [j for j in keys if classes["punctuation"][w, j]]
            targets["cross_sentence"] = [j for j in keys if s[i] >= 0 and s[j] >= 0 and s[i] != s[j]]
        for name, where in targets.items():
            add(f"type_{name}", p[:, where].sum(1))
            add(f"type_{name}_n", m * (len(where) > 0))
            if name in ("previous_token", "next_token", "local"):
                add(f"type_{name}_null", m * len(where) / max(n, 1))
            else:
                add(f"type_{name}_pairs", bins([offset[j] for j in where], np.ones((1, len(where))))[0])
        offsets = [offset[j] for j in keys]
        add("type_offset", bins(offsets, p[:, keys]))
        add("type_offset_pairs", bins(offsets, np.ones((1, len(keys))))[0])
        add("type_offset_even", bins(offsets, np.repeat(m[:, None] / max(n, 1), len(keys), 1)))
    return out


EDGES = profile_edges(L)
BIN_OF = {offset: b for b, (lo, hi) in enumerate(EDGES) for offset in range(lo, hi)}


def bins(offsets, values):
    """(h, bins) sums of ``values`` (h, keys) by the bin of their offset."""
    out = np.zeros((len(values), len(EDGES)))
    for column, offset in enumerate(offsets):
        out[:, BIN_OF[offset]] += values[:, column]
    return out


def type_sums(call, facts, rows, *, cross=False):
    """(windows, sums) of the pass over sampled rows."""
    found = read_rows(call, range(call.query.shape[1]), *[(facts, facts)] * 2, rows, cross=cross, max_length=L)
    return found.windows, found.types


def agree(call, facts, *, cross=False, rows=ROWS, rtol=2e-5):
    windows, found = type_sums(call, facts, rows, cross=cross)
    expected = brute_force(call, facts, rows, cross=cross)
    assert set(found) == set(expected)
    for name, by_window in expected.items():
        assert found[name].dtype == torch.float64
        for row, w in enumerate(windows.tolist()):
            np.testing.assert_allclose(found[name][row].numpy(), by_window[w], rtol=rtol, atol=rtol, err_msg=name)


@pytest.mark.parametrize("kind", ["full", "causal", "window"])
def test_sums_over_text_equal_the_definitions(kind):
    agree(random_call(*intervals(kind), L, h=3), text_facts())


@pytest.mark.parametrize("given", ["hiding", "sink", "softcap", "grouped heads", "fp64"])
def test_sums_honour_bias_sink_softcap_groups_and_precision(given):
    call = random_call(
        *intervals("full"), L, h=4, hkv=2 if given == "grouped heads" else 4,
        bias="hiding" if given == "hiding" else "none", sink=given == "sink",
        softcap=2.0 if given == "softcap" else None,
    )  # fmt: skip
    if given == "fp64":
        call = replace(call, query=call.query.double(), key=call.key.double(), value=call.value.double())
    agree(call, text_facts(1), rtol=1e-9 if given == "fp64" else 2e-5)


def test_sums_over_pictures_leave_out_prefix_tokens_and_ask_nothing_of_words():
    lo, hi = torch.zeros(2, L, dtype=torch.int32), torch.full((2, L), L, dtype=torch.int32)
    agree(
        random_call(lo, hi, L, h=2),
        picture_facts(),
        rows=torch.tensor([(w, i) for w in (0, 1) for i in range(0, L, 2)]),
    )


def test_cross_attention_has_no_offsets():
    agree(random_call(*intervals("full"), L, h=2), text_facts(), cross=True)


def test_rows_of_context_alone_give_nothing():
    _, found = type_sums(random_call(*intervals("full"), L), text_facts(), torch.tensor([[1, 5], [1, 6]]))
    assert len(found) > 20
    assert not any(value.any() for value in found.values())


def test_a_head_of_nan_spoils_no_other():
    call = random_call(*intervals("causal"), L, h=2, hkv=2)
    poisoned = replace(call, query=call.query.clone())
    poisoned.query[:, 0] = torch.nan
    found = type_sums(poisoned, text_facts(), ROWS)[1]
    clean = type_sums(call, text_facts(), ROWS)[1]
    for name, value in found.items():
        if value.dim() > 1 and not name.endswith("_pairs"):
            assert torch.equal(value[:, 1], clean[name][:, 1]), name
    assert found["type_previous_token"][:, 0].isnan().all()
    assert found["type_broad"][:, 0].isnan().all()
