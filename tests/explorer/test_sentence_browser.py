"""BertViz's use cases in a real browser, by mouse alone, on the bundled model; and what a page costs."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from attnengine_explorer.run_data import RunData
from attnengine_explorer.sentence.studio import Typed
from tests.explorer.conftest import Served
from tests.explorer.test_browser import Page

pytestmark = pytest.mark.browser

FIRST = "The nurse told the doctor that she was late."
SECOND = "The nurse told the doctor that he was late."
#: Where a place of a figure, in its own coordinates, is on the screen; scrolled into sight.
_PLACE = """([name, x, y]) => {
  const view = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name(name)), el = view.canvas_view.el;
  for (let box = view.el; box !== null; box = box.parentElement ?? box.getRootNode().host ?? null) {
    if (box.classList?.contains("scroll")) box.scrollTop = Math.max(0, view.frame.y_scale.compute(y) - 80);
  }
  const box = el.getBoundingClientRect();
  return [box.left + view.frame.x_scale.compute(x), box.top + view.frame.y_scale.compute(y)];
}"""


@pytest.fixture
def open_speaking(browser, speaking) -> Iterator:
    pages: list[Page] = []

    def start(query: str, **context) -> Page:
        page = Page(browser, speaking.url, **context)
        pages.append(page)
        return page.open(query)

    yield start
    for page in pages:
        page.context.close()


@pytest.fixture(scope="module")
def studio(spoken_run):
    """What the server's own studio must find, made here."""
    from bokeh.document import Document

    from attnengine_explorer.jobs import Ticket

    made = RunData(spoken_run).studio
    return lambda asked: made.make(asked, Ticket(Document()))


def ready(page: Page, word: str, view: str = "head-view") -> None:
    """Wait for the sentence with ``word`` in it; the first one loads the model."""
    page.until(
        f"Array.from(Bokeh.documents[0].get_model_by_name('{view}-left')?.data.text ?? []).includes('{word}')", 240
    )
    page.idle()


def place(page: Page, figure: str, x: float, y: float) -> tuple[float, float]:
    at = page.page.evaluate(_PLACE, [figure, x, y])
    return at[0], at[1]


def point(page: Page, figure: str, x: float, y: float) -> None:
    left, top = place(page, figure, x, y)
    page.page.mouse.move(left - 3, top)
    page.page.mouse.move(left, top)


def numbers_beside(page: Page, view: str = "head-view") -> dict[int, float]:
    """What is written beside the tokens: row → weight."""
    script = f"Bokeh.documents[0].get_model_by_name('{view}-numbers').data.y.length > 0"
    page.until(script)
    rows, texts = page.data(f"{view}-numbers", "y"), page.data(f"{view}-numbers", "text")
    return {int(row): float(re.match(r"[\d.e-]+", text)[0]) for row, text in zip(rows, texts, strict=True)}


def test_heads_that_link_the_two_sentences_of_a_pair_are_found_in_the_model_view(open_speaking, studio):
    page = open_speaking("?view=sentence")
    page.page.click("text=a pair of sentences")
    ready(page, "warm")
    page.page.click('[data-set="sheet"][data-value="model"]')
    page.page.select_option('[data-choice="between"]', "ab")
    page.until("location.search.includes('between=ab')")
    page.until("Bokeh.documents[0].get_model_by_name('model-view-picture').data.image.length === 1")
    page.idle()
    sentence = studio(Typed("The cat sat on the mat.", "It purred, and the mat was warm."))
    segment, special = sentence.streams[""].segment, sentence.streams[""].special
    across = np.outer((segment == 0) & ~special, (segment == 1) & ~special)
    mass = {
        (call.site.site, head): (call.pattern(head) * across).sum()
        for call in sentence.attentions
        for head in range(12)
    }
    site, head = max(mass, key=mass.__getitem__)
    # The picture of the head that links most is the one with bright pixels left.
    cells = [page.data("model-view-cells", name) for name in ("site", "head", "x", "y")]
    at = next(i for i, where in enumerate(zip(*cells[:2], strict=True)) if where == (site, head))
    page.page.mouse.click(*place(page, "model-view-figure", cells[2][at], cells[3][at]))
    page.until(f"location.search.includes('site={site}') && location.search.includes('head={head}')")
    ready(page, "warm")
    page.until("document.getElementById('sentence').dataset.sheet === 'head'")
    lit = np.flatnonzero(page.data("head-view-squares", "on"))
    assert lit.tolist() == [head]
    page.until("Bokeh.documents[0].get_model_by_name('head-view-drawn').data.y0.length > 0")
    asks, answers = page.data("head-view-drawn", "y0"), page.data("head-view-drawn", "y1")
    assert {segment[int(i)] for i in asks} == {0}
    assert {segment[int(j)] for j in answers} == {1}
    page.clean()


