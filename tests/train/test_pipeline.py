"""The scripts from text to package, on a language of a few words: every step runs; run again, it changes nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from examples.train import causal, digits, install, loop, twin
from examples.train.batches import Mixture, Stage
from examples.train.material import Docstring

WORDS = ("axis", "array", "returns", "the", "mean", "of", "a", "value", "given", "shape")


def made_up_docstrings(packages: tuple[str, ...] = twin.CLASSES) -> list[Docstring]:
    texts = (" ".join(WORDS[(i * i + j * (1 + i % 7)) % len(WORDS)] for j in range(60)) for i in range(400))
    return [
        Docstring(packages[i % len(packages)], f"m{i}.py", "f", f"{packages[i % len(packages)]} {i} {text}")
        for i, text in enumerate(texts)
    ]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Everything small enough for seconds; the trained models would be installed into a folder of the test."""
    for module in (causal, twin):
        monkeypatch.setattr(module, "read_docstrings", made_up_docstrings)
    monkeypatch.setattr(causal, "SHAPE", causal.SHAPE | {"vocab_size": 300, "hidden_size": 48, "intermediate_size": 32})
    stages = (Stage(2, rows=2, length=64, synthetic=2), Stage(9, rows=2, length=256, synthetic=0))
    monkeypatch.setattr(causal, "MIXTURE", Mixture(seed=1, vocabulary=300, stages=stages))
    monkeypatch.setattr(twin, "TESTED", 3)
    monkeypatch.setattr(install, "WEIGHTS", tmp_path / "weights")
    return tmp_path


def by_command(monkeypatch: pytest.MonkeyPatch, module: object, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["script", *map(str, arguments)])
    module.main()  # type: ignore[attr-defined]


def test_the_scripts_make_a_language_model_its_twin_and_their_cards(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, tuned = small / "causal", small / "twin"
    by_command(monkeypatch, causal, base, "--steps", 4)
    by_command(monkeypatch, twin, tuned, base / "model", "--steps", 3)
    weights = {folder: (folder / "model" / "model.safetensors").read_bytes() for folder in (base, tuned)}
    by_command(monkeypatch, causal, base, "--steps", 4)
    by_command(monkeypatch, twin, tuned, base / "model", "--steps", 3)
    assert weights == {folder: (folder / "model" / "model.safetensors").read_bytes() for folder in (base, tuned)}
    assert [row["step"] for row in loop.read_curve(base / "curve.csv")] == ["4"]

    for name, work in (("causal", base), ("twin", tuned)):
        capsys.readouterr()
        by_command(monkeypatch, install, name, work)
        assert re.fullmatch(r' +"\w+": \{\n( +"[\w.]+": "[0-9a-f]{64}",\n){4} +\},\n', capsys.readouterr().out)
        card = (small / "weights" / name / "README.md").read_text(encoding="utf-8")
        assert f"python -m examples.train.{name} WORK" in card
        assert str(small) not in card
        assert "\n## Scores\n" in card
    found = AutoModelForSequenceClassification.from_pretrained(small / "weights" / "twin")
    assert tuple(found.config.id2label.values()) == twin.CLASSES
    tokenizer = AutoTokenizer.from_pretrained(small / "weights" / "causal")
    assert tokenizer.decode(tokenizer("the mean of\n\ta value")["input_ids"][1:]) == "the mean of\n\ta value"


def test_the_script_makes_a_digits_model_that_goes_on_from_its_checkpoint(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_command(monkeypatch, digits, small / "digits", "--steps", 1)
    by_command(monkeypatch, digits, small / "digits", "--steps", 2)
    assert [row["step"] for row in loop.read_curve(small / "digits" / "curve.csv")] == ["1", "2"]
    assert (small / "digits" / "model" / "preprocessor_config.json").exists()
