"""What is not needed is not loaded: help answers at once, and a finished run opens on a laptop without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MODELS = {"torch", "transformers", "tokenizers", "triton"}
HEAVY = MODELS | {"bokeh", "numba", "scipy", "sklearn", "umap"}


def modules_after(code: str) -> set[str]:
    """Top-level names in ``sys.modules`` after a fresh process has run ``code``."""
    report = "\nimport json, sys\nprint(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_attnengine_loads_nothing_heavy() -> None:
    loaded = modules_after("import attnengine")
    assert "attnengine" in loaded
    assert not loaded & HEAVY


def test_help_loads_nothing_heavy() -> None:
    loaded = modules_after(
        "import sys\nsys.argv = ['attnengine', '--help']\nfrom attnengine.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code"
    )
    assert "typer" in loaded
    assert not loaded & HEAVY


def test_reading_a_run_needs_no_model_library() -> None:
    assert not modules_after("import attnengine.store") & MODELS


def test_every_explorer_module_loads_without_a_model_library(root: Path) -> None:
    container = root / "explorer"
    paths = [path.relative_to(container).with_suffix("") for path in container.rglob("*.py")]
    names = [".".join(path.parts).removesuffix(".__init__") for path in paths]
    assert names
    assert not modules_after("\n".join(f"import {name}" for name in sorted(names))) & MODELS
