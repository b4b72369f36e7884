"""Drives one page that needs no server: clicks, hovers, and reads what the figures hold."""

from __future__ import annotations

import re
import time
from typing import Any

AT = """([name, x, row]) => {
  const doc = Bokeh.documents[0], plot = doc.get_model_by_name("qk-view");
  const view = Bokeh.index.find_one(plot);
  view.el.scrollIntoView({ block: "nearest" });
  const y = doc.get_model_by_name(name).data.y[row], { x_scale, y_scale } = view.frame;
  const target = y_scale.compute(y);
  scrollBy(0, view.canvas_view.el.getBoundingClientRect().top + target - innerHeight / 2);
  const box = view.canvas_view.el.getBoundingClientRect();
  return [box.left + x_scale.compute(x), box.top + target];
}"""
TOOLTIP = """() => {
  const texts = [];
  const walk = (root) => { for (const e of root.querySelectorAll("*")) {
    if (e.classList.contains("bk-Tooltip") && getComputedStyle(e).display !== "none")
      texts.push([...e.shadowRoot.querySelectorAll("b, td")].map((n) => n.textContent));
    if (e.shadowRoot) walk(e.shadowRoot); } };
  walk(document); return texts.filter((t) => t.length);
}"""


def numbers(text: str) -> list[float]:
    """Every number of a text that people read."""
    return [float(n) for n in re.findall(r"-?\d[\d.]*(?:e[-+]?\d+)?", text.replace("−", "-").replace(",", ""))]


class Page:
    """One page and what went wrong on it."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        options = {"viewport": {"width": 1000, "height": 700}, "color_scheme": "light"} | context
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.base = url
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.problems.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self) -> Page:
        self.page.goto(self.base)
        self.until("document.documentElement.dataset.ready !== undefined && Bokeh.documents[0].is_idle")
        return self

    def until(self, script: str, timeout: float = 20) -> Any:
        """Poll: the page's security policy forbids the eval that wait_for_function needs."""
        end = time.monotonic() + timeout
        while not (value := self.page.evaluate(script)):
            assert time.monotonic() < end, f"never true: {script}; {self.problems}"
            time.sleep(0.02)
        return value

    def data(self, source: str, column: str) -> Any:
        script = """([s, c]) => Array.from(Bokeh.documents[0].get_model_by_name(s).data[c],
          (v) => ArrayBuffer.isView(v) ? Array.from(v) : v)"""
        return self.page.evaluate(script, [source, column])

    def click_at(self, source: str, x: float, row: int) -> None:
        """Click a row of the neuron view at a place of its x axis (0 to 1000)."""
        self.page.wait_for_timeout(350)  # to Bokeh two clicks within 300 ms are one double click, wherever they are
        self.page.mouse.click(*self.page.evaluate(AT, [source, x, row]))
        self.until("Bokeh.documents[0].is_idle")

    def hover_at(self, source: str, x: float, row: int) -> list[str]:
        self.page.mouse.move(2, 2)
        self.until(f"!({TOOLTIP})().length")
        x, y = self.page.evaluate(AT, [source, x, row])
        self.page.mouse.move(x - 1, y - 1)
        self.page.mouse.move(x, y)
        return self.until(TOOLTIP)[0]

    def clean(self) -> None:
        """Nothing went wrong, nobody was asked, nothing sticks out."""
        assert self.problems == []
        assert [url for url in self.requests if not url.startswith(("file:", "data:", "blob:", "about:"))] == []
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
