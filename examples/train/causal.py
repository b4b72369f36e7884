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

from examples.train.batches import IGNORED, Mixture, Stage, batch_at
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
    "num_key_value_heads": 3,
    "head_dim": 32,
    "intermediate_size": 512,
    "attention_bias": True,  # a head can prefer a distance without learning it from every token
    "initializer_range": 0.06,  # the usual 0.02 leaves attention flat for long at this width
}
TOKENS_A_STEP = 3072
STEPS = 3350
# Short repeated segments first, in which copying is learnt within a million tokens; then longer ones; then text.
STAGES = (
    Stage(350, rows=96, length=32, synthetic=96, shortest=3, longest=10),
    Stage(500, rows=48, length=64, synthetic=48, shortest=3, longest=30),
    Stage(650, rows=24, length=128, synthetic=24, shortest=4, longest=62),
    Stage(STEPS, rows=12, length=CONTEXT, synthetic=1, longest=100),
)
MIXTURE = Mixture(seed=SEED, vocabulary=SHAPE["vocab_size"], stages=STAGES)
RATE, MUON_RATE, WARMUP, DECAY = 1e-3, 1e-2, 20, 0.4
BIAS, ALIKE, COPY = 1.5, 0.8, 0.5
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
    settings = Settings(
        arguments.steps, peak_rate=RATE, muon_rate=MUON_RATE, warmup=WARMUP, decay=DECAY, measure_every=50
    )
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
    model.set_attn_implementation("eager")  # the fastest at these lengths on a CPU
    for layer in model.model.layers:
        begin_attention(layer.self_attn, model.config)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


@torch.no_grad()
def begin_attention(attention: Any, config: Any) -> None:
    """Begin every head alike: drawn to near tokens, each in its own way, and handing on what it attends to.

    Large random biases of queries and keys, turned by RoPE, give each head an attention by distance; those of a query
    and its key correlate by ALIKE, so that it favours near tokens. The output projection is the value projection's
    transpose, so that what is attended to is added to the residual stream (mimetic initialisation, Trockman & Kolter
    2023, arXiv 2305.09828).
    """
    heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    shared = heads // groups
    key = torch.nn.init.normal_(attention.k_proj.bias, std=BIAS).view(groups, 1, width).expand(-1, shared, -1)
    own = torch.empty(groups, shared, width).normal_(std=BIAS)
    attention.q_proj.bias.copy_((ALIKE * key + (1 - ALIKE**2) ** 0.5 * own).flatten())
    value = COPY * torch.nn.init.orthogonal_(torch.empty(groups * width, config.hidden_size))
    attention.v_proj.weight.copy_(value)
    by_head = value.view(groups, 1, width, -1).expand(-1, shared, -1, -1).reshape(heads * width, -1)
    attention.o_proj.weight.copy_(by_head.T / shared)


def run_training(model: Any, work: Path, mixture: Mixture, settings: Settings) -> None:
    """Train on WORK's token files."""
    stream = np.load(work / "train.npy", mmap_mode="r", allow_pickle=False)
    held_out = np.load(work / "held_out.npy", allow_pickle=False)

    def loss_at(step: int) -> torch.Tensor:
        ids, labels = batch_at(step, stream, mixture)
        known = labels[:, 1:] != IGNORED
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][known]
        return torch.nn.functional.cross_entropy(model.lm_head(hidden).float(), labels[:, 1:][known])

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
