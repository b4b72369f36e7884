"""A GPT-2 whose heads do exactly one thing each, by hand-set weights, and text whose tokens are independent.

The residual stream has three blocks: which token (one-hot), which position (a Fourier code, whose inner products
depend on the difference of positions and peak at 0), which token came before (one-hot, written by head L0H0).
LayerNorm is undone: every token has the same mean and variance, so weight and bias that restore them make it the
identity. Scores between what a head looks for and the rest differ by 20 or more, so its weight there is 1 − 1e-8.
At last stream and heads are rotated, which changes no pattern: the weights are dense, and shuffled ones are noise of
the same size in every head, not a few large numbers among zeros.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import tokenizers as tk
import torch
from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

WORDS = [f"w{n}" for n in range(60)] + [".", ",", ";", ":"]
PUNCTUATION = [WORDS.index(mark) for mark in ".,;:"]
V, F, HEADS, POSITIONS = len(WORDS), 16, 4, 128
D_HEAD = V + 2 * F
WIDTH = HEADS * D_HEAD
TOKEN, WHERE, BEFORE = slice(0, V), slice(V, V + 4 * F), slice(V + 4 * F, 2 * V + 4 * F)
#: What each head of the planted model is, by (layer, head).
TRUTH = {
    (0, 0): "previous_token", (0, 1): "first_token", (0, 2): "duplicate_token", (0, 3): "broad",
    (1, 0): "induction", (1, 1): "punctuation", (1, 2): "broad", (1, 3): "local",
}  # fmt: skip
SHARP = 40.0  # score of a perfect match of one block
BACK = 3  # how far the local head looks


@cache
def planted_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    words = {word: n for n, word in enumerate([*WORDS, "<pad>", "<unk>"])}
    model = tk.Tokenizer(tk.models.WordLevel(words, unk_token="<unk>"))
    model.pre_tokenizer = tk.pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", unk_token="<unk>")


def independent_text(documents: int, seed: int, lengths: tuple[int, int] = (40, POSITIONS)) -> list[str]:
    """Documents of independent, evenly distributed tokens."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(*lengths, documents, endpoint=True)
    return [" ".join(WORDS[n] for n in rng.integers(0, V, size)) for size in sizes]


def planted_model() -> GPT2Model:
    """Two layers of four heads, each what :data:`TRUTH` says."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=V + 2, n_embd=WIDTH, n_layer=2, n_head=HEADS, n_positions=POSITIONS, n_inner=4, bos_token_id=None,
        eos_token_id=None,
    )  # fmt: skip
    model = GPT2Model(config).eval()
    for parameter in model.parameters():
        parameter.data.zero_()
    model.wte.weight.data[:V, TOKEN] = torch.eye(V)
    model.wpe.weight.data[:, WHERE] = place(torch.arange(POSITIONS))
    model.ln_f.weight.data.fill_(1.0)
    for layer, ones in enumerate((1, 2)):  # one-hot blocks in the stream before this layer
        _undo(model.h[layer].ln_1, ones)
        _undo(model.h[layer].ln_2, 2)
    first, second = (Heads(block.attn) for block in model.h)
    first.match_place(0, back=1)
    first.look_at_place(1, 0)
    first.match_token(2, TOKEN, 2.0)
    first.match_place(2, back=0, strength=-1.5)  # or a token would find itself
    first.copy(0, TOKEN, BEFORE)
    second.match_token(0, BEFORE, 1.0)
    second.look_at_tokens(1, PUNCTUATION)
    second.match_place(3, back=BACK)
    _rotate(model)
    return model


def shuffled_model(seed: int) -> GPT2Model:
    """The planted model with all entries of each layer's W_q and W_k, of all its heads, in random order."""
    model, make = planted_model(), torch.Generator().manual_seed(seed)
    for block in model.h:
        weight = block.attn.c_attn.weight.data[:, : 2 * WIDTH]
        weight.copy_(weight.flatten()[torch.randperm(weight.numel(), generator=make)].view_as(weight))
        block.attn.c_attn.bias.data.zero_()
    return model