def test_a_pronouns_attention_is_compared_in_two_texts_that_differ_in_one_word(open_speaking, studio):
    page = open_speaking("?view=sentence&site=3&head=5")
    page.page.click("text=two that differ in one word")
    ready(page, "he", "head-view-b")
    ready(page, "she")
    for view, text, word in (("head-view", FIRST, "she"), ("head-view-b", SECOND, "he")):
        sentence = studio(Typed(text))
        row = sentence.streams[""].texts.index(word)
        point(page, f"{view}-figure", 0.2, row)
        page.until(f"Bokeh.documents[0].get_model_by_name('{view}-mark').data.y[0] === {row}")
        pattern = sentence.attentions[3].pattern(5, np.array([row]))[0]
        found = numbers_beside(page, view)
        assert set(found) == set(np.flatnonzero(pattern >= 0.0005).tolist())
        for key, weight in found.items():
            assert weight == pytest.approx(pattern[key], rel=0.006, abs=6e-4)
        page.page.mouse.move(5, 300)
        page.until(f"Bokeh.documents[0].get_model_by_name('{view}-numbers').data.y.length === 0")
    page.clean()


def test_a_box_is_as_high_as_its_text_and_is_measured_only_when_that_changes(open_speaking):
    page = open_speaking("?view=sentence&text=" + "A long text that takes several lines. " * 6)
    height = "document.getElementById('sentence-text').offsetHeight"
    page.until(f"{height} > 50")
    page.page.evaluate(
        "window.asked = 0; const box = document.getElementById('sentence-text');"
        "Object.defineProperty(box, 'scrollHeight', { get: () => { window.asked++; return 20; } })"
    )
    link = page.page.url
    page.page.evaluate("attnengine.change({ site: 1, head: 1 })")
    page.until(f"location.href !== {link!r}")
    page.idle()
    assert page.page.evaluate("window.asked") == 0
    page.page.evaluate("attnengine.change({ text: 'Short.' })")
    page.until(f"{height} < 50")
    page.page.click("#sentence-add")
    assert page.page.evaluate("document.getElementById('sentence-text-b').offsetHeight") > 20
    page.clean()


def test_following_the_mouse_sends_nothing_and_a_click_holds_the_token_in_the_link(open_speaking):
    page = open_speaking(f"?view=sentence&site=2&head=1&text={FIRST.replace(' ', '+')}")
    ready(page, "nurse")
    before = page.quiet()
    for row in range(1, 9):
        point(page, "head-view-figure", 0.2, row)
        page.until(f"Bokeh.documents[0].get_model_by_name('head-view-mark').data.y[0] === {row}")
    assert page.quiet() == before
    page.page.mouse.click(*place(page, "head-view-figure", 0.8, 3))
    page.until("location.search.includes('pinned=key&pin=3')")
    page.page.mouse.move(5, 300)
    page.until("Bokeh.documents[0].get_model_by_name('head-view-mark').data.y[0] === 3")
    assert set(page.data("head-view-drawn", "y1")) == {3}
    page.page.keyboard.press("z")
    page.until("!location.search.includes('pin=3')")
    page.clean()


def test_squares_switch_heads_and_a_second_click_leaves_one(open_speaking):
    page = open_speaking(f"?view=sentence&site=0&head=2&text={FIRST.replace(' ', '+')}")
    ready(page, "nurse")
    x, y = page.data("head-view-squares", "x"), page.data("head-view-squares", "y")
    page.page.mouse.click(*place(page, "head-view-heads", x[4], y[4]))
    page.until("location.search.includes('heads=0:2.4')")
    assert np.flatnonzero(page.data("head-view-squares", "on")).tolist() == [2, 4]
    page.page.wait_for_timeout(450)
    page.page.mouse.dblclick(*place(page, "head-view-heads", x[7], y[7]))
    page.until("location.search.includes('head=7')")
    page.until(
        "Array.from(Bokeh.documents[0].get_model_by_name('head-view-squares').data.on).join('') === '000000010000'"
    )
    assert page.page.evaluate("Bokeh.documents[0].get_model_by_name('heads').selected.indices") == [7]
    page.clean()


def test_special_tokens_can_be_hidden_and_the_rest_rescaled(open_speaking, studio):
    page = open_speaking(f"?view=sentence&site=3&head=5&special=hidden&text={FIRST.replace(' ', '+')}")
    ready(page, "nurse")
    sentence = studio(Typed(FIRST))
    special, pattern = sentence.streams[""].special, sentence.attentions[3].pattern(5, np.array([4]))[0]
    point(page, "head-view-figure", 0.2, 4)
    found = numbers_beside(page)
    rest = np.where(special, 0, pattern) / pattern[~special].sum()
    assert set(found) == set(np.flatnonzero(rest >= 0.0005).tolist())
    for key, weight in found.items():
        assert weight == pytest.approx(rest[key], rel=0.006, abs=6e-4)
    page.clean()


