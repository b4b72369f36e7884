"""What the clouds cost a person, in a real browser: pan, fresh picture, lasso, search, head switch, hover, bytes.

    python -m benchmarks.cloud_views [--repeat 15] [--keep FOLDER] [--cpu]

Makes a run of two layers of two heads with 1,000,000 points each and one of 1,024 heads with 10,000 points, opens them
in headless Chromium (software rendering) and prints the median and the 95th percentile beside the targets of the
explorer. Needs Debian's chromium and the tests' generator of runs. ``--cpu``: instead, the processor time that the
server spends on each act, without a browser, which other work on the machine does not stretch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.screenshots import chromium, server

TARGETS = {
    "fresh picture of 1M points after a pan, ms": 250,
    "pan: first response, ms": 50,
    "lasso of 1M points → count, ms": 300,
    "search in 1M points, ms": 300,
    "search in 1,024 heads, ms": 300,
    "head switch at 1M points, ms": 250,
    "hover → ring and words, ms": 33,
    "largest click, kB": 500,
    "page with 1M points, first picture, ms": 1500,
}
_DOC = "Bokeh.documents[0]"
_IMAGE = f"{_DOC}.get_model_by_name('cloud-image')"


class Timed:
    """One page; every step is timed inside the browser, from the event to what it changes."""

    def __init__(self, browser: Any, url: str) -> None:
        self.page = browser.new_page(
            viewport={"width": 1400, "height": 900}, bypass_csp=True
        )  # timed() makes functions
        self.received = 0
        self.page.on("websocket", lambda ws: ws.on("framereceived", self._frame))
        begin = time.perf_counter()
        self.page.goto(url)
        self.until("document.documentElement.dataset.ready !== undefined")
        self.until(f"{_DOC}.is_idle")
        self.first = 1000 * (time.perf_counter() - begin)

    def _frame(self, payload: Any) -> None:
        self.received += len(payload)

    def until(self, script: str, seconds: float = 60) -> None:
        """Wait until a script is true."""
        end = time.perf_counter() + seconds
        while not self.page.evaluate(script):
            if time.perf_counter() > end:
                raise TimeoutError(script)
            time.sleep(0.01)

    def timed(self, act: str, seen: str, figure: str | None = None) -> float:
        """Milliseconds in the browser from ``act`` until ``seen`` differs and the frame after that is painted.

        Of a change that ``act`` makes by itself, with no word from the server, the ``figure`` that shows it can be
        named: then the frame that paints it counts, and not one more.
        """
        script = """async ([act, seen, figure]) => {
          const run = (text) => Function(`return ${text}`)();
          const view = figure && Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name(figure));
          const frame = () => new Promise((painted) => requestAnimationFrame(() => setTimeout(painted, 0)));
          const before = run(seen), painted = view?._render_count, begin = performance.now();
          run(act);
          for (;;) {
            await (view ? frame() : new Promise((next) => setTimeout(next, 1)));
            if (run(seen) !== before && (!view || view._render_count > painted)) break;
            if (performance.now() - begin > 30000) throw new Error("nothing came of " + act);
          }
          if (!view) await frame();
          return performance.now() - begin;
        }"""
        return float(self.page.evaluate(script, [act, seen, figure]))


def main() -> None:
    """Make the runs, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--keep", type=Path, help="where the generated runs are kept between measurements")
    parser.add_argument("--cpu", action="store_true", help="processor time of the server alone, without a browser")
    arguments = parser.parse_args()
    if arguments.cpu:
        with tempfile.TemporaryDirectory() as scratch:
            report_cpu(measure_cpu(made(arguments.keep or Path(scratch), "million"), arguments.repeat))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        found: dict[str, list[float]] = {}
        with chromium() as browser:
            with server(made(folder, "million")) as url:
                measure_million(browser, url, arguments.repeat, found)
            with server(made(folder, "thousand_clouds")) as url:
                measure_thousand(browser, url, arguments.repeat, found)
    report(found)


def made(folder: Path, name: str) -> Path:
    """A generated run, made once."""
    from tests.explorer import cloud_runs

    path = folder / name
    if not path.exists():
        getattr(cloud_runs, name)(path)
    return path


