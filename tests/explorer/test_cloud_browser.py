"""The pages Clouds and Cloud as people use them: a real browser, driven by mouse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attnengine_explorer.run_data import RunData
from tests.explorer.driven import TOOLTIP, Page

pytestmark = pytest.mark.browser

#: Where a point of the cloud stands on the screen, from its place in the plane.
_ON_SCREEN = """([x, y]) => {
  const view = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name("single-cloud"));
  const box = view.canvas_view.el.getBoundingClientRect();
  return [box.left + view.frame.x_scale.compute(x), box.top + view.frame.y_scale.compute(y)];
}"""
_CELL = """([x, y]) => {
  const view = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name("clouds"));
  const box = view.canvas_view.el.getBoundingClientRect();
  return [box.left + view.frame.x_scale.compute(x), box.top + view.frame.y_scale.compute(y)];
}"""
_TIP = "document.getElementById('cloud-tip')"


def drawn(page: Page) -> Page:
    """Wait until the figure has its final size and its marks."""
    page.until("(window.Bokeh?.documents[0]?.get_model_by_name('cloud-points')?.data.x.length ?? 0) > 0")
    page.page.wait_for_timeout(150)
    return page.idle()


def on_screen(page: Page, at: Any) -> tuple[float, float]:
    x, y = page.page.evaluate(_ON_SCREEN, [float(at[0]), float(at[1])])
    return x, y


def lonely(points: np.ndarray) -> int:
    """The point farthest from its nearest other one."""
    from scipy.spatial import KDTree

    return int(KDTree(points).query(points, k=2)[0][:, 1].argmax())


def test_what_hovers_over_a_point_is_the_table_behind_it_and_a_click_picks_it(open_page, runs):
    run = RunData(runs["clouds"])
    points, n = run.run.embedding(1, 1).points, len(run.run.tokens)
    page = drawn(open_page("clouds", "?view=cloud&site=1&head=1&labels=none"))
    point = lonely(points)
    x, y = on_screen(page, points[point])
    page.page.mouse.move(x - 30, y - 30)
    page.page.mouse.move(x + 1, y + 1)
    page.until(f"!{_TIP}.hidden && {_TIP}.dataset.point === '{point}'")
    text = page.page.inner_text("#cloud-tip")
    token = run.run.tokens.iloc[point % n]
    assert text.startswith("query" if point < n else "key")
    assert token.text.replace(" ", "␣").replace("\n", "↵") in text
    assert f"position\t{token.position}" in text
    assert f"{token.document} · report-{token.document}.txt" in text
    ring = page.page.evaluate(
        "(() => { const b = document.getElementById('cloud-ring').getBoundingClientRect();"
        " return [b.left + b.width / 2, b.top + b.height / 2]; })()"
    )
    assert ring == pytest.approx([x, y], abs=1.5)
    before = page.received
    page.page.mouse.click(x, y)
    page.until(f"location.search.includes('token={point % n}')")
    page.idle()
    assert page.received - before < 500_000
    inspector = page.page.inner_text("#cloud-point")
    assert "nearest in space" in inspector
    assert len(page.data("cloud-near", "x")) == 10
    page.page.click("#cloud-point button:text('Open its sentence')")
    page.until("location.search.includes('view=sentence')")
    assert f"doc={token.document}" in page.page.url
    page.clean()


def test_a_lasso_by_hand_selects_adds_and_subtracts_and_the_link_keeps_it(open_page, runs):
    run = RunData(runs["clouds"])
    embedding = run.run.embedding(1, 1)
    page = drawn(open_page("clouds", "?view=cloud&site=1&head=1&labels=none"))

    def loop(points: np.ndarray) -> None:
        low, high = points.min(0) - 0.1, points.max(0) + 0.1
        corners = [low, (high[0], low[1]), high, (low[0], high[1]), low]
        at = [on_screen(page, corner) for corner in corners]
        page.page.mouse.move(*at[0])
        page.page.mouse.down()
        for x, y in at[1:]:
            page.page.mouse.move(x, y, steps=4)
        page.page.mouse.up()

    def count() -> int:
        text = page.until("document.querySelector('[data-note=\"cloud-search\"]').textContent")
        return int(text.split()[0].replace(",", ""))

    page.page.click('[data-hand="lasso"]')
    lump = embedding.points[embedding.labels == 2]
    loop(lump)
    page.until("location.search.includes('lasso=')")
    low, high = lump.min(0) - 0.1, lump.max(0) + 0.1
    inside = ((embedding.points >= low) & (embedding.points <= high)).all(axis=1)
    assert count() == pytest.approx(inside.sum(), rel=0.03)
    summary = page.until("document.getElementById('cloud-selection').innerText")
    page.until("document.getElementById('cloud-selection').innerText.includes('neurons that carry')")
    assert "Selected points" in summary
    first = page.page.url
    page.page.keyboard.down("Alt")
    loop(lump[lump[:, 0] < np.median(lump[:, 0])])
    page.page.keyboard.up("Alt")
    page.until(f"location.href !== {first!r}")
    assert count() < 0.7 * inside.sum()
    page.page.reload()
    drawn(page)
    assert count() < 0.7 * inside.sum()
    page.page.click("#cloud-let-go")
    page.until("!location.search.includes('lasso=')")
    page.clean()


def test_wheel_and_drag_move_the_window_and_the_marks_follow(open_page):
    page = drawn(open_page("clouds", "?view=cloud&site=1&head=1"))
    box = page.page.locator("#single-cloud").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    everything = len(page.data("cloud-points", "x"))
    ends = "(({start, end}) => end - start)(Bokeh.documents[0].get_model_by_name('single-cloud').x_range)"
    span = page.page.evaluate(ends)
    page.page.mouse.move(x, y)
    for _ in range(6):
        page.page.mouse.wheel(0, -240)
        page.page.wait_for_timeout(20)
    page.until(f"Bokeh.documents[0].get_model_by_name('cloud-points').data.x.length < {everything}")
    assert page.page.evaluate(ends) < span
    page.page.dblclick("#single-cloud", position={"x": 5, "y": 5})
    page.until(f"Bokeh.documents[0].get_model_by_name('cloud-points').data.x.length === {everything}")
    page.clean()


def test_a_cell_of_the_clouds_says_its_figures_and_a_click_opens_it(open_page):
    page = open_page("clouds", "?view=clouds")
    page.until("(window.Bokeh?.documents[0]?.get_model_by_name('clouds-image')?.data.image.length ?? 0) > 0")
    page.page.wait_for_timeout(200)
    x, y = page.page.evaluate(_CELL, [1, -1])
    texts = page.hover(x, y)
    assert texts[0] == "L1H1"
    assert "−0.300 ± 0.020" in texts
    page.page.mouse.move(2, 2)
    page.until(f"!({TOOLTIP})().length")
    page.page.mouse.click(x, y)
    page.until("location.search.includes('view=cloud&site=1&head=1')")
    drawn(page)
    assert page.page.inner_text("#cloud-name") == "L1H1"
    page.clean()


def test_a_solid_cloud_turns_by_hand_and_undo_turns_it_back(open_page):
    page = drawn(open_page("solid", "?view=cloud&site=0&head=0&dims=3"))
    before = page.data("cloud-points", "x")
    box = page.page.locator("#single-cloud").bounding_box()
    page.page.click('[data-hand="turn"]')
    page.page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 320, box["y"] + 240, steps=6)
    page.page.mouse.up()
    page.until("location.search.includes('yaw=')")
    page.idle()
    assert page.data("cloud-points", "x") != before
    page.page.keyboard.press("z")
    page.until("!location.search.includes('yaw=')")
    page.clean()


@pytest.mark.parametrize(("width", "height", "scheme"), [(1400, 900, "light"), (1000, 700, "dark")])
@pytest.mark.parametrize("query", [
    "?view=cloud&site=0&head=1&token=5&q=zzz&color=token_class&labels=tokens",
    "?view=clouds&color=document&site=0&head=0", "?view=cloud&site=0&head=3", "?view=cloud",
])  # fmt: skip
def test_hostile_tokens_stay_text_and_nothing_sticks_out(open_page, query, width, height, scheme):
    page = open_page("hostile_clouds", query, viewport={"width": width, "height": height}, color_scheme=scheme)
    page.page.wait_for_timeout(300)
    page.idle()
    if "token=5" in query:
        page.until("document.getElementById('cloud-point').innerText.includes('<img')")
    assert page.page.evaluate("window.__owned") is None
    assert page.page.evaluate("document.querySelectorAll('img').length") == 0
    page.clean()
