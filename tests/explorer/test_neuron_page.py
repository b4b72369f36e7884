"""BertViz's third use case by mouse: the neurons behind a head whose attention falls off with distance."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from transformers import AutoModel, AutoTokenizer

from attnengine.bundled import bundled_documents, bundled_model
from attnengine.corpus.documents import Document
from attnengine.front import run_documents
from attnengine.model.load import load_model
from attnengine.opened import Run
from attnengine.run.progress import Reporter
from attnengine.run.settings import RunSettings
from tests.explorer.conftest import Served
from tests.explorer.driven import Page
from tests.explorer.page_driver import AT

TEXT = (
    "The cat sat on the mat because it was tired, and the dog looked on while the old clock in the hall counted the "
    "hours of the long night."
)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The bundled MiniLM over beginnings of the bundled texts, with every statistic."""
    texts = [Document(name, 0, len(text), text[:2000]) for name, text in bundled_documents()[4:28:2]]
    run = run_documents(
        load_model(str(bundled_model())), texts, tmp_path_factory.mktemp("whole") / "run",
        RunSettings(sample=64, threads=1), device="cpu", source="topics", reporter=Reporter(quiet=True),
    )  # fmt: skip
    assert run is not None
    return run


def click_token(page: Page, row: int, figure: str = "qk") -> None:
    page.page.wait_for_timeout(350)  # to Bokeh two clicks within 300 ms are one double click
    page.page.mouse.click(*page.page.evaluate(AT.replace("qk-view", f"{figure}-view"), [f"{figure}-queries", 50, row]))


def neurons_of(page: Page) -> list[int]:
    """The neurons in the order in which the table lists them."""
    script = (
        "Array.from(document.querySelectorAll('#qk-tables table:last-child tbody tr'), (r) => r.cells[0].textContent)"
    )
    return [int(n) for n in page.page.evaluate(script)]


#: Where a position of the strip is on the screen.
STRIP = """(x) => {
  const view = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name("qk-strip"));
  const box = view.canvas_view.el.getBoundingClientRect();
  return [box.left + view.frame.x_scale.compute(x), box.top + view.frame.bbox.vcenter];
}"""
POSITIONS = "Array.from(Bokeh.documents[0].get_model_by_name('qk-rows').data.position)"
WINDOW = "(() => { const w = Bokeh.documents[0].get_model_by_name('qk-window'); return [w.start, w.end]; })()"


@pytest.mark.browser
def test_the_keys_of_a_long_text_follow_the_brush(browser: Any, whole_run: Run) -> None:
    server = Served(whole_run.path)
    page = Page(browser, server.url)
    try:
        page.open(f"?view=sentence&sheet=neuron&site=0&head=2&text={quote(' '.join([TEXT] * 8))}")
        page.until("document.querySelectorAll('#qk-tables table').length === 2", timeout=120)
        page.until("Bokeh.documents[0].get_model_by_name('qk-strip').visible")
        page.idle()
        before, (start, end) = page.page.evaluate(POSITIONS), page.page.evaluate(WINDOW)
        weights = np.array(page.data("qk-stems", "y"))  # until the brush is used, the heaviest keys are drawn
        assert len(weights) > 128
        assert sorted(before) == sorted(np.argsort(-weights, kind="stable")[:64].tolist())
        page.page.mouse.move(*page.page.evaluate(STRIP, (start + end) / 2))
        page.page.mouse.down()
        page.page.mouse.move(*page.page.evaluate(STRIP, (start + end) / 2 + 30), steps=4)
        page.page.mouse.move(*page.page.evaluate(STRIP, (start + end) / 2 + 60), steps=4)
        page.page.mouse.up()
        page.until("location.search.includes('cols=')")
        page.until(f"{POSITIONS}[0] > {start + 50}")
        first, last = (int(n) for n in re.search(r"cols=(\d+)-(\d+)", page.page.url).groups())
        assert page.page.evaluate(POSITIONS) == list(range(first, last))
        assert last - first == pytest.approx(end - start, abs=1)
        page.page.keyboard.press("z")
        page.until(f"{POSITIONS}[0] === {before[0]}")
        page.clean()
    finally:
        page.context.close()
        server.stop()


