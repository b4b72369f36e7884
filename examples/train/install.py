"""Put finished trainings into the package: ``python -m examples.train.install CAUSAL TWIN DIGITS``.

Each argument is the WORK folder of one training. Model folders and their cards go to attnengine/weights; the SHA-256
lines that attnengine/bundled.py pins are printed. Run it in the environment that trained: the cards name its versions.
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
    for name in CARDS:
        parser.add_argument(name, type=Path, help=f"the WORK folder of examples.train.{name}")
    arguments = parser.parse_args()
    for name, card in CARDS.items():
        work: Path = getattr(arguments, name)
        folder = WEIGHTS / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(work / "model", folder)
        (folder / "README.md").write_text(card(work), encoding="utf-8")
        sys.stdout.write(pins(name, folder))


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
