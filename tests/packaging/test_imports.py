"""Arrows point one way: attnengine_kernels <- attnengine <- attnengine_explorer, and every import is a declared one.

The source is read as text; nothing of it is imported here.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "attnengine": ROOT / "attnengine",
    "attnengine_kernels": ROOT / "kernels" / "attnengine_kernels",
    "attnengine_explorer": ROOT / "explorer" / "attnengine_explorer",
}
FRONT_DOOR = {"attnengine.cli", "attnengine.notebook"}


@dataclass(frozen=True)
class Import:
    """One imported module: by whom, where, and how."""

    importer: str
    line: int
    target: str
    at_load: bool  # runs while the importing module is being loaded
    guarded: bool  # inside try/except ImportError: the importer can do without it

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"

    @property
    def package(self) -> str:
        return self.target.partition(".")[0]


def imports_of(importer: str, source: str, *, is_package: bool = False) -> list[Import]:
    """Every import statement of one file that runs; those under ``if TYPE_CHECKING`` never do."""
    anchor = importer.split(".") if is_package else importer.split(".")[:-1]
    return list(_walk(ast.parse(source), importer, anchor, at_load=True, guarded=False))


def _walk(node: ast.AST, importer: str, anchor: list[str], *, at_load: bool, guarded: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        for target in _targets(node, anchor):
            yield Import(importer, node.lineno, target, at_load, guarded)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        at_load = False
    if isinstance(node, ast.Try):
        caught = " ".join(ast.unparse(handler.type) for handler in node.handlers if handler.type)
        guarded = guarded or bool(re.search("ImportError|ModuleNotFoundError", caught))
    never_runs = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    for child in node.orelse if never_runs else ast.iter_child_nodes(node):  # type: ignore[attr-defined]
        yield from _walk(child, importer, anchor, at_load=at_load, guarded=guarded)


def _targets(node: ast.Import | ast.ImportFrom, anchor: list[str]) -> list[str]:
    """The dotted names that a statement may load: ``from a import b`` may load a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    above = anchor[: len(anchor) - node.level + 1] if node.level else []
    base = [*above, *([node.module] if node.module else [])]
    return [".".join([*base, alias.name]) for alias in node.names]


def shipped_imports(package: str) -> list[Import]:
    folder = PACKAGES[package]
    found = []
    for path in sorted(folder.rglob("*.py")):
        is_package = path.name == "__init__.py"
        parts = path.relative_to(folder.parent).with_suffix("").parts
        importer = ".".join(parts[:-1] if is_package else parts)
        found += imports_of(importer, path.read_text(encoding="utf-8"), is_package=is_package)
    return found


def listed(offences: list[Import]) -> str:
    return "\n".join(map(str, offences))


def test_the_reader_of_imports_sees_relative_nested_guarded_and_type_checking_imports_for_what_they_are() -> None:
    source = """
import torch.nn
from . import near
from ..pkg.mod import thing
if TYPE_CHECKING:
    import never
else:
    import otherwise
try:
    import perhaps
except ModuleNotFoundError:
    pass
def later():
    import inside
"""
    found = [(i.target, i.at_load, i.guarded) for i in imports_of("top.sub.module", source)]
    assert found == [
        ("torch.nn", True, False),
        ("top.sub.near", True, False),
        ("top.pkg.mod.thing", True, False),
        ("otherwise", True, False),
        ("perhaps", True, True),
        ("inside", False, False),
    ]


def test_every_shipped_package_has_source_for_these_guards_to_read() -> None:
    assert {name: bool(shipped_imports(name)) for name in PACKAGES} == dict.fromkeys(PACKAGES, True)


def test_kernels_know_tensors_only() -> None:
    foreign = {"attnengine", "attnengine_explorer", "transformers", "tokenizers", "datasets", "bokeh"}
    offences = [i for i in shipped_imports("attnengine_kernels") if i.package in foreign]
    assert not offences, listed(offences)


def test_the_engine_never_imports_the_explorer_except_from_its_front_door() -> None:
    offences = [
        i
        for i in shipped_imports("attnengine")
        if i.package in ("attnengine_explorer", "bokeh") and (i.importer not in FRONT_DOOR or i.at_load)
    ]
    assert not offences, listed(offences)


def test_the_explorer_never_imports_kernels_and_loads_models_only_inside_functions() -> None:
    found = shipped_imports("attnengine_explorer")
    offences = [i for i in found if i.package == "attnengine_kernels"]
    offences += [i for i in found if i.package in ("torch", "transformers", "triton") and i.at_load]
    assert not offences, listed(offences)


def test_nothing_imports_the_front_door_but_the_package_itself_when_asked() -> None:
    def knocks(found: Import) -> bool:
        return any(found.target == door or found.target.startswith(f"{door}.") for door in FRONT_DOOR)

    offences = [
        i
        for package in PACKAGES
        for i in shipped_imports(package)
        if knocks(i) and (i.importer not in ("attnengine", "attnengine.__main__") or i.at_load)
    ]
    assert not offences, listed(offences)


def declared() -> tuple[set[str], set[str]]:
    """Names of the distributions that pyproject.toml requires, and of those that an extra for users offers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [need for name, needs in project["optional-dependencies"].items() if name != "test" for need in needs]
    names = [{re.split(r"[^\w.-]", need)[0].lower() for need in needs} for needs in (project["dependencies"], extras)]
    return names[0], names[1]


@pytest.mark.parametrize("package", PACKAGES)
def test_whatever_is_imported_is_a_declared_dependency(package: str) -> None:
    """An optional package may be imported inside a function or under ``except ImportError``, if an extra offers it."""
    required, offered = declared()
    owners = packages_distributions()
    ours = sys.stdlib_module_names | set(PACKAGES) | {"__future__"}
    offences = []
    for found in shipped_imports(package):
        if found.package in ours:
            continue
        distributions = {name.lower() for name in owners.get(found.package, [found.package])}
        optional = not found.at_load or found.guarded
        if not distributions & (required | offered if optional else required):
            offences.append(found)
    assert not offences, (
        f"declare these in pyproject.toml or import them only where they are offered:\n{listed(offences)}"
    )
