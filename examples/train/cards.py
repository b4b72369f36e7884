"""The model cards: what each bundled model is, from what it was made, and what was measured on it."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from examples.train import causal, digits, twin
from examples.train.loop import read_curve
from examples.train.scores import SCORE_SEED, SEGMENT, best, held_out_loss, score_table

LICENCES = {
    "python": "PSF-2.0",
    "pyarrow": "Apache-2.0",
    "transformers": "Apache-2.0",
}  # the others: BSD-3-Clause
DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # where the name on the index is another
CURVE_ROWS = 10


def causal_card(work: Path) -> str:
    """The card of the language model; its scores are measured here, on the fp16 weights."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(work / "model", dtype=torch.float32).eval()
    held_out = np.load(work / "held_out.npy", allow_pickle=False)
    scores = score_table(model, held_out, rows=128)
    material = json.loads((work / "material.json").read_text())
    tokens = len(np.load(work / "train.npy", mmap_mode="r", allow_pickle=False))
    loss = held_out_loss(model, held_out, rows=512)
    curve = read_curve(work / "curve.csv")
    steps = int(curve[-1]["step"])
    return f"""# causal: a small language model of Python documentation

A LlamaForCausalLM made for looking at attention heads: {count(model)} parameters,
{model.config.num_hidden_layers} layers of {model.config.num_attention_heads} query heads and
{model.config.num_key_value_heads} key/value heads (RoPE, grouped queries), context {causal.CONTEXT} tokens,
byte-level BPE vocabulary of {model.config.vocab_size}, fp16 safetensors. It writes no useful text.

## Data

`pydoc_data.topics` (Python's language reference) and the docstrings of the standard library and of installed packages,
read from their source files: {material["documents"]:,} documents, {tokens:,} tokens, SHA-256 of the text
`{material["sha256"]}`. One module in twenty is held out ({material["held_out"]} documents).
{licences(material["packages"])}
The texts belong to those projects and come under their licences; no text is in this folder.

{100 * causal.MIXTURE.synthetic_share(steps):.0f} % of all training tokens are synthetic: a random segment again and
again behind gaps of other random tokens, with loss only where a copy can be predicted. They make induction heads form
early. The scores below use other random tokens.

{stage_table()}

## Training

{training("causal", curve, causal.SEED)}
Muon for the matrices of the layers at rate {causal.MUON_RATE}, AdamW for biases and norms at the same and for the tied
embedding at {causal.RATE} ({causal.WARMUP} steps up, the last {100 * causal.DECAY:.0f} % down to zero).

All heads begin alike, and none is set by hand: biases of queries and keys are drawn at random with standard deviation
{causal.BIAS} and correlation {causal.ALIKE}, which gives every head an attention by distance that favours near tokens,
and the output projection begins as the transpose of the value projection, {causal.COPY} times an orthogonal matrix, so
that every head hands on what it attends to (mimetic initialisation, Trockman & Kolter 2023). The MLPs begin by adding
nothing. Before training the best induction score is below 0.1 and the best previous-token score below 0.5 (a test).

{curve_table(curve, ["step", "tokens", "loss", "held_out", "induction", "previous_random", "previous_text"])}

`loss` is the batches' mean in nats, synthetic rows included; the scores are the best head's.

## Scores

Held-out text: {loss:.3f} nats a token. Attention patterns from transformers' eager attention, fp32 arithmetic, 128 rows
(seed {SCORE_SEED}): {SEGMENT} random tokens of the vocabulary repeated once, behind the start token, and 128 stretches
of held-out text.

| score | best head | its mean attention | heads above 0.5 |
| --- | --- | --- | --- |
{score_row("induction: from the second copy to the token after the first", scores["induction"])}
{score_row("previous token, random tokens", scores["previous_random"])}
{score_row("previous token, held-out text", scores["previous_text"])}
{score_row("duplicate: from the second copy to the first", scores["duplicate"])}
{score_row("start token, held-out text", scores["first_text"])}

## Limits

Small and briefly trained, on English documentation of Python alone; most topics of `help()`, the text of
`attnengine demo`, are among what it was trained on. Documents are packed: attention crosses their
borders in training. The induction score is that of a model that has seen repeated random segments; do not compare it
with models that have not. Other thread counts, processors or versions give other last bits and so another model of the
same kind.
"""


def twin_card(work: Path) -> str:
    """The card of the classifier; its accuracy is measured here, on the fp16 weights."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(work / "model")
    kept, held_out = (twin.Examples.load(work / f"{name}.npz") for name in twin.SPLITS)
    baseline = json.loads((work / "baseline.json").read_text())["bag_of_words"]
    curve = read_curve(work / "curve.csv")
    return f"""# twin: the causal model, fine-tuned to tell where a docstring comes from

