"""One page in a browser: driven by mouse and keys, read through its models."""

from __future__ import annotations

import time
from typing import Any

#: Where the middle of a head's cell is on the screen.
_CELL = """([site, head]) => {
  const doc = Bokeh.documents[0], data = doc.get_model_by_name("heads").data;
  const view = Bokeh.index.find_one(doc.get_model_by_name("atlas"));
  const i = Array.from(data.site).findIndex((s, k) => s === site && data.head[k] === head);
  const box = view.canvas_view.el.getBoundingClientRect();
  return [box.left + view.frame.x_scale.compute(data.x[i]), box.top + view.frame.y_scale.compute(data.y[i])];
}"""
TOOLTIP = """() => {
  const texts = [];
  const walk = (root) => { for (const e of root.querySelectorAll("*")) {
    if (e.classList.contains("bk-Tooltip") && getComputedStyle(e).display !== "none")
      texts.push([...e.shadowRoot.querySelectorAll("b, td")].map((n) => n.textContent));
    if (e.shadowRoot) walk(e.shadowRoot); } };
  walk(document); return texts.filter((t) => t.length);
}"""


#: Where a row of a source stands on a figure.
_MARK = """([figure, source, x, y, row]) => {
  const doc = Bokeh.documents[0], view = Bokeh.index.find_one(doc.get_model_by_name(figure));
  const box = view.canvas_view.el.getBoundingClientRect(), { data } = doc.get_model_by_name(source);
  return [box.left + view.frame.x_scale.compute(data[x][row]), box.top + view.frame.y_scale.compute(data[y][row])];
}"""


class Page:
    """One page and what went wrong on it. ``SIZE``: its window. ``OWN``: how addresses begin that ask nobody."""

    SIZE = (1400, 900)
    OWN: tuple[str, ...] = ("data:", "blob:")

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        options = {
            "viewport": dict(zip(("width", "height"), self.SIZE, strict=True)),
            "color_scheme": "light",
        } | context
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.received = self.sent = 0
        self.base = url
        self.page.on("console", lambda m: self.problems.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", self._watch)

    @property
    def foreign(self) -> list[str]:
        """What was asked of others."""
        return [url for url in self.requests if not url.startswith((self.base, *self.OWN))]

    def _watch(self, socket: Any) -> None:
        socket.on("framereceived", self._frame)
        socket.on("framesent", self._frame_sent)

    def _frame(self, payload: Any) -> None:
        self.received += len(payload)

    def _frame_sent(self, payload: Any) -> None:
        self.sent += len(payload)

    def quiet(self) -> tuple[int, int]:
        """Wait until half a second has passed without a message; bytes received and sent so far."""
        before = (-1, -1)
        while (now := (self.received, self.sent)) != before:
            before = now
            self.page.wait_for_timeout(500)
        return now

    def open(self, query: str = "") -> Page:
        self.page.goto(self.base + query)
        return self.idle()

    def idle(self) -> Page:
        """Wait until Bokeh has drawn everything it was told."""
        self.until("document.documentElement.dataset.ready !== undefined && Bokeh.documents[0].is_idle")
        return self

    def until(self, script: str, timeout: float = 20) -> Any:
        """Poll: the page's security policy forbids the eval that wait_for_function needs."""
        end = time.monotonic() + timeout
        while not (value := self.page.evaluate(script)):
            assert time.monotonic() < end, f"never true: {script}; {self.problems}"
            time.sleep(0.02)
        return value

    def cell(self, site: int, head: int) -> tuple[float, float]:
        x, y = self.page.evaluate(_CELL, [site, head])
        return x, y

    def mark(self, figure: str, x: str, y: str, row: int, source: str = "heads") -> tuple[float, float]:
        """Where a row of a source stands on the screen, by its columns x and y in a figure."""
        left, top = self.page.evaluate(_MARK, [figure, source, x, y, row])
        return left, top

    def hover(self, x: float, y: float) -> list[str]:
        self.page.mouse.move(x - 2, y - 2)
        self.page.mouse.move(x, y)
        return self.until(TOOLTIP)[0]

    def click_head(self, site: int, head: int) -> None:
        self.page.mouse.click(*self.cell(site, head))
        self.until(f"location.search.includes('site={site}&head={head}')")
        self.idle()

    def data(self, source: str, column: str) -> Any:
        script = """([s, c]) => Array.from(Bokeh.documents[0].get_model_by_name(s).data[c],
          (v) => ArrayBuffer.isView(v) ? Array.from(v) : v)"""
        return self.page.evaluate(script, [source, column])

    def choose(self, name: str, value: str) -> None:
        self.page.select_option(f'[data-choice="{name}"]', value)

    def clean(self) -> None:
        """Nothing went wrong, nobody else was asked, nothing sticks out."""
        assert self.problems == [], "\n".join(map(str, self.problems))
        assert self.foreign == []
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
