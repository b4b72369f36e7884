"""Fine-tune the causal model's twin: ``python -m examples.train.twin WORK CAUSAL`` (from the repository's root).

The task: from which package does this docstring come, its packages' names removed? CAUSAL is the finished causal
model's folder; every weight starts there and only the classification head is new. The test docstrings stand in modules
that neither the causal model nor the twin was trained on. The same command goes on from the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.train.checkpoint import save_finished
from examples.train.loop import Settings, train
from examples.train.material import Docstring, read_docstrings
from examples.train.vocabulary import PAD_ID

SEED = 1
ROWS = 16
SPLITS = ("train", "held_out")
CLASSES = ("pandas", "python", "scipy", "sklearn", "sympy", "torch", "transformers")
NAMES = re.compile(
    r"\b(pandas|pd|python\d?|py|cpython|scipy|sp|sklearn|scikit[- ]learn|scikits?|sympy|torch|pytorch|transformers"
    r"|hugging ?face|numpy|np|networkx|nx|pyarrow|pa|bokeh|matplotlib|plt)\b",
    re.IGNORECASE,
)
SHORTEST = 100  # characters
LONGEST = 128  # tokens: the rest of a docstring is cut off, for the baseline too
TRAINED, TESTED = 2000, 115  # docstrings a class: what the smallest class has


@dataclass(frozen=True)
class Examples:
    """Token ids, one array a docstring, and classes (indices into CLASSES)."""

    ids: list[np.ndarray]
    classes: np.ndarray

    def save(self, path: Path) -> None:
        """Write ids end to end, lengths and classes."""
        np.savez(path, ids=np.concatenate(self.ids), lengths=list(map(len, self.ids)), classes=self.classes)

    @classmethod
    def load(cls, path: Path) -> Examples:
        """Read what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls(np.split(file["ids"], np.cumsum(file["lengths"])[:-1]), file["classes"])


def main() -> None:
    """Prepare once, train to the end, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("causal", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--prepare", action="store_true", help="stop before training; the tokenizer is all it needs")
    parser.add_argument("--threads", type=int, default=1, help="results are bit-identical only for the same number")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.causal)
    prepare(arguments.work, tokenizer)
    if arguments.prepare:
        return
    model = AutoModelForSequenceClassification.from_pretrained(
        arguments.causal, attn_implementation="eager", id2label=dict(enumerate(CLASSES)),
        label2id={name: index for index, name in enumerate(CLASSES)},
    )  # fmt: skip
    kept, held_out = (Examples.load(arguments.work / f"{name}.npz") for name in SPLITS)
    run_training(model, arguments.work, kept, held_out, Settings(arguments.steps, peak_rate=5e-4, warmup=50))
    save_finished(model, arguments.work / "model")
    tokenizer.save_pretrained(arguments.work / "model")


def prepare(work: Path, tokenizer: Any) -> None:
    """Read, cut and tokenise the docstrings and measure the baseline, unless that is done."""
    if (work / "baseline.json").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    docstrings = read_docstrings(CLASSES)
    kept, held_out = (examples(docstrings, tokenizer, held_out=which) for which in (False, True))
    for name, part in zip(SPLITS, (kept, held_out), strict=True):
        part.save(work / f"{name}.npz")
    baseline = bag_of_words_accuracy(kept, held_out, tokenizer)
    (work / "baseline.json").write_text(json.dumps({"bag_of_words": baseline}))  # last: it says that all is there


def without_names(text: str) -> str:
    """The text with every package's name and usual abbreviation taken out."""
    return NAMES.sub("_", text)


def examples(docstrings: Sequence[Docstring], tokenizer: Any, *, held_out: bool) -> Examples:
    """As many docstrings of every class, drawn at random from the modules that are held out or are not."""
    rng = np.random.default_rng([SEED, held_out])
    ids, classes = [], []
    for index, package in enumerate(CLASSES):
        mine = [
            d.text for d in docstrings
            if d.package == package and d.held_out == held_out and len(d.text) >= SHORTEST
        ]  # fmt: skip
        for chosen in rng.permutation(len(mine))[: TESTED if held_out else TRAINED]:
            cut = tokenizer(without_names(mine[chosen]), truncation=True, max_length=LONGEST)
            ids.append(np.asarray(cut["input_ids"]))
            classes.append(index)
    return Examples(ids, np.asarray(classes))


def padded(ids: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask), each (rows, longest): padded on the right."""
    longest = max(map(len, ids))
    rows = np.stack([np.pad(row, (0, longest - len(row)), constant_values=PAD_ID) for row in ids])
    return torch.from_numpy(rows), torch.from_numpy(rows != PAD_ID).long()


def run_training(model: Any, work: Path, kept: Examples, held_out: Examples, settings: Settings) -> None:
    """Train on ``kept``."""
    model.config.pad_token_id = PAD_ID

    def loss_at(step: int) -> torch.Tensor:
        chosen = np.random.default_rng([SEED, step]).integers(0, len(kept.classes), size=ROWS)
        ids, mask = padded([kept.ids[index] for index in chosen])
        labels = torch.from_numpy(kept.classes[chosen])
        return model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss

    def measure() -> dict[str, float | str]:
        return {"accuracy": accuracy(model, held_out)}

    train(model, loss_at, measure, work, settings, tokens_a_step=ROWS * LONGEST)


@torch.no_grad()
def accuracy(model: Any, examples: Examples) -> float:
    """Share of docstrings given their package."""
    training = model.training
    model.eval()
    right = 0
    for start in range(0, len(examples.ids), 64):
        ids, mask = padded(examples.ids[start : start + 64])
        found = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.argmax(-1).numpy()
        right += int((found == examples.classes[start : start + 64]).sum())
    model.train(training)
    return right / len(examples.ids)


def bag_of_words_accuracy(kept: Examples, held_out: Examples, tokenizer: Any) -> float:
    """What a logistic regression on the words of the same cut texts reaches."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = [tokenizer.batch_decode(part.ids, skip_special_tokens=True) for part in (kept, held_out)]
    model = make_pipeline(TfidfVectorizer(min_df=2, sublinear_tf=True), LogisticRegression(C=10, max_iter=1000))
    model.fit(texts[0], kept.classes)
    return float((model.predict(texts[1]) == held_out.classes).mean())


if __name__ == "__main__":
    main()
