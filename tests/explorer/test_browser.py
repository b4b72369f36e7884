"""The explorer as people use it: a real browser, driven by mouse and keys."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from attnengine_explorer.run_data import RunData
from attnengine_explorer.views.atlas import KEY_STATISTICS
from tests.explorer.driven import TOOLTIP, Page
from tests.explorer.synthetic_run import HOSTILE

pytestmark = pytest.mark.browser

#: Counts how often the cells of figure NAME are painted from now on, as window.painted.
_COUNTED = """(name) => {
  const view = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name(name));
  const paint = view._paint_primary.bind(view);
  window.painted = 0;
  view._paint_primary = (ctx) => { window.painted += 1; paint(ctx); };
}"""
#: Where a drawn query stands: the given one, or without a number the one farthest right.
_POINT = """(given) => {
  const doc = Bokeh.documents[0], data = doc.get_model_by_name("cloud-source").data;
  const view = Bokeh.index.find_one(doc.get_model_by_name("cloud")), box = view.canvas_view.el.getBoundingClientRect();
  const x = Array.from(data.query_x), i = given ?? x.indexOf(Math.max(...x));
  return [i, box.left + view.frame.x_scale.compute(x[i]), box.top + view.frame.y_scale.compute(data.query_y[i])];
}"""


def numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"-?\d[\d.]*(?:e[-+]\d+)?", text.replace("−", "-").replace(",", ""))]


def test_every_number_of_a_hover_is_the_one_on_disk(open_page, runs):
    page = open_page("bert_like", "?stat=score_mean")
    run = RunData(runs["bert_like"])
    for site, head in ((0, 0), (3, 7), (5, 11)):
        texts = page.hover(*page.cell(site, head))
        row = run.rows[run.index[site, head]]
        assert texts[0] == f"L{site}H{head}"
        cells = [text for text in texts[1:] if text]
        assert "Mean score" in cells
        for name in ("score_mean", *KEY_STATISTICS):
            title = run.statistics[name].title
            value, error = numbers(cells[len(cells) - 1 - cells[::-1].index(title) + 1])[:2]
            assert value == pytest.approx(row[name], abs=row[f"{name}_se"] / 9)
            assert error == pytest.approx(row[f"{name}_se"], rel=0.06)
        page.page.mouse.move(2, 2)
        page.until(f"!({TOOLTIP})().length")
    page.clean()


@pytest.mark.parametrize(
    ("run", "figure", "x", "y"),
    [("full", "atlas", "x", "y"), ("full", "compare", "cx", "cy"), ("clouds", "clouds", "x", "y")],
)
def test_the_head_under_the_mouse_is_lit_in_every_figure_and_no_cell_is_painted_anew(open_page, run, figure, x, y):
    page = open_page(run, "?view=clouds" if figure == "clouds" else "?facet=heads")
    page.until(f"Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name('{figure}')) !== null")
    page.page.wait_for_timeout(500)  # the clouds are drawn
    source = "clouds-heads" if figure == "clouds" else "heads"
    page.page.evaluate(_COUNTED, figure)
    page.hover(*page.mark(figure, x, y, 1, source))
    hovered = f"Bokeh.documents[0].get_model_by_name('{source}-hovered').data.x.length"
    page.until(f"{hovered} > 0")
    columns = ("x", "y") if figure == "clouds" else ("x", "y", "cx", "cy", "cx_lo", "cy_hi", "mx", "my")
    for column in columns:
        assert page.data(source, column)[1] in page.data(f"{source}-hovered", column)
    page.page.mouse.move(2, 2)
    page.until(f"{hovered} === 0")
    page.idle()
    assert page.page.evaluate("window.painted") == 0
    page.clean()


def test_a_click_opens_the_head_writes_the_link_and_reload_and_back_keep_it(open_page, runs):
    page = open_page("bert_like")
    assert page.page.evaluate("document.getElementById('panel').hasAttribute('data-empty')")
    before = page.received
    page.click_head(3, 7)
    assert page.received - before < 500_000
    assert page.page.inner_text("#head-name") == "L3H7"
    pattern = page.page.evaluate("Array.from(Bokeh.documents[0].get_model_by_name('pattern-source').data.image[0])")
    expected = RunData(runs["bert_like"]).run.patterns[3, 7][::-1]
    assert np.allclose(np.array(pattern).ravel(), expected.ravel())
    page.click_head(1, 2)
    page.page.reload()
    page.idle()
    assert page.page.inner_text("#head-name") == "L1H2"
    page.page.go_back()
    page.until("document.getElementById('head-name').textContent === 'L3H7'")
    page.page.go_back()
    page.until("document.getElementById('panel').hasAttribute('data-empty')")
    assert "site" not in page.page.url
    page.clean()


def test_keys_move_clear_undo_and_help(open_page):
    page = open_page("bert_like")
    for key, name in (
        ("ArrowDown", "L0H0"),
        ("ArrowDown", "L1H0"),
        ("ArrowRight", "L1H1"),
        ("z", "L1H0"),
        ("Z", "L1H1"),
    ):
        page.page.keyboard.press(key)
        page.until(f"document.getElementById('head-name').textContent === '{name}'")
    page.page.keyboard.press("?")
    assert page.page.locator("#help").is_visible()
    page.page.keyboard.press("Escape")
    assert not page.page.locator("#help").is_visible()
    page.page.keyboard.press("Escape")
    page.until("!location.search.includes('site')")
    page.clean()


def test_views_are_tabs_and_keys_and_a_figure_is_made_when_its_view_is_first_shown(open_page):
    page = open_page("bert_like", "?site=1&head=2")
    drawn = "Bokeh.documents[0].get_model_by_name('place-single-cloud').children.length"
    assert page.page.evaluate(drawn) == 0
    page.page.click('[data-value="cloud"]')
    page.until(f"location.search.includes('view=cloud') && {drawn} === 1")
    page.idle()
    assert page.page.locator('[data-view="cloud"]').is_visible()
    assert not page.page.locator('[data-view="overview"]').is_visible()
    assert page.page.locator("#heads").is_visible()
    page.page.keyboard.press("h")
    page.until("document.documentElement.dataset.rail === 'folded'")
    assert not page.page.locator("#heads").is_visible()
    page.page.keyboard.press("1")
    page.until("!location.search.includes('view=')")
    page.page.reload()
    page.idle()
    assert not page.page.locator("#heads").is_visible()
    assert page.page.evaluate(drawn) == 0
    page.page.click("#fold")
    page.until("document.documentElement.dataset.rail === 'open'")
    page.clean()


def test_a_search_is_typed_after_the_slash_and_stands_in_the_link(open_page):
    page = open_page("bert_like", "?view=clouds")
    page.page.keyboard.press("/")
    page.page.keyboard.type("cat & 1+1")
    page.page.keyboard.press("Enter")
    page.until("location.search.includes('q=cat+%26+1%2B1')")
    page.page.reload()
    page.idle()
    assert page.page.input_value('[data-choice="search"]') == "cat & 1+1"
    page.clean()


def test_choosing_a_statistic_recolours_the_atlas_and_the_table(open_page, runs):
    page = open_page("bert_like")
    page.choose("statistic", "induction_mass")
    page.until("location.search.includes('stat=induction_mass')")
    page.idle()
    assert np.allclose(page.data("heads", "value"), RunData(runs["bert_like"]).heads.induction_mass)
    page.choose("order", "value")
    page.until("location.search.includes('order=value')")
    page.choose("show", "pattern")
    page.until("Bokeh.documents[0].get_model_by_name('thumbnails').data.image.length === 1")
    page.idle()
    page.clean()


def test_the_table_sorts_selects_and_downloads(open_page, runs):
    page = open_page("bert_like", "?stat=entropy")
    page.page.get_by_text("Entropy (nats)", exact=True).last.click()
    row = page.page.locator(".slick-row").first
    name = row.inner_text().split()[0]
    heads = RunData(runs["bert_like"]).run.heads
    least = heads.loc[heads.entropy.idxmin()]
    assert name == f"L{least.layer}H{least['head']}"
    row.click()
    page.until(f"document.getElementById('head-name').textContent === '{name}'")
    with page.page.expect_download() as download:
        page.page.click("#csv")
    lines = download.value.path().read_text().splitlines()
    assert lines[0] == "head,entropy,entropy_se"
    assert len(lines) == 73
    assert float(lines[1].split(",")[1]) == heads.query("site == 0 and head == 0").entropy.item()
    page.clean()


def test_a_point_of_the_cloud_shows_its_token(open_page):
    page = open_page("bert_like", "?site=0&head=0")
    index, x, y = page.page.evaluate(_POINT, None)
    texts = page.hover(x, y)
    assert page.data("cloud-source", "text")[index] in texts[0]
    assert "document" in texts
    page.clean()


@pytest.mark.parametrize("run", ["ragged", "thousand"])
@pytest.mark.parametrize(("width", "height", "scheme"), [(1400, 900, "light"), (1000, 700, "dark")])
def test_nothing_sticks_out_at_either_size(open_page, run, width, height, scheme):
    page = open_page(
        run, "?site=0&head=1&show=pattern", viewport={"width": width, "height": height}, color_scheme=scheme
    )
    page.clean()
    sizes = page.page.evaluate("""() => ["atlas", "pattern", "profile", "neurons", "cloud"].map((name) => {
      const { bbox } = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name(name)).frame;
      return [bbox.width, bbox.height];
    })""")
    assert min(min(size) for size in sizes) > 100


def test_a_core_run_says_in_place_of_a_plot_what_it_was_made_without(open_page):
    page = open_page("core")
    shown = page.page.locator('[data-choice="show"] option').evaluate_all("all => all.map((option) => option.value)")
    assert shown == ["statistic", "cloud"]  # cells have no pattern to show
    for select in page.page.locator('[data-choice="neuron_statistic"]').all():  # of one head, and of several
        offered = select.locator("option").evaluate_all("all => all.map((option) => option.value)")
        assert offered == ["qk_mean", "qk_attended_mean"]
    page.click_head(1, 2)
    for note, name in (("pattern", "patterns"), ("profile", "profiles")):
        told = page.page.inner_text(f'[data-note="{note}"]')
        assert told == f"This run was made with --stats core: no {name}."
    assert not page.page.locator('[data-note="neurons"]').is_visible()
    page.clean()


def test_a_head_without_a_value_says_why_on_hover(open_page):
    page = open_page("ragged", "?stat=previous_mass")
    texts = page.hover(*page.cell(3, 0))
    assert texts[0] == "decoder L0 cross H0"
    assert any("offsets have no meaning in cross-attention" in text for text in texts)
    assert "10 of 38 heads" in page.page.inner_text("#heads")
    page.clean()


def test_dark_follows_the_browser_and_the_choice(open_page):
    page = open_page("bert_like", color_scheme="dark")
    ink = "Bokeh.documents[0].get_model_by_name('atlas').below[0].major_label_text_color"
    back = "getComputedStyle(document.body).backgroundColor"
    page.until(f"{ink} === '#979fab'")
    dark = page.page.evaluate(back)
    page.choose("theme", "light")
    page.until(f"{ink} === '#6b7280'")
    page.until(f"{back} !== '{dark}'")
    page.page.reload()
    page.idle()
    assert page.page.evaluate(ink) == "#6b7280"
    page.clean()


@pytest.mark.parametrize("query", ["?site=0&head=0", "?stat=%3Cimg%20src=x%3E&theme=%22%3E&site=0&head=1&show=pattern"])
def test_text_of_a_run_stays_text(open_page, query):
    page = open_page("hostile", query)
    page.page.click(".warnings summary")
    page.page.click("#help-button")
    page.page.keyboard.press("Escape")
    x, y = page.cell(0, 0)
    page.hover(x, y)
    texts = page.hover(*page.page.evaluate(_POINT, 0)[1:])
    assert any(text.startswith(("query <img", "key <img")) for text in texts)  # shown as written
    counted = page.page.evaluate("""() => { let found = 0;
      const walk = (root) => { found += root.querySelectorAll("img, script:not([nonce]):not([src])").length;
        for (const e of root.querySelectorAll("*")) if (e.shadowRoot) walk(e.shadowRoot); };
      walk(document); return found; }""")
    assert counted == page.page.evaluate(
        "document.querySelectorAll('script[type=\"application/json\"]:not([nonce])').length"
    )
    assert page.page.evaluate("window.__owned") is None
    assert page.page.inner_text(".fact.model") == HOSTILE
    assert page.page.title().startswith(HOSTILE[:40])
    page.clean()


def test_two_people_look_at_different_heads(open_page):
    first, second = open_page("bert_like"), open_page("bert_like")
    first.click_head(0, 1)
    second.click_head(4, 4)
    assert first.page.inner_text("#head-name") == "L0H1"
    assert second.page.inner_text("#head-name") == "L4H4"


def test_the_largest_click_stays_under_the_limit(open_page):
    page = open_page("thousand")
    for act in (
        lambda: page.click_head(20, 3),
        lambda: page.choose("show", "pattern"),
        lambda: page.choose("statistic", "entropy"),
    ):
        page.idle()
        before = page.received
        link = page.page.url
        act()
        page.until(f"location.href !== {link!r}")
        page.idle()
        assert 0 < page.received - before < 500_000


def test_the_browser_refuses_other_hosts_and_eval(open_page):
    page = open_page("bert_like")
    policy = page.page.goto(page.base).headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
    page.clean()


def test_after_a_lost_connection_the_page_goes_on(browser, served):
    page = Page(browser, served("bert_like").url)
    sockets: list[Any] = []

    def route(socket: Any) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    page.page.route_web_socket(re.compile(r"/ws$"), route)
    try:
        page.open()
        page.click_head(3, 7)
        sockets[0].close(code=4000)
        page.until("document.getElementById('message').textContent.startsWith('connection lost')")
        with page.page.expect_navigation():
            pass
        page.idle()
        assert page.page.inner_text("#head-name") == "L3H7"
        page.page.keyboard.press("ArrowRight")
        page.until("document.getElementById('head-name').textContent === 'L3H8'")
    finally:
        page.context.close()
