"""The bundled digits model is what its card says, and attnengine's image path takes it as it takes any other."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoModelForImageClassification

import attnengine as ae
from attnengine.bundled import bundled_digits, bundled_model
from examples.train import digits


def test_the_digits_model_is_under_a_megabyte_in_half_precision_and_its_card_has_no_private_path() -> None:
    folder = bundled_model("digits")
    assert (folder / "model.safetensors").stat().st_size <= 1e6
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}  # noqa: SIM118 - it is no dict
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"\n## {section}\n" in card for section in ("Data", "Training", "Scores", "Limits"))
    texts = [path.read_text(encoding="utf-8") for path in folder.iterdir() if path.suffix in (".json", ".md")]
    assert not re.search(r"/(home|root|work|tmp|opt|Users)/", "".join(texts))


def test_the_digits_model_reads_the_held_out_digits() -> None:
    folder = bundled_model("digits")
    _, held_out = digits.read_digits(digits.new_processor())
    accuracy = digits.accuracy(AutoModelForImageClassification.from_pretrained(folder), held_out)
    assert accuracy >= 0.95
    said = re.search(r"\| held-out images \| (\d\.\d{3}) \|", (folder / "README.md").read_text(encoding="utf-8"))
    assert said is not None
    assert accuracy == pytest.approx(float(said[1]), abs=0.006)  # two images


def test_the_digits_model_runs_over_a_folder_of_its_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name, picture in bundled_digits()[:12]:
        picture.save(tmp_path / "images" / f"{name}.png")
    command = ["run", bundled_model("digits"), tmp_path / "images", "-o", tmp_path / "run", "-q"]
    subprocess.run([sys.executable, "-m", "attnengine.cli", *map(str, command)], check=True, timeout=300)
    run = ae.open_run(tmp_path / "run")
    assert (run.manifest["corpus"]["documents"], run.manifest["corpus"]["tokens"]) == (12, 12 * 65)
    assert len(run.heads) == 16
    assert run.manifest["warnings"] == []
    assert run.tokens["text"].str.fullmatch(r"r[0-7]c[0-7]|\[prefix 0\]").all()