def test_the_heatmap_says_the_pair_under_the_mouse_and_its_exact_weight(open_speaking, studio):
    page = open_speaking(f"?view=sentence&sheet=heatmap&site=1&head=3&text={FIRST.replace(' ', '+')}")
    page.until("Bokeh.documents[0].get_model_by_name('heatmap-image')?.data.image.length === 1", 240)
    page.idle()
    pattern = studio(Typed(FIRST)).attentions[1].pattern(3)
    for i, j in ((2, 0), (5, 6)):
        point(page, "heatmap-figure", j, i)
        written = "Bokeh.documents[0].get_model_by_name('heatmap-readout').data.text[0]"
        page.until(f"{written}.includes('({i})') && {written}.includes('({j})')")
        text = page.data("heatmap-readout", "text")[0]
        assert f"({i})" in text
        assert f"({j})" in text
        assert float(text.split()[-1]) == pytest.approx(pattern[i, j], rel=1e-3)
    page.clean()


HOSTILE = '<img src=x onerror="window.hit=1"> javascript:alert(1) $$x^2$$ \\(y\\) \u202eabc {{7*7}} %27'


@pytest.mark.parametrize("sheet", ["head", "model", "heatmap"])
def test_typed_text_stays_text_in_every_sheet(open_speaking, sheet):
    from urllib.parse import urlencode

    page = open_speaking("?" + urlencode({"view": "sentence", "sheet": sheet, "text": HOSTILE, "site": 0, "head": 0}))
    name = {"head": "head-view-left", "model": "model-view-cells", "heatmap": "heatmap-left"}[sheet]
    column = "name" if sheet == "model" else "text"
    page.until(f"(Bokeh.documents[0].get_model_by_name('{name}')?.data.{column} ?? []).length > 0", 240)
    page.idle()
    figure = {"head": "head-view-figure", "model": "model-view-figure", "heatmap": "heatmap-figure"}[sheet]
    point(page, figure, 0.2 if sheet == "head" else 2, 2 if sheet != "model" else -2)
    page.page.wait_for_timeout(200)
    assert page.page.evaluate("window.hit") is None
    assert page.page.evaluate("document.getElementById('sentence-text').value") == HOSTILE
    page.clean()


@pytest.mark.parametrize(("width", "height", "scheme"), [(1400, 900, "light"), (1000, 700, "dark")])
def test_nothing_sticks_out_of_the_sentence_page(open_speaking, width, height, scheme):
    page = open_speaking(
        "?view=sentence&doc=0&site=1&head=1", viewport={"width": width, "height": height}, color_scheme=scheme
    )
    page.until("Bokeh.documents[0].get_model_by_name('head-map-image')?.data.image.length === 1", 240)
    page.idle()
    page.page.wait_for_timeout(300)
    frames = page.page.evaluate("""() => ["head-map-figure", "head-view-figure"].map((name) => {
      const { bbox } = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name(name)).frame;
      return [bbox.width, bbox.height];
    })""")
    assert min(min(size) for size in frames) > 100
    page.clean()


#: When the parts of a job's progress were first seen, ms after the click on Run, sampled at every frame.
_WATCH = """() => {
  const job = document.getElementById("sentence-job");
  const parts = { spinner: job.querySelector(".spinner"), late: job.querySelector(".late") };
  const start = performance.now();
  window.firstSeen = {};
  const look = () => {
    for (const [name, part] of Object.entries(parts))
      if (part.checkVisibility({ visibilityProperty: true })) window.firstSeen[name] ??= performance.now() - start;
    requestAnimationFrame(look);
  };
  document.getElementById("sentence-run").click();
  look();
}"""


def test_a_wait_shows_a_spinner_then_its_progress_and_can_be_cancelled(browser, spoken_run):
    server = Served(spoken_run)  # a server of its own: its first sentence has to load the model
    page = Page(browser, server.url)
    try:
        page.open("?view=sentence")
        page.page.fill("#sentence-text", FIRST)
        page.page.evaluate(_WATCH)
        page.until("window.firstSeen.late !== undefined")
        seen = page.page.evaluate("window.firstSeen")
        assert 300 <= seen["spinner"] < seen["late"]  # not before, lest what is quick flickers
        assert seen["late"] >= 1000
        page.until("document.getElementById('sentence-job-text').textContent.includes('model')")
        page.page.click("#sentence-cancel")
        page.until("!document.getElementById('sentence-job').hasAttribute('data-slot')")
        page.page.wait_for_timeout(300)
        assert not page.page.evaluate("document.getElementById('sentence').hasAttribute('data-ready')")
        page.page.click("#sentence-run")
        ready(page, "nurse")
        page.until("!document.getElementById('sentence-job').hasAttribute('data-slot')")
        page.clean()
    finally:
        page.context.close()
        server.stop()
