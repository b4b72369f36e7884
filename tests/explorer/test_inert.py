"""A lint: constructs through which text of a run would reach an HTML parser do not occur in the explorer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOM = Path(__file__).parents[2] / "explorer" / "attnengine_explorer"
PYTHON = {
    r"\{safe\}": "a hover placeholder that is not escaped",
    r"HTMLTemplateFormatter": "table cells as HTML",
    r"\bDiv\(|\bParagraph\(|\bPreText\(|MultiChoice|\bHTML\(": "widgets that may parse HTML",
    r"CustomJS\b|CustomJSHover|CustomJSTickFormatter|CustomJSFilter": "scripts made of strings; the page forbids eval",
    r"autoescape=False|\beval\(|\bexec\(|pickle|yaml\.load|shell=True": "code made of data",
    r"cdn\.|https?://(?!\{shown_host\})": "another host",
    r"import torch|import transformers|attnengine_kernels": "the explorer opens runs on a laptop",
}
SCRIPT = {
    r"innerHTML|outerHTML\s*\+?=|insertAdjacentHTML|document\.write": "markup made of strings",
    r"\beval\(|new Function": "code made of strings",
    r"https?://": "another host",
}


@pytest.mark.parametrize("path", sorted(ROOM.rglob("*.py")), ids=lambda path: path.relative_to(ROOM).as_posix())
def test_python_has_no_dangerous_construct(path):
    source = path.read_text(encoding="utf-8")
    assert {why for pattern, why in PYTHON.items() if re.search(pattern, source)} == set()


@pytest.mark.parametrize(
    "path", sorted((ROOM / "js").rglob("*.js")), ids=lambda path: path.relative_to(ROOM).as_posix()
)
def test_the_page_script_sets_text_only(path):
    source = path.read_text(encoding="utf-8")
    assert {why for pattern, why in SCRIPT.items() if re.search(pattern, source)} == set()


def test_only_our_own_files_and_bokehs_markup_skip_escaping():
    for template in (ROOM / "theme").rglob("*.html"):
        source = template.read_text(encoding="utf-8")
        assert set(re.findall(r"\{\{\s*([\w.]+)\s*\|\s*safe", source)) <= {"style", "script"}
        assert set(re.findall(r"\{\{\s*([\w.]+)\s*\|\s*with_nonce", source)) <= {"bokeh_css", "bokeh_js", "plot_script"}
        assert "http://" not in source
        assert "https://" not in source


def test_the_lint_sees_what_it_looks_for():
    assert re.search(next(iter(PYTHON)), 'tooltips="@x{safe}"')
    assert re.search(next(iter(SCRIPT)), "node.innerHTML = text")


def test_importing_the_explorer_loads_neither_torch_nor_transformers():
    import subprocess
    import sys

    code = "import sys, attnengine_explorer.server; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    path = f"{ROOM.parent}:{ROOM.parent.parent}"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
