"""What every test shares: where kernels run, which tests may run here, and the browser.

Triton reads TRITON_INTERPRET once, when it is first imported; whichever test comes first would decide for all. So it
is set here, before any test module is imported: on a machine without a CUDA device kernels run in the interpreter.
A test that compiles ahead of time starts a process of its own without the variable (``without_interpreter``).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from tests.acceptance_report import AcceptanceReport, wanted, workers_of

ROOT = Path(__file__).resolve().parent.parent
HAS_CUDA = torch.cuda.is_available()
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

if not HAS_CUDA:
    if "triton" in sys.modules:
        raise pytest.UsageError("triton was imported before tests/conftest.py could set TRITON_INTERPRET=1")
    os.environ["TRITON_INTERPRET"] = "1"

# Several processes share the machine (pytest-xdist): threads of each beyond its share would only wait for one another.
if (processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    torch.set_num_threads(max((os.cpu_count() or 1) // processes, 1))

# Nothing here may reach a model hub: a test that forgets to make its own model fails at once instead of hanging.
os.environ["HF_HUB_OFFLINE"] = "1"

# Shared machines stall: a slow example is no failure, and what fails in CI must fail again at home.
hypothesis.settings.register_profile("attnengine", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("attnengine")


def pytest_configure(config: pytest.Config) -> None:
    """A run of the whole acceptance list leaves a file named after the commit."""
    if wanted(config):
        config.pluginmanager.register(AcceptanceReport(ROOT, ROOT / "benchmarks" / "results", workers_of(config)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip GPU tests where there is no GPU, and acceptance tests unless ``-m`` asks for them."""
    wants_acceptance = "acceptance" in config.getoption("markexpr")
    for item in items:
        if item.get_closest_marker("gpu") and not HAS_CUDA:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if item.get_closest_marker("acceptance") and not wants_acceptance:
            item.add_marker(pytest.mark.skip(reason="run with `make acceptance`"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture
def without_interpreter() -> dict[str, str]:
    """An environment for a process that compiles Triton kernels ahead of time."""
    return {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of Debian's chromium. A missing browser fails the test: a skipped explorer is an untested explorer."""
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if found is None:
        pytest.fail(f"no browser on PATH (looked for {', '.join(CHROMIUM_NAMES)}): apt-get install chromium")
    return found


@pytest.fixture(autouse=True)
def _no_statistics_of_ones_own() -> Iterator[None]:
    """What a test registers with ``ae.statistic`` is taken back: every later run would compute it."""
    yield
    own = sys.modules.get("attnengine.statistics.own")
    if own is not None:
        own.OWN.clear()


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command line in this process: (exit code, what it said on stderr)."""
    from attnengine.cli import main

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["attnengine", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), capsys.readouterr().err

    return run
