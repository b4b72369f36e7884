"""The neuron view: its numbers against the model asked directly, and its page in a real browser, driven by mouse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attnengine as ae
from attnengine.model.live import look
from attnengine.model.load import LoadedModel, wrap_model
from attnengine.model.sentence import Attention, Sentence
from attnengine_explorer.neuron_data import (
    MAX_KEYS,
    QUERIES_AROUND,
    TOP_KEYS,
    corpus_facts,
    of_query,
    row_shares,
    text_shares,
    whole,
)
from attnengine_explorer.neuron_page import fitting
from attnengine_kernels import reference
from attnengine_kernels.call import AttentionCall, empty_facts
from tests.explorer.page_driver import Page, numbers
from tests.oracle import eager
from tests.oracle.models import CASES

NAMES = [
    "minilm",
    "llama",
    "gemma2",
    "gpt_oss",
    "t5",
    "bart",
]  # pairs of q and k: plain, RoPE and groups, cap, sink, bias, cross
SHORTEST = 2  # of a case's documents


@cache
def loaded(name: str) -> LoadedModel:
    return wrap_model(CASES[name].make(None), CASES[name].reader())


@cache
def sentence_of(name: str) -> Sentence:
    return look(loaded(name), CASES[name].documents()[SHORTEST])


@cache
def asked(name: str) -> list[list[eager.Head]]:
    """The same text, from eager attention and hooks on the projections."""
    case = CASES[name]
    window = next(w for w in eager.windows_of(case) if w.document == SHORTEST and w.start == 0)
    return eager.attend(case, case.make("eager"), window)


def called(attention: Attention) -> AttentionCall:
    """The record as the kernels' reference takes it."""
    tensor = torch.from_numpy
    value = tensor(attention.key)
    return AttentionCall(
        query=tensor(attention.query)[None], key=tensor(attention.key)[None], value=value[None],
        lo=tensor(attention.lo)[None], hi=tensor(attention.hi)[None], scale=attention.site.scale,
        softcap=attention.site.softcap,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["minilm", "gpt2", "llama", "mistral", "gemma2"])
def test_shares_of_a_text_are_the_references_score_variance_share(name: str) -> None:
    for attention in sentence_of(name).attentions[:2]:
        facts = empty_facts(1, attention.shape[0])
        sums = reference.head_sums(called(attention), facts, facts)
        for head in range(attention.site.n_heads):
            expected = (sums["share"][0, head] / sums["share_n"][0, head]).numpy()
            found = text_shares(attention, head)
            np.testing.assert_allclose(found, expected, atol=1e-9)
            assert found.sum() == pytest.approx(1)


def test_the_share_of_a_row_is_the_covariance_of_each_product_with_their_sum() -> None:
    attention = sentence_of("llama").attentions[1]
    q, k = attention.queries_of(3), attention.keys_of(3)
    found = row_shares(attention, 3, np.array([0, 1, 7]))
    assert np.isnan(found[0]).all()  # one key: nothing varies
    for row, query in ((1, 1), (2, 7)):
        products = q[query] * k[: query + 1]
        dot = products.sum(axis=1)
        brute = [np.cov(products[:, d], dot, bias=True)[0, 1] / dot.var() for d in range(len(q[0]))]
        np.testing.assert_allclose(found[row], brute, atol=1e-12)


def test_a_long_text_gives_the_keys_looked_at_most_or_those_of_a_window() -> None:
    attention = sentence_of("minilm").attentions[0]
    n = 40 * attention.shape[1]
    query, key = (np.tile(vectors, (1, 40, 1)) for vectors in (attention.query, attention.key))
    long = Attention(attention.site, query, key, np.zeros(n, dtype=np.int32), np.full(n, n, dtype=np.int32))
    pattern = long.pattern(2, np.array([5]))[0]
    top = of_query(long, 2, 5)
    assert len(top.keys) == TOP_KEYS
    assert top.queries.tolist() == list(range(QUERIES_AROUND))
    assert pattern[top.keys].min() >= np.delete(pattern, top.keys).max()
    np.testing.assert_array_equal(top.row_pattern, pattern)
    assert of_query(long, 2, 5, (10, 30)).keys.tolist() == list(range(10, 30))
    assert len(of_query(long, 2, 5, (0, n)).keys) == MAX_KEYS
    assert of_query(long, 2, 5, (n + 5, n + 9)).keys.tolist() == [n - 1]
    with pytest.raises(ValueError, match=f"from 0 to {n - 1}, got {n}"):
        of_query(long, 2, n)


def test_what_does_not_fit_on_a_page_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = sentence_of("llama")
    heads = [(site, head) for site in (0, 1) for head in range(4)]
    assert [(s.site, s.head) for s in fitting(sentence, (1, 2), heads)] == heads
    size = whole(sentence.attentions[0], 0).nbytes
    monkeypatch.setattr("attnengine_explorer.neuron_page.MAX_BYTES", int(4.5 * size))
    assert [(s.site, s.head) for s in fitting(sentence, (1, 2), heads)] == [(1, 0), (1, 1), (1, 2), (1, 3)]
    view = ae.neuron_view(loaded("llama"), None, CASES["llama"].documents()[SHORTEST], layer=1, head=2)
    assert "4 of 8 heads left out" in view.page.caption
    monkeypatch.setattr("attnengine_explorer.neuron_page.MAX_BYTES", 1)
    assert [(s.site, s.head) for s in fitting(sentence, (1, 2), heads)] == [(1, 2)]


