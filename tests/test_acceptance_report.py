"""The report of an acceptance run: every test with its outcome, under the name of the commit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = """
import pytest

@pytest.mark.acceptance
@pytest.mark.parametrize("n", [1, 2])
def test_good(n): pass

@pytest.mark.acceptance
def test_bad(): assert False

@pytest.mark.acceptance
def test_broken(nothing_of_that_name): pass

@pytest.mark.acceptance
@pytest.mark.skip(reason="no GPU")
def test_left_out(): pass

def test_ordinary(): pass
"""
CONFTEST = """
from pathlib import Path
from tests.acceptance_report import AcceptanceReport, wanted, workers_of

def pytest_configure(config):
    config.addinivalue_line("markers", "acceptance: x")
    if wanted(config):
        config.pluginmanager.register(AcceptanceReport(Path("."), Path("results"), workers_of(config)))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "test_one.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = cases\n")
    return tmp_path


def run(project: Path, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments], cwd=project, capture_output=True,
        text=True, check=False, env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip


def only_report(project: Path) -> tuple[str, dict[str, Any]]:
    (path,) = (project / "results").iterdir()
    return path.name, json.loads(path.read_text())


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "two workers"])
def test_every_test_of_the_list_is_in_it(project: Path, root: Path, workers: tuple[str, ...]) -> None:
    done = run(project, root, "-m", "acceptance", *workers)
    name, report = only_report(project)
    assert f"acceptance report: results/{name}" in done.stdout
    assert report["counts"] == {"passed": 2, "failed": 2, "skipped": 1}
    tests = report["tests"]["cases/test_one.py"]
    assert {test: one["outcome"] for test, one in tests.items()} == {
        "test_good[1]": "passed", "test_good[2]": "passed", "test_bad": "failed", "test_broken": "failed",
        "test_left_out": "skipped",
    }  # fmt: skip
    assert all(0 <= one["seconds"] <= report["seconds"] + 1 for one in tests.values())  # each is rounded by itself
    assert report["machine"]["workers"] == (2 if workers else 1)
    assert report["versions"]["torch"]
    assert report["device"]


def test_it_is_named_after_the_commit(project: Path, root: Path) -> None:
    def git(*arguments: str) -> str:
        settings = ["-c", "user.name=x", "-c", "user.email=x@y.z", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *settings, *arguments], cwd=project, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "x")
    run(project, root, "-m", "acceptance")
    name, report = only_report(project)
    assert report["commit"] == git("rev-parse", "HEAD")
    assert name == f"acceptance-{report['commit'][:7]}.json"
    assert not report["uncommitted_changes"]
    (project / "cases" / "test_one.py").write_text(TESTS + "\n")
    run(project, root, "-m", "acceptance")
    assert only_report(project)[1]["uncommitted_changes"]


@pytest.mark.parametrize(
    "arguments", [(), ("-m", "not acceptance"), ("-m", "acceptance", "-k", "good"), ("-m", "acceptance", "cases"),
                  ("-m", "acceptance", "--collect-only")], ids=" ".join,
)  # fmt: skip
def test_a_part_of_the_list_writes_none(project: Path, root: Path, arguments: tuple[str, ...]) -> None:
    run(project, root, *arguments)
    assert not (project / "results").exists()
