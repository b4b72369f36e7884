"""The result of ``make acceptance`` as a file named after the commit: what ran, where, how long, how it ended.

Only a run of the whole list writes one (no paths, no ``-k``, no ``--lf``): a file under a commit's name stands for all
of its acceptance tests.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

PACKAGES = ("torch", "triton", "numpy", "numba", "transformers", "hypothesis", "pytest")


def wanted(config: pytest.Config) -> bool:
    """Whether this process reports on a run of the whole acceptance list: not one of pytest-xdist's workers."""
    if hasattr(config, "workerinput"):
        return False
    chosen = [config.getoption(name, default=None) for name in ("keyword", "lf", "collectonly", "deselect")]
    paths = config.args_source is pytest.Config.ArgsSource.ARGS
    return config.getoption("markexpr") == "acceptance" and not any(chosen) and not paths


def workers_of(config: pytest.Config) -> int:
    """How many processes run the tests (pytest-xdist's ``-n``)."""
    asked = config.getoption("numprocesses", default=None)
    return asked if isinstance(asked, int) and asked else 1


class AcceptanceReport:
    """Collects the outcome of every test and writes ``acceptance-<short commit>.json`` into ``folder`` at the end."""

    def __init__(self, root: Path, folder: Path, workers: int):
        self.root, self.folder, self.workers = root, folder, workers
        self.tests: dict[str, dict[str, Any]] = {}  # by node id
        self.started = datetime.datetime.now(datetime.UTC)
        self.path: Path | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add one phase (setup, call, teardown): seconds add up, and the worst outcome stays."""
        one = self.tests.setdefault(report.nodeid, {"outcome": "passed", "seconds": 0.0})
        one["seconds"] = round(one["seconds"] + report.duration, 3)
        if one["outcome"] != "failed" and report.outcome != "passed":
            one["outcome"] = report.outcome

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Write the file; a run that was interrupted has none."""
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return
        import torch  # takes seconds, for which a run without a report need not wait

        files: dict[str, dict[str, Any]] = {}
        for nodeid, one in self.tests.items():
            file, _, name = nodeid.partition("::")
            files.setdefault(file, {})[name] = one
        commit = _git(self.root, "rev-parse", "HEAD") or "unknown"
        counts = Counter(one["outcome"] for one in self.tests.values())
        now = datetime.datetime.now(datetime.UTC)
        content = {
            "commit": commit,
            "uncommitted_changes": bool(_git(self.root, "status", "--porcelain", "--untracked-files=no")),
            "date": self.started.isoformat(timespec="seconds"),
            "machine": {"platform": platform.platform(), "processors": os.cpu_count(), "workers": self.workers},
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu, Triton in its interpreter",
            "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
            "counts": {outcome: counts[outcome] for outcome in ("passed", "failed", "skipped")},
            "seconds": round((now - self.started).total_seconds(), 1),
            "tests": files,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / f"acceptance-{commit[:7]}.json"
        self.path.write_text(json.dumps(content, indent=1) + "\n")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say where the file is."""
        if self.path is not None:
            terminalreporter.write_line(f"acceptance report: {self.path}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(root: Path, *arguments: str) -> str:
    """Output of a git command, empty outside a repository."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