def test_what_the_corpus_says_is_in_the_order_of_the_neurons_or_not_there() -> None:
    import pandas as pd

    table = pd.DataFrame({"neuron": [2, 0, 1], "qk_mean": [0.2, 0.0, 0.1], "other": 1})
    found = corpus_facts(table, 3)
    assert found["qk_mean"].tolist() == [0.0, 0.1, 0.2]
    assert set(found) == {"qk_mean"}
    assert corpus_facts(table, 4) == corpus_facts(None, 3) == {}


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    pages: list[Page] = []

    def start(view: Any, **context: Any) -> Page:
        path = view.to_html(tmp_path / f"{len(pages)}.html")
        pages.append(Page(browser, path.as_uri(), **context))
        return pages[-1].open()

    yield start
    for page in pages:
        page.context.close()


@pytest.mark.browser
@pytest.mark.parametrize("name", NAMES)
def test_products_sums_and_softmax_on_the_page_are_the_models_own_in_fp64(
    name: str, opened: Callable[..., Page]
) -> None:
    sentence, calls = sentence_of(name), asked(name)
    page = opened(ae.neuron_view(loaded(name), None, CASES[name].documents()[SHORTEST]))
    site = len(calls) - 1
    head = CASES[name].heads - 1
    page.page.select_option(
        '[data-field="sheet"]', label=page.page.locator('[data-field="sheet"] option').last.inner_text()
    )
    page.page.select_option('[data-field="order"]', "number")
    oracle = calls[site][head]
    for query in (len(oracle.query) // 2, len(oracle.query) - 1):
        page.click_at("qk-queries", 50, query)
        page.until(f"Bokeh.documents[0].get_model_by_name('qk-queries').data.chosen[{query}]")
        visible = oracle.visible[query]
        products = np.array(page.data("qk-product-image", "image")[0]).reshape(visible.size, -1)[::-1]
        expected = oracle.query[query] * oracle.key
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(products[visible], expected[visible], atol=1e-5 * scale)
        assert np.isnan(products[~visible]).all()
        read = {column: page.data("qk-rows", column) for column in ("dot", "scaled", "score", "softmax")}
        assert [text == "hidden" for text in read["softmax"][: visible.size]] == (~visible).tolist()
        seen = np.flatnonzero(visible)
        for column, right in (
            ("dot", expected.sum(axis=1)),
            ("scaled", oracle.scale * expected.sum(axis=1)),
            ("score", oracle.score[query]),
            ("softmax", oracle.pattern[query]),
        ):
            ours = np.array([numbers(read[column][j])[0] for j in seen])
            np.testing.assert_allclose(
                ours, right[seen], atol=1e-5 * max(1.0, np.abs(right[seen]).max()), err_msg=column
            )
        if oracle.sink is not None:
            assert page.data("qk-rows", "token")[-1] == "sink"
            assert numbers(read["softmax"][-1])[0] == pytest.approx(oracle.sink_mass(query), abs=1e-5)
    assert len(sentence.attentions) == len(calls)
    page.clean()


@pytest.mark.browser
def test_every_number_on_hover_stands_in_the_table(opened: Callable[..., Page]) -> None:
    page = opened(ae.neuron_view(loaded("gemma2"), None, CASES["gemma2"].documents()[SHORTEST], layer=1, head=2))
    page.click_at("qk-queries", 50, 6)
    page.page.click(".qk-table summary")
    keys, neurons = page.page.evaluate("""Array.from(document.querySelectorAll(".qk-table table"),
      (t) => Array.from(t.rows, (r) => Array.from(r.cells, (c) => c.textContent)))""")
    for row in (0, 3, 6):
        tip = page.hover_at("qk-rows", 860, row)
        assert [tip[tip.index(name) + 1] for name in ("position", "q·k", "× scale", "score", "softmax")] == [
            keys[1 + row][0], *keys[1 + row][2:]
        ]  # fmt: skip
    order = [int(line[0]) for line in neurons[1:]]
    shares = [numbers(line[1])[0] for line in neurons[1:]]
    assert shares == sorted(shares, reverse=True)
    tip = page.hover_at("qk-rows", 470, 3)  # the leftmost neuron of the products
    assert tip[tip.index("neuron") + 1] == str(order[0])
    products = page.data("qk-product-image", "image")[0]
    at = (len(keys) - 2 - 3) * len(order)
    assert numbers(tip[tip.index("q ⊙ k") + 1])[0] == pytest.approx(products[at], rel=1e-5)
    page.clean()


@pytest.mark.browser
def test_a_click_on_a_key_shows_it_alone_and_again_all(opened: Callable[..., Page]) -> None:
    page = opened(ae.neuron_view(loaded("minilm"), None, "The cat sat on the mat.", "It slept."))
    n = len(page.data("qk-rows", "token"))
    page.click_at("qk-rows", 920, 3)
    page.until("Bokeh.documents[0].get_model_by_name('qk-rows').data.y.length === 1")
    assert page.data("qk-rows", "token") == ["sat"]
    page.click_at("qk-rows", 920, 0)
    page.until(f"Bokeh.documents[0].get_model_by_name('qk-rows').data.y.length === {n}")
    page.page.select_option('[data-field="side"]', "ab")
    assert page.data("qk-rows", "token") == ["It", "slept", ".", "[SEP]"]
    assert page.data("qk-queries", "token")[:2] == ["[CLS]", "The"]
    page.clean()