def _rotate(model: GPT2Model) -> None:
    """Random bases of the stream (the sum of its entries is kept, so LayerNorm does not notice) and of the heads."""
    ones = torch.full((WIDTH, 1), WIDTH**-0.5)
    basis = torch.linalg.qr(torch.cat([ones, torch.randn(WIDTH, WIDTH - 1)], dim=1)).Q  # (WIDTH, WIDTH), ± ones first
    inside = torch.block_diag(torch.ones(1, 1), torch.linalg.qr(torch.randn(WIDTH - 1, WIDTH - 1)).Q)
    turn = basis @ inside @ basis.T
    for embedding in (model.wte, model.wpe):
        embedding.weight.data = embedding.weight.data @ turn
    for block in model.h:
        attention = block.attn
        attention.c_attn.weight.data = turn.T @ attention.c_attn.weight.data
        attention.c_proj.weight.data = attention.c_proj.weight.data @ turn
        for head in range(HEADS):
            own = torch.linalg.qr(torch.randn(D_HEAD, D_HEAD)).Q
            for start in (head * D_HEAD, WIDTH + head * D_HEAD):  # its queries, its keys
                columns = slice(start, start + D_HEAD)
                attention.c_attn.weight.data[:, columns] = attention.c_attn.weight.data[:, columns] @ own
                attention.c_attn.bias.data[columns] = attention.c_attn.bias.data[columns] @ own


def frequencies() -> torch.Tensor:
    return torch.pi * (torch.arange(F) + 0.5) / F * (1 + 0.013 * torch.sin(7.0 * torch.arange(F)))


def place(position: torch.Tensor) -> torch.Tensor:
    """(n, 4 F) code of positions: cosines, sines and their negatives, so that it sums to 0."""
    angle = position[:, None] * frequencies()  # (n, F)
    code = torch.cat([angle.cos(), angle.sin()], dim=1) / F**0.5
    return torch.cat([code, -code], dim=1)


def _undo(norm: Any, ones: int) -> None:
    mean = ones / WIDTH
    variance = (ones + 2.0) / WIDTH - mean**2  # a code has the square norm 2
    norm.weight.data.fill_((variance + norm.eps) ** 0.5)
    norm.bias.data.fill_(mean)


class Heads:
    """Writes one layer's projections; transformers' GPT-2 keeps them as (input, output), q, k and v side by side."""

    def __init__(self, attention: Any):
        self.attention = attention
        self.q, self.k, self.v = (
            attention.c_attn.weight.data[:, n * WIDTH : (n + 1) * WIDTH].unflatten(1, (HEADS, D_HEAD)) for n in range(3)
        )
        self.q_bias = attention.c_attn.bias.data[:WIDTH].view(HEADS, D_HEAD)
        self.root = (SHARP * D_HEAD**0.5) ** 0.5  # on both sides: scores are divided by √d

    def match_token(self, head: int, block: slice, strength: float) -> None:
        """Score ``strength`` · SHARP where the key's ``block`` holds the query's token."""
        self.q[TOKEN, head, :V] += strength * self.root * torch.eye(V)
        self.k[block, head, :V] += self.root * torch.eye(V)

    def match_place(self, head: int, back: int, strength: float = 1.0) -> None:
        """Score ``strength`` · SHARP where the key stands ``back`` places before the query."""
        angle = back * frequencies()
        turn = torch.zeros(2 * F, 2 * F)
        for f in range(F):
            c, s = angle[f].cos(), angle[f].sin()
            turn[f, f], turn[F + f, f], turn[f, F + f], turn[F + f, F + f] = c, s, -s, c
        self.q[WHERE.start : WHERE.start + 2 * F, head, V:] += strength * self.root * turn
        self.k[WHERE.start : WHERE.start + 2 * F, head, V:] += self.root * torch.eye(2 * F)

    def look_at_place(self, head: int, position: int) -> None:
        """Score SHARP on one position, whatever the query."""
        self.q_bias[head, V:] += self.root * place(torch.tensor([position]))[0, : 2 * F]
        self.k[WHERE.start : WHERE.start + 2 * F, head, V:] += self.root * torch.eye(2 * F)

    def look_at_tokens(self, head: int, tokens: list[int]) -> None:
        """Score SHARP on these tokens, whatever the query."""
        self.q_bias[head, 0] += self.root
        self.k[tokens, head, 0] += self.root

    def copy(self, head: int, source: slice, target: slice) -> None:
        """What the head attends to in ``source`` is added to the stream's ``target``."""
        self.v[source, head, :V] += torch.eye(V)
        self.attention.c_proj.weight.data.unflatten(0, (HEADS, D_HEAD))[head, :V, target] += torch.eye(V)