@pytest.mark.browser
def test_the_neurons_behind_a_distance_decaying_head_are_found_by_mouse(browser: Any, whole_run: Run) -> None:
    server = Served(whole_run.path)
    page = Page(browser, server.url)
    try:
        page.open()
        page.choose("statistic", "local_score")
        page.until("location.search.includes('stat=local_score')")
        page.idle()
        heads = whole_run.heads
        most = heads.loc[heads.local_score.idxmax()]
        site, head = int(most.site), int(most["head"])
        page.click_head(site, head)
        page.page.click('[data-set="view"][data-value="sentence"]')
        page.page.fill("#sentence-text", TEXT)
        page.page.click("#sentence-run")
        page.until("document.getElementById('sentence').hasAttribute('data-ready')", timeout=120)
        page.page.click('[data-set="sheet"][data-value="neuron"]')
        page.until("document.querySelectorAll('#qk-tables table').length === 2", timeout=60)
        rows = whole_run.neurons.query("site == @site and head == @head").sort_values("neuron")
        corpus = rows.score_variance_share.to_numpy()

        page.choose("neurons_by", "text")
        page.until("location.search.includes('by=text')")
        page.idle()
        here = neurons_of(page)
        rank = np.argsort(np.argsort(-corpus))
        assert spearmanr(np.arange(len(here)), rank[here]).statistic > 0.8
        assert len(set(here[:4]) & set(np.argsort(-corpus)[:4])) >= 3

        page.choose("neurons_by", "corpus")
        page.until("location.search.includes('by=corpus')")
        page.idle()
        assert neurons_of(page) == np.lexsort((np.arange(len(corpus)), -corpus)).tolist()

        click_token(page, 3)
        page.until("location.search.includes('pin=3')")
        page.until("Bokeh.documents[0].get_model_by_name('qk-queries').data.chosen[3]")
        page.page.keyboard.press("z")
        page.until("!location.search.includes('pin=3')")
        page.clean()
    finally:
        page.context.close()
        server.stop()


def eager(text: str, layer: int, head: int) -> np.ndarray:
    """The pattern of a head in double precision, by transformers alone; (queries, keys)."""
    model = AutoModel.from_pretrained(bundled_model(), attn_implementation="eager").double().eval()
    tokens = AutoTokenizer.from_pretrained(bundled_model())(text, return_tensors="pt")
    with torch.inference_mode():
        return model(**tokens, output_attentions=True).attentions[layer][0, head].numpy()


@pytest.mark.browser
def test_two_texts_show_the_same_query_and_the_same_neurons_one_below_the_other(browser: Any, whole_run: Run) -> None:
    texts = ["The nurse told the doctor that she was quite late.", "The nurse told the doctor that he was late."]
    server = Served(whole_run.path)
    page = Page(browser, server.url)
    try:
        page.open(f"?view=sentence&sheet=neuron&site=2&head=1&second=beside&text={quote(texts[0])}&b={quote(texts[1])}")
        page.until("document.querySelectorAll('#qk-tables table, #qk-b-tables table').length === 4", timeout=120)
        page.idle()
        click_token(page, 7, "qk-b")
        page.until("location.search.includes('pin=7')")
        for figure, text in zip(("qk", "qk-b"), texts, strict=True):
            page.until(f"Bokeh.documents[0].get_model_by_name('{figure}-queries').data.chosen[7]")
            shown = [float(value) for value in page.data(f"{figure}-rows", "softmax")]
            assert shown == pytest.approx(eager(text, 2, 1)[7], abs=1e-5)
        first, second = (page.data(f"{figure}-product-image", "neuron")[0] for figure in ("qk", "qk-b"))
        assert first[0] == second[0] != sorted(first[0])
        assert "first" in page.page.inner_text("[data-note=neuron-view-b]")
        page.page.click("#sentence-add")
        page.until("!location.search.includes('b=')")
        page.until("!document.getElementById('qk-b-scroll').checkVisibility()")
        page.clean()
    finally:
        page.context.close()
        server.stop()
