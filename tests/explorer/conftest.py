"""Runs to look at, servers to ask and one browser to look with."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from attnengine_explorer.points.heads import HeadClouds
from attnengine_explorer.run_data import RunData
from tests.explorer import cloud_runs, sentences, synthetic_run
from tests.explorer.driven import Page
from tests.explorer.synthetic_tables import with_derived

REPOSITORY = Path(__file__).parents[2]
FLAGS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]
_SERVE = (
    "import os, sys; from pathlib import Path; from attnengine_explorer.server import serve\n"
    "runs = [Path(path) for path in sys.argv[1].split(os.pathsep)]\n"
    "serve(runs, port=0, host=sys.argv[2], token=sys.argv[3] or None, open_browser=False,"
    " on_ready=lambda url: print(url, flush=True))"
)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every synthetic run, by name."""
    folder = tmp_path_factory.mktemp("runs")
    made = (
        synthetic_run.bert_like, synthetic_run.ragged, synthetic_run.thousand, synthetic_run.hostile,
        synthetic_run.core, cloud_runs.clouds, cloud_runs.hostile_clouds, cloud_runs.solid, cloud_runs.patches,
    )  # fmt: skip
    found = {make.__name__: make(folder / make.__name__) for make in made}
    return found | {"full": with_derived(synthetic_run.bert_like(folder / "full"))}


@pytest.fixture(scope="session")
def spoken_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the bundled MiniLM over three documents that can be read again."""
    return sentences.spoken(tmp_path_factory.mktemp("spoken") / "minilm")


@pytest.fixture(scope="module")
def clouds(runs: dict[str, Path]) -> HeadClouds:
    """What the explorer knows of the generated clouds."""
    return HeadClouds(RunData(runs["clouds"]))


class Served:
    """A server in its own process, as the command line starts it."""

    def __init__(self, *runs: Path, host: str = "127.0.0.1", token: str = "") -> None:
        path = os.pathsep.join(str(REPOSITORY / part) for part in ("explorer", "."))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, os.pathsep.join(map(str, runs)), host, token],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        errors: list[str] = []
        self.errors = errors
        # Read all the time: a full pipe would stop the server.
        self._reader = threading.Thread(target=errors.extend, args=(self.process.stderr,), daemon=True)
        self._reader.start()
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            self.process.wait(10)
            self._reader.join(5)
            raise AssertionError("the server did not start:\n" + "".join(errors))

    def stop(self, how: int = signal.SIGINT) -> int:
        """End it as Ctrl-C does; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        status = self.process.wait(60)
        self._reader.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return status


@pytest.fixture(scope="session")
def served(runs: dict[str, Path]) -> Iterator[Callable[[str], Served]]:
    """A server for a named run, started once."""
    started: dict[str, Served] = {}

    def start(name: str) -> Served:
        if name not in started:
            started[name] = Served(runs[name])
        return started[name]

    yield start
    for server in started.values():
        server.stop()


@pytest.fixture(scope="session")
def speaking(spoken_run: Path) -> Iterator[Served]:
    """A server for that run."""
    server = Served(spoken_run)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's chromium, driven by Playwright. Without it the tests fail: nothing else sees what people see."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.fail("no chromium on PATH; the explorer is tested in a real browser: apt-get install chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS + sandbox)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, served) -> Iterator[Callable[..., Page]]:
    pages: list[Page] = []

    def start(run: str, query: str = "", **context: Any) -> Page:
        page = Page(browser, served(run).url, **context)
        pages.append(page)
        return page.open(query)

    yield start
    for page in pages:
        page.context.close()
