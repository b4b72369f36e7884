"""Comparing heads by mouse: filters, shift-clicks, the lasso, facets and examples, in a real browser."""

from __future__ import annotations

import numpy as np
import pytest

from attnengine_explorer.fields import Between
from attnengine_explorer.filtering import interval, passing
from attnengine_explorer.run_data import RunData

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def run(runs):
    return RunData(runs["full"])


def test_a_filter_by_interval_and_one_by_type_dim_heads_shorten_the_table_and_say_how_many_pass(open_page, run):
    page = open_page("full")
    page.page.click("#filter summary")
    page.page.select_option("#filter-statistic", "entropy")
    page.page.fill("#filter-low", "2.5")
    page.page.click("#filter-form button")
    page.until("location.search.includes('filters=entropy:2.5:')")
    expected = passing(run, (Between("entropy", 2.5, None),))
    page.idle()
    assert np.array_equal(np.array(page.data("heads", "alpha")) == 1, expected)
    assert page.page.inner_text('[data-note="passing"]') == f"{expected.sum()} of 72 heads pass the filters"
    assert page.page.inner_text("#chips") == "Entropy ≥ 2.5"
    assert len(page.data("veil", "x")) == (~expected).sum()
    first = page.page.locator(".slick-row").first.inner_text().split()[0]
    assert first == run.name(*list(run.index)[int(np.flatnonzero(expected)[0])])
    page.page.click("#filter summary")
    page.page.select_option("#filter-type", "induction")
    page.until("location.search.includes('type:induction')")
    page.page.click("#chips button >> nth=0")
    page.until("document.querySelectorAll('#chips button').length === 1")
    page.page.click("#chips button")
    page.until("!location.search.includes('filters')")
    page.idle()
    assert set(page.data("heads", "alpha")) == {1}
    page.clean()


def test_shift_clicks_choose_heads_that_are_marked_in_the_same_colour_everywhere(open_page):
    page = open_page("full", "?site=1&head=2&facet=heads")
    page.page.keyboard.down("Shift")
    page.page.mouse.click(*page.cell(4, 5))
    page.until("location.search.includes('heads=1:2~4:5')")
    page.idle()
    page.page.wait_for_timeout(350)  # to Bokeh two clicks within 300 ms are one double click
    page.page.mouse.click(*page.cell(0, 11))
    page.page.keyboard.up("Shift")
    page.until("location.search.includes('heads=0:11~1:2~4:5')")
    page.idle()
    colours = dict(zip(page.data("marked", "site"), page.data("marked", "color"), strict=True))
    drawn = dict(zip(page.data("profiles-dots", "name"), page.data("profiles-dots", "color"), strict=True))
    bars = dict(zip(page.data("neuron-rows-source", "name"), page.data("neuron-rows-source", "color"), strict=True))
    assert drawn == bars == {"L0H11": colours[0], "L1H2": colours[1], "L4H5": colours[4]}
    assert len(set(colours.values())) == 3
    page.page.keyboard.press("Escape")
    page.until("!location.search.includes('heads=')")
    assert "site=1" in page.page.url
    page.clean()


@pytest.mark.parametrize(("figure", "x", "y"), [("compare", "cx", "cy"), ("similar", "mx", "my")])
def test_a_lasso_chooses_the_heads_within_it(open_page, figure, x, y):
    page = open_page("full")
    at = np.array([page.mark(figure, x, y, row) for row in range(72)])
    middle = np.median(at, axis=0)
    inside = (np.abs(at - middle) < 40).all(axis=1)
    assert 1 < inside.sum() < 72
    left, top, right, bottom = *(middle - 40), *(middle + 40)
    page.page.mouse.move(left, top)
    page.page.mouse.down()
    for corner in ((right, top), (right, bottom), (left, bottom), (left, top)):
        page.page.mouse.move(*corner, steps=6)
    page.page.mouse.up()
    page.until("location.search.includes('heads=')")
    page.idle()
    chosen = set(zip(page.data("marked", "site"), page.data("marked", "head"), strict=True))
    sites, heads = page.data("heads", "site"), page.data("heads", "head")
    assert chosen == {(sites[row], heads[row]) for row in np.flatnonzero(inside)}
    page.clean()


def test_a_point_says_both_numbers_and_its_bars_are_the_intervals_of_the_table(open_page, run):
    page = open_page("full", "?facet=heads&x=entropy&y=p_max&site=2&head=3&heads=2:3")
    row = run.index[2, 3]
    texts = page.hover(*page.mark("compare", "cx", "cy", row))
    assert {"Entropy", "Largest weight"} <= set(texts)
    for axis, name in (("cx", "entropy"), ("cy", "p_max")):
        low, high = interval(run, name)
        assert page.data("marked", f"{axis}_lo") == [low[row]]
        assert page.data("marked", f"{axis}_hi") == [high[row]]
    page.clean()


@pytest.mark.parametrize("first", ["?view=clouds&site=1&head=2&facet=heads", "?site=1&head=2"])
def test_heads_are_marked_in_figures_that_are_made_after_the_page(open_page, first):
    page = open_page("full", first)
    page.page.evaluate("attnengine.change({view: 'overview', facet: 'heads'})")
    page.until("document.getElementById('compare-facet').checkVisibility()")
    page.idle()
    (x,) = page.data("marked", "cx")
    assert x == page.data("heads", "cx")[page.data("heads", "name").index("L1H2")]
    page.clean()


def test_facets_show_one_head_or_all_and_an_example_opens_its_sentence(open_page, run):
    page = open_page("full", "?site=1&head=2&example=entropy")
    assert not page.page.locator("#compare-facet").is_visible()
    assert page.page.locator("#examples li").count() == 20
    assert page.page.locator("#types tr").count() == 12
    page.page.click('.facets [data-value="heads"]')
    page.until("location.search.includes('facet=heads')")
    assert page.page.locator("#compare-facet").is_visible()
    page.page.click("#head-tab")
    page.until("!location.search.includes('facet')")
    example = run.run.examples.query("site == 1 and head == 2 and statistic == 'entropy' and rank == 0").iloc[0]
    page.page.locator(".example").first.click()
    page.until(f"location.search.includes('doc={example.document}&token={example.token}')")
    assert "view=sentence" in page.page.url
    page.page.keyboard.press("z")
    page.until("!location.search.includes('view')")
    page.clean()
