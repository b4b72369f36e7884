"""`attnengine doctor`: whatever is missing or broken is reported with its remedy, and never stops the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from attnengine import doctor


def by_command(*options: str, **environment: str) -> str:
    code = f"import sys\nsys.argv = ['attnengine', 'doctor', *{options!r}]\nfrom attnengine.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_whole_installation_has_no_problems_and_says_which_kernels_run() -> None:
    found = json.loads(by_command("--json"))
    assert found["problems"] == []
    assert found["kernels"]
    assert found["packages"]["torch"]
    assert found["cpu_threads"] >= 1


def test_a_broken_torch_is_a_finding_and_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libtorch_cpu.so: cannot open shared object file')")
    found = json.loads(by_command("--json", PYTHONPATH=str(tmp_path)))
    said = [problem["what"] for problem in found["problems"]]
    assert "torch cannot be loaded: OSError: libtorch_cpu.so: cannot open shared object file" in said
    assert found["cpu_threads"] is None


def test_a_package_out_of_range_and_one_that_is_missing_come_with_the_command_that_mends_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions = {"transformers": "4.57.0", "bokeh": None}
    real = doctor.installed_version
    monkeypatch.setattr(doctor, "installed_version", lambda name: versions.get(name, real(name)))
    _, problems = doctor.ask_packages()
    assert problems == [
        {"what": "bokeh is not installed, expected <4,>=3.9.2", "remedy": "pip install 'bokeh<4,>=3.9.2'"},
        {"what": "transformers is 4.57.0, expected >=5.10.1", "remedy": "pip install 'transformers>=5.10.1'"},
    ]


def test_a_package_of_ours_or_a_strangers_called_kernels_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "kernels", raising=False)  # transformers may have imported our empty folder
    monkeypatch.syspath_prepend(tmp_path)
    assert [problem["what"] for problem in doctor.shadowed()] == [
        f"{tmp_path}/kernels/__init__.py hides Hugging Face's `kernels` from transformers"
    ]


def test_the_readable_report_ends_with_each_problem_and_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    found = doctor.report() | {"problems": [doctor.problem("the sky is falling", "hold it up")]}
    doctor.render(found)
    printed = capsys.readouterr().out
    assert printed.endswith("! the sky is falling\n  -> hold it up\n")
    assert found["python"] in printed
