"""Train the bundled causal model: ``python -m examples.train.causal WORK`` (from the repository's root).

WORK holds the token files, the checkpoint and the curve; the same command goes on from the checkpoint. The finished
model is written to WORK/model in fp16.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.train.batches import Mixture, Stage, batch_at
from examples.train.checkpoint import save_finished
from examples.train.loop import Settings, train
from examples.train.material import PACKAGES, fingerprint, language_documents, read_docstrings
from examples.train.scores import best, held_out_loss, score_table
from examples.train.vocabulary import BOS_ID, PAD_ID, encode_stream, save_vocabulary, train_vocabulary

SEED = 1
CONTEXT = 256
SHAPE: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 512,
    "initializer_range": 0.06,  # the usual 0.02 leaves attention flat for long at this width
}
STEPS = 20_000
# Short repeated segments first, in which copying is learnt soonest; then text and longer repeated segments.
STAGES = (
    Stage(1000, rows=16, length=64, synthetic=16, shortest=4, longest=24),
    Stage(STEPS, rows=4, length=CONTEXT, synthetic=1),
)
MIXTURE = Mixture(seed=SEED, vocabulary=SHAPE["vocab_size"], stages=STAGES)
TOKENS_A_STEP = 1024  # 2,048 learnt no more in a step
RATE, WARMUP = 3e-3, 100
VOCABULARY_TEXT = 8_000_000  # characters: BPE's merges do not change much beyond


def main() -> None:
    """Prepare once, train to the end, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=1, help="results are bit-identical only for the same number")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    prepare(work)
    model = new_model()
    settings = Settings(arguments.steps, peak_rate=RATE, warmup=WARMUP, muon=True)
    run_training(model, work, MIXTURE, settings)
    save_finished(model, work / "model")


def prepare(work: Path) -> None:
    """Read the text, train the vocabulary and write the token files, unless that is done."""
    if (work / "material.json").exists():
        return
    docstrings = read_docstrings()
    kept, held_out = (language_documents(docstrings, held_out=which) for which in (False, True))
    share = max(1, round(sum(map(len, kept)) / VOCABULARY_TEXT))
    tokenizer = train_vocabulary(kept[::share], SHAPE["vocab_size"])
    save_vocabulary(tokenizer, work / "model", CONTEXT)
    np.save(work / "held_out.npy", encode_stream(tokenizer, held_out))
    np.save(work / "train.npy", encode_stream(tokenizer, kept))
    facts = {"packages": PACKAGES, "documents": len(kept), "sha256": fingerprint(kept), "held_out": len(held_out)}
    (work / "material.json").write_text(json.dumps(facts))  # last: its presence says that all is there


def new_model() -> Any:
    """The model before training."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            **SHAPE,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=BOS_ID,
            eos_token_id=BOS_ID,
            pad_token_id=PAD_ID,
        )
    )
    start_clean(model)
    return model


def start_clean(model: Any) -> None:
    """Let every block add nothing at first, so that a token's embedding reaches every layer undisturbed."""
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(2)  # tied: a token must be able to stand out among all logits


def run_training(model: Any, work: Path, mixture: Mixture, settings: Settings) -> None:
    """Train on WORK's token files."""
    stream = np.load(work / "train.npy", mmap_mode="r", allow_pickle=False)
    held_out = np.load(work / "held_out.npy", allow_pickle=False)

    def loss_at(step: int) -> torch.Tensor:
        ids, labels = batch_at(step, stream, mixture)
        return model(input_ids=ids, labels=labels, use_cache=False).loss

    def measure() -> dict[str, float | str]:
        scores = score_table(model, held_out)
        row: dict[str, float | str] = {"held_out": held_out_loss(model, held_out)}
        for name in ("induction", "previous_random", "previous_text"):
            head, value = best(scores[name])
            row |= {name: value, f"{name}_head": head}
        return row

    train(model, loss_at, measure, work, settings, tokens_a_step=TOKENS_A_STEP)


if __name__ == "__main__":
    main()
