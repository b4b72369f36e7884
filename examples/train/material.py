"""The text the bundled models learn from: documentation that is installed with Python and with well-known packages.

Source files are parsed, never imported or run. A docstring is known by its package and module; a module is held out as
a whole (for every purpose: vocabulary, language model, classifier) when its name's hash says so, so that no test text
stands beside training text of the same file.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Permissive licences only: PSF (python), BSD-3-Clause (the scientific packages), Apache-2.0 (transformers, pyarrow).
PACKAGES = (
    "bokeh", "networkx", "numpy", "pandas", "pyarrow", "python", "scipy", "sklearn", "sympy", "torch", "transformers",
)  # fmt: skip
SKIPPED_FOLDERS = {"__pycache__", "_vendor", "idle_test", "idlelib", "lib2to3", "site-packages", "test", "tests"}
SHORTEST = 40  # characters: below, a docstring is a label
HELD_OUT_IN = 20  # one module in so many


@dataclass(frozen=True)
class Docstring:
    """One docstring and where it stands."""

    package: str
    module: str
    name: str
    text: str

    @property
    def held_out(self) -> bool:
        """Whether its module is kept from all training."""
        return is_held_out(f"{self.package}/{self.module}")


def is_held_out(name: str) -> bool:
    """One name in HELD_OUT_IN, by hash: the same on every machine and for every order of reading."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % HELD_OUT_IN == 0


def package_root(package: str) -> Path:
    """The folder of a package's sources, found without importing it; ``python`` is the standard library."""
    if package == "python":
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the training text needs the sources of {package}: pip install {package}")
    return Path(spec.origin).parent


def read_docstrings(packages: tuple[str, ...] = PACKAGES) -> list[Docstring]:
    """Every docstring of the packages, in a fixed order, each text once (the first place keeps it)."""
    seen: set[str] = set()
    found = []
    for package in sorted(packages):
        root = package_root(package)
        for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
            place = path.relative_to(root)
            if SKIPPED_FOLDERS & set(place.parts):
                continue
            for name, text in docstrings_of(path.read_text(encoding="utf-8", errors="replace")):
                key = " ".join(text.split())
                if len(key) >= SHORTEST and key not in seen:
                    seen.add(key)
                    found.append(Docstring(package, place.as_posix(), name, text))
    return found


def docstrings_of(source: str) -> Iterator[tuple[str, str]]:
    """(name, docstring) of a module, its classes and functions, and of texts given to ``add_docstr`` and its like."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's sources
        try:
            tree = ast.parse(source)
        except SyntaxError:  # written for a newer Python than this one
            return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "name", "module"), text
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""
            if name.endswith(("add_docstr", "add_newdoc")):  # how torch and numpy document what is written in C
                strings = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
                if strings:
                    yield name, max(strings, key=len).strip()


def language_documents(docstrings: list[Docstring], *, held_out: bool) -> list[str]:
    """What the language model reads: the topics of Python's ``help()``, then one document per module."""
    from pydoc_data.topics import topics

    documents = [text for name, text in sorted(topics.items()) if is_held_out(f"topics/{name}") == held_out]
    modules: dict[tuple[str, str], list[str]] = {}
    for found in docstrings:
        if found.held_out == held_out:
            modules.setdefault((found.package, found.module), []).append(f"{found.name}\n{found.text}")
    return documents + ["\n\n".join(parts) for _, parts in sorted(modules.items())]


def fingerprint(texts: list[str]) -> str:
    """SHA-256 over the texts in order: names the training text of a model card."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text.encode(errors="replace")).digest())
    return digest.hexdigest()
