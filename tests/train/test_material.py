"""What the bundled models learn from: docstrings read from source files, split by module."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from examples.train import material, twin
from examples.train.material import Docstring

SOURCE = '''
"""What this module is for."""
raise RuntimeError("this source was run")
class Box:
    """A box."""
    async def open(self):
        """Open
           it."""
add_docstr(Box.close, r"""close() -> None""" + "x")
def silent(): "of a sort"; return 1
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of sixty modules; two of its docstrings are the same."""
    root = tmp_path / "a_made_up_package"
    (root / "tests").mkdir(parents=True)
    (root / "__init__.py").write_text('raise RuntimeError("this source was run")')
    (root / "tests" / "test_it.py").write_text('"""A docstring of a test, which is long enough to be kept."""')
    (root / "newer.py").write_text("def f[T](: 1")
    for number in range(60):
        said = f"This is what module number {max(number, 1)} is for, in one long sentence."
        (root / f"m{number}.py").write_text(f'"""{said}"""')
    monkeypatch.syspath_prepend(tmp_path)
    return root.name


def test_docstrings_are_read_from_the_source_without_running_it() -> None:
    assert sorted(material.docstrings_of(SOURCE)) == [
        ("Box", "A box."),
        ("add_docstr", "close() -> None"),
        ("module", "What this module is for."),
        ("open", "Open\nit."),
        ("silent", "of a sort"),
    ]


def test_a_package_is_read_without_importing_it_each_text_once_and_its_tests_left_out(package: str) -> None:
    found = material.read_docstrings((package,))
    assert package not in sys.modules
    assert [d.module for d in found] == sorted(f"m{n}.py" for n in range(60) if n != 1)  # m0 comes first with that text


def test_a_module_is_held_out_as_a_whole_and_its_text_is_in_no_training_document(package: str) -> None:
    found = material.read_docstrings((package,))
    held_out = [d for d in found if d.held_out]
    assert 0 < len(held_out) < len(found) / 4
    kept = "\n".join(material.language_documents(found, held_out=False))
    other = "\n".join(material.language_documents(found, held_out=True))
    assert all((d.text in other, d.text in kept) == (d.held_out, not d.held_out) for d in found)


def test_a_missing_package_is_named_with_the_command_that_brings_it() -> None:
    with pytest.raises(ModuleNotFoundError, match="pip install no_such_package_anywhere"):
        material.read_docstrings(("no_such_package_anywhere",))


def test_the_fingerprint_changes_with_any_text_and_with_their_order() -> None:
    assert material.fingerprint(["a", "b"]) == material.fingerprint(["a", "b"])
    assert len({material.fingerprint(texts) for texts in (["a", "b"], ["b", "a"], ["ab"], ["a", "b "])}) == 4


def test_the_classifiers_texts_do_not_name_their_packages() -> None:
    said = "Like `torch.nn` or np.mean; PyTorch, Scikit-learn and SciPy's sp.stats, but not torchlight or python3."
    assert twin.without_names(said) == "Like `_.nn` or _.mean; _, _ and _'s _.stats, but not torchlight or _."


def test_the_classifiers_examples_are_balanced_and_split_by_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twin, "TRAINED", 5)
    monkeypatch.setattr(twin, "TESTED", 2)
    docstrings = [
        Docstring(package, f"m{n}.py", "f", f"{package} {n} ".ljust(120, "x"))
        for package in twin.CLASSES
        for n in range(200)
    ]
    seen: list[str] = []

    def tokenizer(text: str, *, truncation: bool, max_length: int) -> dict[str, list[int]]:
        seen.append(text)
        return {"input_ids": list(range(200))[:max_length]}

    kept = twin.examples(docstrings, tokenizer, held_out=False)
    trained, seen[:] = set(seen), []
    held_out = twin.examples(docstrings, tokenizer, held_out=True)
    assert [list(part.classes).count(c) for part in (kept, held_out) for c in range(7)] == [5] * 7 + [2] * 7
    assert {len(ids) for ids in kept.ids} == {twin.LONGEST}
    assert not trained & set(seen)
    assert all(text.startswith("_ ") for text in trained | set(seen))
