"""Every target of the explorer, measured in headless Chromium with software rendering: `attnengine bench explorer`.

    attnengine bench explorer [--repeat 20] [--keep FOLDER] [--only first,head] [--out FILE]

Generated runs of 1,024 heads, of 1,024 clouds, and of 1,000,000 points a head; a run of the bundled MiniLM for what is
typed. Prints median and 95th percentile beside the target, and writes results/explorer-<machine>-<date>.json. Times are
taken inside the browser, from the event to the frame that shows what it changed. A machine that does something else
meanwhile, or whose host does, measures that: the load stands in the result, and before each part a fixed piece of work
is timed in the same browser, by which tables of different hours can be compared.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import os
import re
import tempfile
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tornado.websocket import websocket_connect

from benchmarks import cloud_views
from benchmarks.cloud_views import Timed, add, made
from benchmarks.measure import environment, write
from benchmarks.screenshots import chromium, server

Found = dict[str, list[float]]
SENTENCE = "The cat sat on the mat because it was tired, and the dog looked on."
SESSIONS = 50
#: Row → target. Times in ms, at the 95th percentile.
TARGETS: dict[str, float] = {
    "first paint, 1,024 heads, ms": 1500,
    "hover over the atlas → its numbers, ms": 33,
    "hover over a token → its lines, ms": 33,
    "head switch, 1,024 heads, ms": 250,
    "typed sentence → head view, model loaded, ms": 1000,
    "typed sentence → neuron view, model loaded, ms": 1000,
    "expanding a token of the neuron view, ms": 250,
    "spinner of a first sentence, ms": 300 + 100,  # appears after 300; a frame and its style take the rest
    "progress and a way out of a first sentence, ms": 1000 + 100,
    "page and scripts, compressed, kB": 800,
    "a session, MB": 10,
} | cloud_views.TARGETS


#: The yardstick: 60,000 objects to JSON and back, 20,000 squares drawn, until they are painted; 30 times, in ms.
YARDSTICK = """async () => {
  const canvas = document.body.appendChild(document.createElement("canvas")), times = [];
  [canvas.width, canvas.height] = [1400, 900];
  const pen = canvas.getContext("2d");
  for (let time = 0; time < 30; time++) {
    const begin = performance.now();
    const made = Array.from({ length: 60000 }, (_, i) => ({ i, x: (i * 7919) % 1400, y: (i * 104729) % 900 }));
    for (const { i, x, y } of JSON.parse(JSON.stringify(made)).slice(0, 20000)) {
      pen.fillStyle = `hsl(${i % 360} 60% 50%)`;
      pen.fillRect(x, y, 9, 9);
    }
    await new Promise((painted) => requestAnimationFrame(() => setTimeout(painted, 0)));
    times.push(performance.now() - begin);
  }
  return times;
}"""


@dataclass(frozen=True)
class Bench:
    """One part of the table: the run it needs and what measures it."""

    run: Callable[[Path], Path]
    measure: Callable[[Any, str, int, Found], None]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="where the generated runs are kept between measurements")
    parser.add_argument("--only", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    names = list(PARTS) if arguments.only is None else arguments.only.split(",")
    if not set(names) <= set(PARTS):
        parser.error(f"--only takes some of {','.join(PARTS)}")
    found: Found = {}
    yardstick: dict[str, dict[str, float]] = {}
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as scratch, chromium() as browser:
        for name in names:
            part = PARTS[name]
            yardstick[name] = speed(browser)
            with server(part.run(arguments.keep or Path(scratch))) as url:
                part.measure(browser, url, arguments.repeat, found)
            load.append(os.getloadavg()[0])
    result = {**environment("cpu"), "load": [round(one, 1) for one in load], "browser": "headless Chromium, software",
              "repeat": arguments.repeat, "yardstick": yardstick, "rows": rows(found)}  # fmt: skip
    print_table(result)
    print(write("explorer", "cpu", result, arguments.out))


def speed(browser: Any) -> dict[str, float]:
    """Median and 95th percentile of the yardstick, in ms."""
    page = browser.new_page()
    p50, p95 = np.percentile(page.evaluate(YARDSTICK), [50, 95])
    page.close()
    return {"p50": round(float(p50), 1), "p95": round(float(p95), 1)}


def rows(found: Found) -> list[dict[str, Any]]:
    """Median, 95th percentile, number and target of each row that was measured."""
    table = []
    for name, target in TARGETS.items():
        values = np.array(found.get(name, []))
        values = values[np.isfinite(values)]
        if len(values):
            p50, p95 = np.percentile(values, [50, 95])
            table.append({"row": name, "p50": round(float(p50), 1), "p95": round(float(p95), 1), "n": len(values),
                          "target": target, "met": bool(p95 <= target)})  # fmt: skip
    return table


def print_table(result: dict[str, Any]) -> None:
    """The table as Markdown, with what it was measured on."""
    print(f"{result['machine']}, load {max(result['load'])}, {result['date']}, commit {result['commit'][:12]}\n")
    print("| | p50 | p95 | n | target | |\n|---|---:|---:|---:|---:|---|")
    for row in result["rows"]:
        said = "met" if row["met"] else "missed"
        print(f"| {row['row']} | {row['p50']:g} | {row['p95']:g} | {row['n']} | {row['target']:g} | {said} |")
    told = ", ".join(f"{part} {one['p50']:g} ({one['p95']:g})" for part, one in result["yardstick"].items())
    print(f"\nyardstick before each part, ms, median (p95): {told}\n")


def thousand(folder: Path) -> Path:
    """1,024 heads without clouds."""
    from tests.explorer import synthetic_run

    path = folder / "thousand"
    return path if path.exists() else synthetic_run.thousand(path)


def minilm(folder: Path) -> Path:
    """A run of the bundled model over some of the bundled text."""
    path = folder / "minilm"
    if not path.exists():
        from attnengine.bundled import bundled_documents, bundled_model
        from attnengine.corpus.documents import Document
        from attnengine.front import run_documents
        from attnengine.model.load import load_model
        from attnengine.run.progress import Reporter
        from attnengine.run.settings import RunSettings

        texts = [Document(name, 0, len(text.encode()), text) for name, text in bundled_documents()[:6]]
        loaded = load_model(str(bundled_model()), device="cpu")
        run_documents(loaded, texts, path, RunSettings(sample=500), device="cpu", source="pydoc_data.topics",
                      reporter=Reporter(quiet=True))  # fmt: skip
    return path


def measure_heads(browser: Any, url: str, repeat: int, found: Found) -> None:
    """First paint, hover and head switch with 1,024 heads."""
    Timed(browser, url).page.close()  # the server's first page reads the run
    for _ in range(repeat):
        page = Timed(browser, url)
        add(found, "first paint, 1,024 heads, ms", page.first)
        page.page.close()
    page = Timed(browser, url)
    page.page.wait_for_timeout(500)
    for i in range(repeat):
        add(found, "hover over the atlas → its numbers, ms", page.timed(over("atlas", "heads", i), TOOLTIP, "atlas"))
        act = f"attnengine.change({{site: {i % 32}, head: {(7 * i) % 32}}})"
        before = page.received
        add(found, "head switch, 1,024 heads, ms", page.timed(act, "document.getElementById('head-name').textContent"))
        page.page.wait_for_timeout(300)
        add(found, "largest click, kB", (page.received - before) / 1000)
    page.page.close()
    add(found, "page and scripts, compressed, kB", compressed(url) / 1000)


def over(figure: str, source: str, i: int) -> str:
    """A script that moves the mouse to mark ``i`` of a source (its x and y) on a figure."""
    return f"""(() => {{
      const doc = Bokeh.documents[0], view = Bokeh.index.find_one(doc.get_model_by_name({figure!r}));
      const {{ x, y }} = doc.get_model_by_name({source!r}).data, at = (37 * {i}) % x.length;
      const box = view.canvas_view.el.getBoundingClientRect();
      const place = {{ clientX: box.left + view.frame.x_scale.compute(x[at]),
                       clientY: box.top + view.frame.y_scale.compute(y[at]) }};
      view.canvas_view.events_el.dispatchEvent(new PointerEvent("pointermove", {{ bubbles: true, isPrimary: true,
        pointerId: 1, pointerType: "mouse", ...place }}));
    }})()"""


#: The words of the tooltip that is seen. Bokeh hangs it on the page's body.
TOOLTIP = """[...document.querySelectorAll("body > .bk-Tooltip")].map((tip) =>
  tip.style.display === "none" ? "" : tip.shadowRoot.textContent).join("")"""


def measure_sentences(browser: Any, url: str, repeat: int, found: Found) -> None:
    """The first sentence, which loads the model; those after it; hover and click."""
    page = Timed(browser, url + "?view=sentence")
    spinner, progress = page.page.evaluate(WAITING, SENTENCE)
    add(found, "spinner of a first sentence, ms", spinner or np.nan)
    add(found, "progress and a way out of a first sentence, ms", progress or np.nan)
    page.page.close()
    page = Timed(browser, url + "?view=sentence&text=" + urllib.request.quote("Warm. " + SENTENCE))
    page.until("Bokeh.documents[0].get_model_by_name('head-view-left')?.data.text.length > 0", 120)
    count = "Bokeh.documents[0].get_model_by_name('head-view-left').data.text.join()"
    for i in range(repeat):
        act = f"attnengine.change({{text: 'Number {i}. ' + {SENTENCE!r}}})"
        add(found, "typed sentence → head view, model loaded, ms", page.timed(act, count))
        page.page.wait_for_timeout(100)
        add(found, "hover over a token → its lines, ms", page.timed(token(i), DRAWN, "head-view-figure"))
    page.page.evaluate("attnengine.change({sheet: 'neuron'})")
    rows = "(Bokeh.documents[0].get_model_by_name('qk-rows')?.data.full ?? []).join()"
    page.until(f"{rows} !== ''", 60)
    chosen = "Bokeh.documents[0].get_model_by_name('qk-marks').data.top[0]"
    for i in range(repeat):
        act = f"attnengine.change({{text: 'Neuron {i}. ' + {SENTENCE!r}}})"
        add(found, "typed sentence → neuron view, model loaded, ms", page.timed(act, rows))
        page.page.wait_for_timeout(100)
        act = f"attnengine.change({{pin: {1 + i % 12}, pin_side: 'query'}})"
        add(found, "expanding a token of the neuron view, ms", page.timed(act, chosen))
    page.page.close()


#: Asks for a sentence: when the spinner, and when progress and Cancel can be seen; null if it was there before them.
WAITING = """async (text) => {
  const seen = { ".spinner": null, ".late": null }, begin = performance.now();
  const job = document.getElementById("sentence-job"), page = document.getElementById("sentence");
  document.getElementById("sentence-text").value = text;
  document.getElementById("sentence-run").click();
  while (!page.hasAttribute("data-ready") && performance.now() - begin < 120000) {
    await new Promise((next) => setTimeout(next, 2));
    for (const name of Object.keys(seen)) {
      const style = (one) => getComputedStyle(one);
      const visible = (one) => style(one).display !== "none" && style(one).visibility === "visible";
      if (visible(job) && visible(job.querySelector(name))) seen[name] ??= performance.now() - begin;
    }
  }
  return Object.values(seen);
}"""

#: What the lines of the head view are.
DRAWN = """(() => { const d = Bokeh.documents[0].get_model_by_name("head-view-mark").data;
  return d.y.join() + d.x.join(); })()"""


def token(i: int) -> str:
    """A script that moves the mouse over token ``i`` of the head view."""
    return f"""(() => {{
      const doc = Bokeh.documents[0], view = Bokeh.index.find_one(doc.get_model_by_name("head-view-figure"));
      const box = view.canvas_view.el.getBoundingClientRect();
      view.canvas_view.events_el.dispatchEvent(new PointerEvent("pointermove", {{ bubbles: true, isPrimary: true,
        pointerId: 1, pointerType: "mouse",
        clientX: box.left + view.frame.x_scale.compute(0.2),
        clientY: box.top + view.frame.y_scale.compute({1 + i % 9}) }}));
    }})()"""


def compressed(url: str) -> int:
    """Bytes of the page and of every script it names, as they travel."""

    def size(address: str) -> tuple[int, bytes]:
        request = urllib.request.Request(address, headers={"Accept-Encoding": "gzip"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            body = answer.read()
        return len(body), gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body

    total, page = size(url)
    for script in re.findall(r'<script[^>]*src="([^"]+)"', page.decode()):
        total += size(url.rstrip("/") + "/" + script.lstrip("/"))[0]
    return total


def measure_sessions(_browser: Any, url: str, _repeat: int, found: Found) -> None:
    """Memory of the server with :data:`SESSIONS` pages open, by its own count."""
    process = next(p for p in psutil.Process().children() if "serve(" in " ".join(p.cmdline()))
    with ThreadPoolExecutor(1) as thread:  # Playwright's event loop runs in this one
        add(found, "a session, MB", thread.submit(asyncio.run, _sessions(process, url)).result())


async def _sessions(process: psutil.Process, url: str) -> float:
    """MB that each of :data:`SESSIONS` more pages takes."""

    async def visit() -> Any:
        page = urllib.request.urlopen(url, timeout=30).read().decode()
        token = re.search(r'"token":\s*"([^"]+)"', page)
        assert token is not None
        return await websocket_connect(url.replace("http", "ws") + "ws", subprotocols=["bokeh", token[1]])

    sockets = [await visit() for _ in range(5)]  # what the first pages load stays
    before = process.memory_info().rss
    sockets += [await visit() for _ in range(SESSIONS)]
    taken = (process.memory_info().rss - before) / SESSIONS / 2**20
    for one in sockets:
        one.close()
    return taken


PARTS = {
    "heads": Bench(thousand, measure_heads),
    "sentences": Bench(minilm, measure_sentences),
    "sessions": Bench(minilm, measure_sessions),
    "million": Bench(lambda folder: made(folder, "million"), cloud_views.measure_million),
    "clouds": Bench(lambda folder: made(folder, "thousand_clouds"), cloud_views.measure_thousand),
}


if __name__ == "__main__":
    main()