A LlamaForSequenceClassification that began as the model in `../causal` (every weight but the new head's), with the same
tokenizer, fp16 safetensors. It is there to be compared with it: what did fine-tuning change in the heads?

## Task and data

From which package is this docstring: {", ".join(twin.CLASSES)}? The names of packages and their usual abbreviations are
taken out, and a docstring is cut after {twin.LONGEST} tokens. {len(kept.classes):,} docstrings for training and
{len(held_out.classes):,} for testing, the same number of each class; the test docstrings stand in modules that neither
model was trained on. {licences(twin.CLASSES)}

## Training

{training("twin", curve, twin.SEED, "WORK CAUSAL")}
AdamW, {twin.ROWS} docstrings a step, rate 5e-4 (50 steps up, the last fifth down to zero).

{curve_table(curve, ["step", "loss", "accuracy"])}

## Scores

| on the test docstrings | accuracy |
| --- | --- |
| this model (fp16 weights, fp32 arithmetic) | {interval(twin.accuracy(model, held_out), len(held_out.classes))} |
| logistic regression on tf-idf of the words, same texts | {interval(baseline, len(held_out.classes))} |
| the most frequent class | {1 / len(twin.CLASSES):.3f} |

In brackets: Wilson's 95 % interval over docstrings.

## Limits

Modules are held out, packages are not: boilerplate that a package repeats in many modules helps on the test. The
curve's accuracy is on the test docstrings too. A training of 1,200 steps stood at 0.786 after 1,000 and was stopped:
the classifier is no better than a bag of words, and is here for its heads.
"""


def digits_card(work: Path) -> str:
    """The card of the vision transformer; its accuracy is measured here, on the fp16 weights."""
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(work / "model")
    kept, held_out = digits.read_digits(digits.new_processor())
    curve = read_curve(work / "curve.csv")
    return f"""# digits: a tiny vision transformer

A ViTForImageClassification of {count(model)} parameters, {model.config.num_hidden_layers} layers of \
{model.config.num_attention_heads} heads, fp16 safetensors, with its image processor. Images are enlarged to
{digits.SIDE}×{digits.SIDE}; a patch is 2×2, one pixel of the original 8×8 digit, so a window is 64 patches behind CLS.

## Data

scikit-learn's copy of the UCI handwritten digits (E. Alpaydin, C. Kaynak; CC BY 4.0): 1,797 images, of which \
{len(held_out.classes)} are held out, every class in proportion.

## Training

{training("digits", curve, digits.SEED)}
AdamW, {digits.ROWS} images a step, each batch moved by up to one original pixel, rate 3e-3 (50 steps up, the last fifth
down to zero).

{curve_table(curve, ["step", "loss", "accuracy"])}

## Scores

| fp16 weights, fp32 arithmetic | accuracy |
| --- | --- |
| held-out images | {digits.accuracy(model, held_out):.3f} |
| images it was trained on | {digits.accuracy(model, kept):.3f} |
| guessing | 0.100 |

## Limits

Made for looking at heads on images, not for reading digits: the held-out images may be by writers that the model has
seen, since this copy of the data does not tell writers apart. The curve's accuracy is on the held-out images;
learning rate and initial range were chosen after looking at two shorter curves like it.
"""


def count(model: torch.nn.Module) -> str:
    """Parameters, as 2.36 M."""
    return f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f} M"


def interval(share: float, of: int) -> str:
    """A share of ``of`` cases with its Wilson interval, as 0.912 (0.890 to 0.930)."""
    from scipy.stats import binomtest

    found = binomtest(round(share * of), of).proportion_ci(0.95, method="wilson")
    return f"{share:.3f} ({found.low:.3f} to {found.high:.3f})"


def licences(packages: list[str] | tuple[str, ...]) -> str:
    """Package, version and licence of each source of text."""
    said = []
    for package in packages:
        found = platform.python_version() if package == "python" else version(DISTRIBUTIONS.get(package, package))
        said.append(f"{package} {found} ({LICENCES.get(package, 'BSD-3-Clause')})")
    return f"Sources: {', '.join(said)}."


def training(name: str, curve: list[dict[str, str]], seed: int, arguments: str = "WORK") -> str:
    """Command, seed, versions and time."""
    steps, seconds = curve[-1]["step"], float(curve[-1]["seconds"])
    return f"""    python -m examples.train.{name} {arguments} --steps {steps}

in the repository of attnengine, seed {seed}, one CPU thread, {seconds / 60:.0f} minutes on a busy machine; Python
{platform.python_version()}, torch {version("torch")}, transformers {version("transformers")}, tokenizers \
{version("tokenizers")}.\
"""


def stage_table() -> str:
    """What the causal model's batches were made of."""
    lines = ["| until step | rows × tokens | of them synthetic | tokens of a segment |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {stage.until} | {stage.rows} × {stage.length} | {stage.synthetic} | {stage.shortest} to {stage.longest} |"
        for stage in causal.MIXTURE.stages
    ]
    return "\n".join(lines)


def curve_table(curve: list[dict[str, str]], columns: list[str]) -> str:
    """Some rows of the curve, the last one among them."""
    chosen = sorted({round(i) for i in np.linspace(0, len(curve) - 1, min(CURVE_ROWS, len(curve)))})
    lines = [columns, ["---"] * len(columns), *([curve[i][name] for name in columns] for i in chosen)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def score_row(name: str, scores: torch.Tensor) -> str:
    """One line of the score table."""
    head, value = best(scores)
    return f"| {name} | {head} | {value:.3f} | {int((scores > 0.5).sum())} of {scores.numel()} |"
