"""Drives one page that needs no server: clicks, hovers, and reads what the figures hold."""

from __future__ import annotations

import re

from tests.explorer import driven
from tests.explorer.driven import TOOLTIP

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


def numbers(text: str) -> list[float]:
    """Every number of a text that people read."""
    return [float(n) for n in re.findall(r"-?\d[\d.]*(?:e[-+]?\d+)?", text.replace("−", "-").replace(",", ""))]


class Page(driven.Page):
    """A page of its own, from a file."""

    SIZE = (1000, 700)
    OWN = ("file:", "data:", "blob:", "about:")

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
