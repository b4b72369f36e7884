"""Put a finished training into the package: ``python -m examples.train.install NAME WORK``.

NAME is causal, twin or digits, WORK the folder of that training. The model and its card go to attnengine/weights; the
SHA-256 lines that attnengine/bundled.py pins are printed. Run it in the environment that trained: a card names its
versions.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from pathlib import Path

from attnengine.bundled import WEIGHTS
from examples.train.cards import causal_card, digits_card, twin_card

CARDS = {"causal": causal_card, "twin": twin_card, "digits": digits_card}
PINNED = ("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")


def main() -> None:
    """Copy, describe, print the pins."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CARDS)
    parser.add_argument("work", type=Path)
    arguments = parser.parse_args()
    folder = WEIGHTS / arguments.name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(arguments.work / "model", folder, copy_function=shutil.copyfile)
    (folder / "README.md").write_text(CARDS[arguments.name](arguments.work), encoding="utf-8")
    sys.stdout.write(pins(arguments.name, folder))


def pins(name: str, folder: Path) -> str:
    """The entry of ``bundled.SHA256`` for a model."""
    lines = [
        f'        "{file}": "{hashlib.sha256((folder / file).read_bytes()).hexdigest()}",\n'
        for file in PINNED
        if (folder / file).exists()
    ]
    return f'    "{name}": {{\n{"".join(lines)}    }},\n'


if __name__ == "__main__":
    main()
