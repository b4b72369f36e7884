"""The folders kernels/ and explorer/ must not become importable names of ours.

transformers does `import kernels` for Hugging Face's package of that name. A top-level package of ours would be taken
for it, in a checkout and after an install. A folder without __init__.py loses against any real package on the path.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MODELS = """
import importlib.util, json, torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel
from transformers.utils.import_utils import is_kernels_available
small = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=11)
ids = torch.tensor([[1, 2, 3]])
shapes = [list(kind(config(**small))(ids).last_hidden_state.shape)
          for kind, config in ((BertModel, BertConfig), (LlamaModel, LlamaConfig))]
spec = importlib.util.find_spec("kernels")
print(json.dumps({"shapes": shapes, "taken": is_kernels_available(), "origin": spec and spec.origin}))
"""

# Enough of Hugging Face's package for transformers to import it and to decorate its models with it.
STAND_IN = """
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *args, **kwargs: lambda decorated: decorated
"""


def run_models(root: Path, *path: Path) -> dict[str, object]:
    """Make and call two models in a process that starts in the repository's root, with ``path`` after it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [root, *path]))}
    done = subprocess.run(
        [sys.executable, "-c", MODELS], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize("name", ["kernels", "explorer"])
def test_the_containers_have_no_init_file(root: Path, name: str) -> None:
    assert (root / name).is_dir()
    assert not (root / name / "__init__.py").exists()


def test_models_load_from_the_repository_root_without_hugging_faces_kernels(root: Path) -> None:
    answer = run_models(root)
    assert answer["shapes"] == [[1, 3, 8], [1, 3, 8]]
    assert not answer["taken"], "transformers took our folder for Hugging Face's kernels package"


def test_models_load_from_the_repository_root_with_hugging_faces_kernels_installed(root: Path, tmp_path: Path) -> None:
    from transformers.utils.import_utils import KERNELS_MIN_VERSION

    package = tmp_path / "kernels"
    package.mkdir()
    (package / "__init__.py").write_text(STAND_IN)
    metadata = tmp_path / f"kernels-{KERNELS_MIN_VERSION}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: kernels\nVersion: {KERNELS_MIN_VERSION}\n")

    answer = run_models(root, tmp_path)

    assert answer["shapes"] == [[1, 3, 8], [1, 3, 8]]
    assert answer["taken"], "transformers did not see Hugging Face's kernels package"
    assert answer["origin"] == str(package / "__init__.py")
