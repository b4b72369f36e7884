"""README and CONTRIBUTING say what is true: files exist, commands and options exist, Python runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md")


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of one language on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)


def commands(program: str) -> list[str]:
    """The arguments of every line that a console block shows for ``program``, comments left out."""
    lines = [line for page in PAGES for block in blocks(page, "console") for line in block.splitlines()]
    found = [re.sub(r"\s+#.*", "", line).removeprefix("$ ").split(" ", 1) for line in lines if line.startswith("$ ")]
    return sorted({" ".join(rest) for name, *rest in found if name == program})


def mapped_paths() -> list[str]:
    """Paths of README's file map: names stand left of column 36, those indented by two belong to the folder above."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Where things are")[1].split("\n## ")[0]
    found, folder = [], ""
    for line in filter(str.strip, section.splitlines()):
        nested = line[4] == " "
        folder = folder if nested else line.split()[0]
        found += [folder + name if nested else name for name in line[4:36].split()]
    return found


@pytest.mark.parametrize("path", mapped_paths())
def test_a_path_of_the_file_map_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_every_folder_of_the_engine_is_on_the_file_map() -> None:
    folders = {f"attnengine/{p.name}/" for p in (ROOT / "attnengine").iterdir() if list(p.glob("[!_]*.py"))}
    assert folders <= set(mapped_paths())


@pytest.mark.parametrize("page", PAGES)
def test_a_file_that_a_page_names_or_links_to_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    named = re.findall(r"`((?:attnengine|kernels|explorer|tests|benchmarks|docs)/[\w./-]+)`", text)
    assert links + named
    assert not [path for path in links + named if not (ROOT / path).exists()]


@pytest.mark.parametrize("arguments", commands("attnengine"))
def test_a_command_that_a_page_shows_parses_with_every_option_it_gives(arguments: str) -> None:
    import typer.main

    from attnengine.cli import app

    command = typer.main.get_command(app)
    name, *rest = shlex.split(arguments)
    context = command.make_context("attnengine", [], resilient_parsing=True)
    _, chosen, rest = command.resolve_command(context, [name, *rest])  # type: ignore[attr-defined]
    assert chosen is not None, f"there is no `attnengine {name}`"
    chosen.make_context(name, rest, parent=context)


@pytest.mark.parametrize("arguments", commands("make"))
def test_a_make_target_that_a_page_shows_exists(arguments: str) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert arguments.split()[0] in targets


def test_the_python_of_the_readme_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    page = blocks("README.md", "python")
    assert page
    names: dict[str, object] = {}
    for block in page:
        above = text[: text.index(block)].count("\n")  # so that a traceback names README's own line
        exec(compile("\n" * above + block, str(ROOT / "README.md"), "exec"), names)
