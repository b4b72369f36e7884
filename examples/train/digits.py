"""Train the bundled image model: ``python -m examples.train.digits WORK`` (from the repository's root).

A ViT that tells scikit-learn's handwritten digits apart. Its images are the digits' 8×8 pixels, enlarged by the model's
own processor to 16×16, so that a patch of 2×2 is one original pixel. The same command goes on from the checkpoint.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attnengine.bundled import bundled_digits
from examples.train.checkpoint import save_finished
from examples.train.loop import Settings, train

SEED = 1
SIDE = 16
ROWS = 64
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "image_size": SIDE,
    "patch_size": 2,
    "initializer_range": 0.1,  # the usual 0.02 learns slowly at this width
}


@dataclass(frozen=True)
class Digits:
    """Pixels (n, 3, side, side) as the processor makes them, and classes (n,)."""

    pixels: torch.Tensor
    classes: torch.Tensor


def main() -> None:
    """Train to the end, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1, help="results are bit-identical only for the same number")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    processor, model = new_processor(), new_model()
    kept, held_out = read_digits(processor)
    settings = Settings(arguments.steps, peak_rate=3e-3, warmup=50, bf16=False, measure_every=100)
    run_training(model, arguments.work, kept, held_out, settings)
    save_finished(model, arguments.work / "model")
    processor.save_pretrained(arguments.work / "model")


def new_processor() -> Any:
    """Enlarges to SIDE×SIDE and scales to [−1, 1]."""
    from transformers import ViTImageProcessor

    return ViTImageProcessor(size={"height": SIDE, "width": SIDE})


def new_model() -> Any:
    """The model before training."""
    from transformers import ViTConfig, ViTForImageClassification

    names = {index: str(index) for index in range(10)}
    return ViTForImageClassification(
        ViTConfig(**SHAPE, id2label=names, label2id={name: index for index, name in names.items()})
    )


def read_digits(processor: Any) -> tuple[Digits, Digits]:
    """(kept, held out): four fifths and one fifth of the images, every class in proportion."""
    from sklearn.model_selection import train_test_split

    labels, pictures = zip(*((int(name[0]), picture.convert("RGB")) for name, picture in bundled_digits()), strict=True)
    pixels = processor(images=list(pictures), return_tensors="pt")["pixel_values"]
    indices = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=SEED, stratify=labels)
    classes = torch.tensor(labels)
    kept, held_out = (Digits(pixels[which], classes[which]) for which in map(torch.from_numpy, indices))
    return kept, held_out


def run_training(model: Any, work: Path, kept: Digits, held_out: Digits, settings: Settings) -> None:
    """Train on ``kept``."""

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng([SEED, step])
        chosen = torch.from_numpy(rng.integers(0, len(kept.classes), size=ROWS))
        pixels = shifted(kept.pixels[chosen], *rng.integers(-2, 3, size=2))
        return model(pixel_values=pixels, labels=kept.classes[chosen]).loss

    def measure() -> dict[str, float | str]:
        return {"accuracy": accuracy(model, held_out)}

    train(model, loss_at, measure, work, settings, tokens_a_step=ROWS * (1 + (SIDE // 2) ** 2))


def shifted(pixels: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """The images moved by whole pixels, at most 2 (one of the original's), what moves in being background."""
    padded = torch.nn.functional.pad(pixels, (2, 2, 2, 2), value=float(pixels.min()))
    return padded[..., 2 - down : 2 - down + pixels.shape[-2], 2 - right : 2 - right + pixels.shape[-1]]


@torch.no_grad()
def accuracy(model: Any, digits: Digits) -> float:
    """Share of images given their class."""
    training = model.training
    model.eval()
    found = model(pixel_values=digits.pixels).logits.argmax(-1)
    model.train(training)
    return float((found == digits.classes).float().mean())


if __name__ == "__main__":
    main()
