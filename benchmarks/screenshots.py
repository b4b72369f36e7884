"""Pictures of the explorer on a run: docs/overview.png for the README, and every state worth a look, light and dark.

    python benchmarks/screenshots.py RUN [--out docs] [--all]

Drives Debian's chromium (`apt-get install chromium`) through Playwright. The pictures are for people: look at them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

SIZES = {"large": (1400, 900), "small": (1000, 700)}
TEXT = "The+quick+brown+fox+jumps+over+the+lazy+dog,+because+it+was+tired."
STATES = {
    "start": "",
    "signed": "?stat=score_mean&order=value",
    "head": "?stat=previous_mass&site=2&head=3",
    "patterns": "?show=pattern&site=0&head=1&color=position&sort=neuron&neurons=qk_mean",
    "cells-clouds": "?show=cloud&site=2&head=3",
    "compare": "?facet=heads&site=2&head=3&heads=0:1~1:2~2:3",
    "clouds": "?view=clouds",
    "clouds-search": "?view=clouds&q=the&color=position",
    "cloud": "?view=cloud&site=3&head=7",
    "cloud-point": "?view=cloud&site=3&head=7&token=40&projection=pca&dims=3&color=norm&size=norm",
    "sentence-head": f"?view=sentence&sheet=head&site=2&head=6&text={TEXT}",
    "sentence-model": f"?view=sentence&sheet=model&text={TEXT}",
    "sentence-heatmap": f"?view=sentence&sheet=heatmap&site=2&head=6&text={TEXT}",
    "sentence-neuron": f"?view=sentence&sheet=neuron&site=2&head=6&text={TEXT}",
}
OVERVIEW = "?show=pattern&site=2&head=3"
_SERVE = (
    "import sys; from pathlib import Path; from attnengine_explorer.server import serve\n"
    "serve([Path(sys.argv[1])], port=0, open_browser=False, on_ready=lambda url: print(url, flush=True))"
)


def main() -> None:
    """Start a server on the run, take the pictures, stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--overview", default=OVERVIEW, help="query string of the state shown in the README")
    parser.add_argument("--all", action="store_true", help="every state at both sizes, light and dark")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with server(arguments.run) as url, chromium() as browser:
        shoot(browser, url + arguments.overview, arguments.out / "overview.png", (1400, 900), "light", scale=2)
        for state, query in STATES.items() if arguments.all else ():
            for size, pixels in SIZES.items():
                for scheme in ("light", "dark"):
                    shoot(browser, url + query, arguments.out / f"{state}-{size}-{scheme}.png", pixels, scheme)


def shoot(browser: Browser, url: str, path: Path, size: tuple[int, int], scheme: Any, scale: float = 1) -> None:
    """One picture, once everything is drawn."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, device_scale_factor=scale
    )
    page = context.new_page()
    page.goto(url)
    drawn = "document.documentElement.dataset.ready !== undefined && Bokeh.documents[0].is_idle"
    end = time.monotonic() + 60
    while not page.evaluate(drawn):  # the page forbids the eval that wait_for_function needs
        if time.monotonic() > end:
            raise TimeoutError(f"{url} was not drawn within a minute")
        time.sleep(0.05)
    if "view=sentence" in url:
        waiting = "!document.getElementById('sentence').hasAttribute('data-ready')"
        while page.evaluate(waiting) and time.monotonic() < end:  # the first one loads the model
            time.sleep(0.1)
    page.wait_for_timeout(1500 if "view=" in url else 400)  # tables settle their column widths after they report idle
    page.screenshot(path=path)
    context.close()
    print(path)


@contextmanager
def server(run: Path) -> Iterator[str]:
    """The address of an explorer on the run."""
    repository = Path(__file__).parents[1]
    path = os.pathsep.join([str(repository / "explorer"), str(repository), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(run)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise SystemExit("the explorer did not start; its error stands above")
        yield url
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's browser; it asks nobody but our server."""
    found = shutil.which("chromium")
    if found is None:
        raise SystemExit("no chromium on PATH: apt-get install chromium")
    flags = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=[*flags, "--disable-quic", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        )
        yield browser
        browser.close()


if __name__ == "__main__":
    main()
