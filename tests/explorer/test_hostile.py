"""Tokens that try to be more than text, in every view and in every file: they stay text, and nobody is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attnengine as ae
from attnengine.notebook import View
from attnengine_explorer.neuron_page import neuron_page
from tests.explorer import sentences
from tests.explorer.page_driver import Page

HOSTILE = [
    '<img src=x onerror="window.__owned=1">', "<script>window.__owned=2</script>", "javascript:window.__owned=3",
    "$$x$$", "\u202eevil\u202c", "a\u200fb", "x" * 10_000, "nul\0nul", "\ud800", "</script><b>", "{{7*7}}", "]]>",
    "&lt;b&gt;", "'\"`", "\x1b[31m", "\u2028line",
]  # fmt: skip
#: Elements and globals that hostile text would leave behind.
_LEFT = """() => {
  let found = 0;
  const walk = (root) => {
    found += root.querySelectorAll("img, script[src]").length;
    for (const one of root.querySelectorAll("*")) if (one.shadowRoot) walk(one.shadowRoot);
  };
  walk(document);
  return [found, window.__owned ?? null];
}"""


def sentence() -> Any:
    return sentences.sentence(HOSTILE, segment=[0] * 8 + [1] * 8)


def weights() -> list[np.ndarray]:
    n = len(HOSTILE)
    return [np.random.default_rng(0).dirichlet(np.ones(n), size=(1, 3, n)) for _ in range(2)]


PAGES = [
    "?view=overview&site=0&head=1",
    "?view=clouds",
    "?view=cloud&site=0&head=1&labels=tokens",
    "?view=sentence&text=%3Cimg%20src%3Dx%20onerror%3D%22window.__owned%3D1%22%3E",
]
VIEWS: dict[str, Callable[[], View | None]] = {
    "head view": lambda: ae.head_view(weights(), HOSTILE, 8),
    "model view": lambda: ae.model_view(weights(), HOSTILE, 8),
    "neuron view": lambda: View(
        neuron_page(sentence(), (0, 0), [(0, 0), (1, 1)], title=HOSTILE[0] + "\ud800", caption="".join(HOSTILE))
    ),
}


@pytest.mark.browser
@pytest.mark.parametrize("where", ["file", "notebook"])
@pytest.mark.parametrize("name", VIEWS)
def test_hostile_tokens_stay_text_in_files_and_notebooks(name: str, where: str, browser: Any, tmp_path: Path) -> None:
    view = VIEWS[name]()
    assert view is not None
    path = tmp_path / "view.html"
    if where == "file":
        view.to_html(path)
    else:
        path.write_text(f"<!DOCTYPE html><title>notebook</title>{view._repr_html_()}", encoding="utf-8")
    tab = Page(browser, path.as_uri())
    try:
        tab.page.goto(tab.base)
        frame = tab.page.frames[-1]
        frame.wait_for_selector("html[data-ready]", timeout=60_000)
        for x, y in ((120, 300), (500, 320), (880, 330), (300, 200)):
            tab.page.mouse.move(x, y)
            tab.page.wait_for_timeout(120)
        assert frame.evaluate(_LEFT) == [0, None]
        assert tab.problems == []
        assert len([url for url in tab.requests if not url.startswith(("data:", "blob:", "about:"))]) == 1
    finally:
        tab.context.close()


@pytest.mark.browser
def test_a_hostile_picture_is_saved_as_text(browser: Any, tmp_path: Path) -> None:
    import xml.etree.ElementTree as Tree

    tab = Page(browser, VIEWS["neuron view"]().to_html(tmp_path / "n.html").as_uri()).open()
    try:
        with tab.page.expect_download() as download:
            tab.page.click('[data-export="svg"]')
        root = Tree.fromstring(download.value.path().read_text(encoding="utf-8"))
        names = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert "script" not in names
        assert "img" not in names
        with tab.page.expect_download() as download:
            tab.page.click('[data-export="csv"]')
        cells = download.value.path().read_text(encoding="utf-8")
        assert "<img src=x" in cells
        assert "\0" not in cells
    finally:
        tab.context.close()


@pytest.mark.browser
@pytest.mark.parametrize("query", PAGES)
def test_a_hostile_run_stays_text_on_every_page(query: str, browser: Any, served: Any) -> None:
    from tests.explorer.driven import Page as Live

    page = Live(browser, served("hostile_clouds").url)
    try:
        page.open(query)
        if "sentence" in query:  # the model of an invented run cannot be loaded, and that is said
            page.until("document.getElementById('sentence-problem').textContent.length > 0", timeout=90)
        page.page.mouse.move(900, 400)
        page.page.wait_for_timeout(400)
        assert page.page.evaluate("window.__owned ?? null") is None
        assert page.page.evaluate("document.querySelectorAll('img').length") == 0
        assert page.problems == []
        assert page.foreign == []
    finally:
        page.context.close()


def test_the_hostile_list_is_hostile() -> None:
    tokens = replace(sentence().streams[""], texts=tuple(HOSTILE))
    assert max(map(len, tokens.texts)) == 10_000
    assert any("\0" in text for text in tokens.texts)
    with pytest.raises(UnicodeEncodeError):
        "".join(tokens.texts).encode()