def measure_million(browser: Any, url: str, repeat: int, found: dict[str, list[float]]) -> None:
    """One head of a million points."""
    query = "?view=cloud&site=0&head=0&labels=none"
    Timed(browser, url + query).page.close()  # compiles, reads the tokens: the server's first minute
    for _ in range(max(repeat // 4, 3)):
        page = Timed(browser, url + query)
        begin = time.perf_counter()
        page.until(f"{_IMAGE}.data.image.length > 0")
        add(found, "page with 1M points, first picture, ms", page.first + 1000 * (time.perf_counter() - begin))
        page.page.close()
    page = Timed(browser, url + query)
    page.until(f"{_IMAGE}.data.image.length > 0")
    page.page.wait_for_timeout(1500)
    image = f"{_IMAGE}.data.image[0]"
    for i in range(repeat):
        step = "0.2" if i % 2 else "-0.2"
        move = f"""(() => {{ const r = {_DOC}.get_model_by_name('single-cloud').x_range;
            const d = {step} * (r.end - r.start) / 10; r.setv({{start: r.start + d, end: r.end + d}}); }})()"""
        add(found, "fresh picture of 1M points after a pan, ms", page.timed(move, image))
        add(found, "pan: first response, ms", pan(page))
        page.page.wait_for_timeout(150)
    for i in range(repeat):
        box = corners(page, 0.2 + 0.02 * i)
        lasso = f"attnengine.send({{kind: 'cloud.lasso', x: {box[0]}, y: {box[1]}, how: 'replace'}})"
        add(found, "lasso of 1M points → count, ms", page.timed(lasso, note("cloud-search")))
        page.page.wait_for_timeout(900)  # its summary follows
    page.page.evaluate("attnengine.change({lasso: ''})")
    page.page.wait_for_timeout(500)
    for i in range(repeat):
        word = ["the", "cat", "in", "mat", "index"][i % 5]
        search = f"attnengine.change({{search: '{word}'}})"
        add(found, "search in 1M points, ms", page.timed(search, note("cloud-search")))
        page.page.wait_for_timeout(900)
    page.page.evaluate("attnengine.change({search: ''})")
    page.page.wait_for_timeout(900)
    for i in range(repeat):
        before = page.received
        switch = f"attnengine.change({{site: {i // 2 % 2}, head: {(i + 1) % 2}}})"
        add(found, "head switch at 1M points, ms", page.timed(switch, image))
        page.page.wait_for_timeout(300)
        add(found, "largest click, kB", (page.received - before) / 1000)
    for i in range(repeat):
        at = f"attnengine.send({{kind: 'cloud.hover', x: {0.3 * i}, y: {-0.2 * i}, asked: {i}}})"
        add(
            found,
            "hover → ring and words, ms",
            page.timed(at, "document.getElementById('cloud-tip').dataset.asked ?? ''"),
        )
    page.page.close()


def pan(page: Timed) -> float:
    """Milliseconds from a step of a drag until the canvas is drawn anew."""
    script = """async () => {
      const view = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name("single-cloud"));
      const el = view.canvas_view.events_el, box = el.getBoundingClientRect();
      const fire = (type, x, y) => el.dispatchEvent(new PointerEvent(type, {bubbles: true, pointerId: 1,
        isPrimary: true, clientX: box.left + x, clientY: box.top + y, buttons: 1, pointerType: "mouse"}));
      const range = view.model.x_range, x0 = range.start;
      fire("pointerdown", 200, 200);
      const begin = performance.now();
      for (let i = 1; i < 6 && range.start === x0; i++) fire("pointermove", 200 + 8 * i, 200);
      await new Promise((painted) => requestAnimationFrame(() => setTimeout(painted, 0)));
      const end = performance.now();
      fire("pointerup", 240, 200);
      return range.start === x0 ? NaN : end - begin;
    }"""
    return float(page.page.evaluate(script))


def measure_thousand(browser: Any, url: str, repeat: int, found: dict[str, list[float]]) -> None:
    """All clouds of 1,024 heads."""
    page = Timed(browser, url + "?view=clouds")
    page.until(f"({_DOC}.get_model_by_name('clouds-image')?.data.image.length ?? 0) > 0", 120)
    page.page.wait_for_timeout(1000)
    for i in range(repeat):
        before = page.received
        word = ["the", "cat", "in", "mat", "index"][i % 5]
        image = f"{_DOC}.get_model_by_name('clouds-image').data.image[0]"
        add(found, "search in 1,024 heads, ms", page.timed(f"attnengine.change({{search: '{word}'}})", image))
        page.page.wait_for_timeout(300)
        add(found, "largest click, kB", (page.received - before) / 1000)
    page.page.close()


def measure_cpu(run: Path, repeat: int) -> dict[str, list[float]]:
    """Milliseconds of processor time from an act until its message is written, with a million points a head."""
    from bokeh.document import Document

    from attnengine_explorer.run_data import RunData
    from attnengine_explorer.session import Session
    from attnengine_explorer.state import ViewState

    found: dict[str, list[float]] = {}
    data = RunData(run)
    state = ViewState(view="cloud", site=0, head=0, labels="none")
    Session(Document(), data, state, [run])  # compiles, and reads the tokens
    session = Session(Document(), data, state, [run])
    plot = session.document.get_model_by_name("single-cloud")

    numbers = itertools.count()

    def act(**what: Any) -> float:
        begin = time.thread_time()  # a thread's summary of the act before is not this act's
        session.wire.act = json.dumps(what | {"n": next(numbers)})
        return 1000 * (time.thread_time() - begin)

    def moved() -> float:
        begin = time.thread_time()
        plot.x_range.start += 0.1
        for callback in session.document.session_callbacks:
            session.document.callbacks.remove_session_callback(callback)
            callback.callback()
        return 1000 * (time.thread_time() - begin)

    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    for i in range(repeat):
        add(found, "fresh picture", moved())
        x, y = (5 * np.cos(angle)).tolist(), ((5 + 0.1 * i) * np.sin(angle)).tolist()
        add(found, "hover", act(kind="cloud.hover", x=0.3 * i, y=1.0, asked=i))
        add(found, "lasso → count", act(kind="cloud.lasso", x=x, y=y, how="replace"))
        act(kind="change", values={"lasso": ""})
        word = ("the", "cat", "in", "mat", "index")[i % 5]
        add(found, "search", act(kind="change", values={"search": word}))
        act(kind="change", values={"search": ""})
        add(found, "head switch", act(kind="change", values={"head": (i + 1) % 2}))
    return found


def report_cpu(found: dict[str, list[float]]) -> None:
    """The table of processor times."""
    print("| 1,000,000 points, server's processor time, ms | median | p95 |\n|---|---|---|")
    for name, values in found.items():
        print(f"| {name} | {np.median(values):.0f} | {np.percentile(values, 95):.0f} |")


def corners(page: Timed, share: float) -> tuple[list[float], list[float]]:
    """A 40-sided loop around the middle of the window."""
    ranges = (
        f"(({{x_range: x, y_range: y}}) => [x.start, x.end, y.start, y.end])({_DOC}.get_model_by_name('single-cloud'))"
    )
    x0, x1, y0, y1 = page.page.evaluate(ranges)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    half = share * min(x1 - x0, y1 - y0) / 2
    x, y = (x0 + x1) / 2 + half * np.cos(angle), (y0 + y1) / 2 + half * np.sin(angle)
    return x.round(5).tolist(), y.round(5).tolist()


def note(name: str) -> str:
    """The text of a note, as a script."""
    return f"document.querySelector('[data-note={name}]').textContent"


def add(found: dict[str, list[float]], name: str, value: float) -> None:
    """Keep a measurement."""
    found.setdefault(name, []).append(value)


def report(found: dict[str, list[float]], say: Callable[[str], None] = print) -> None:
    """The table, as Markdown."""
    say(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}")  # fmt: skip
    say("| | median | p95 | target |\n|---|---|---|---|")
    for name, target in TARGETS.items():
        values = np.array(found.get(name, []))
        values = values[np.isfinite(values)]
        if len(values):
            say(f"| {name} | {np.median(values):.0f} | {np.percentile(values, 95):.0f} | {target} |")


if __name__ == "__main__":
    main()
