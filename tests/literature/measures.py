"""What papers report of single heads, measured: cosines of weights, and syntax found by the most attended word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from attnengine.model.capture import Capture, find_sites
from attnengine.model.load import LoadedModel
from attnengine.probe import model_inputs
from attnengine_kernels import pattern_rows


def weight_cosines(model, *, with_bias: bool = False) -> np.ndarray:
    """(layers, heads) cosine of a GPT-2 head's W_q and W_k, each a matrix (d_model, d_head) taken as one long vector.

    1 for a head whose queries and keys are read from the stream alike, so that a token looks for its like; -1 for one
    that looks for its opposite. Turning both sides within the head changes nothing. ``with_bias`` adds the bias as one
    more row of each.
    """
    out = []
    for block in model.h:
        weight = block.attn.c_attn.weight.detach()
        if with_bias:
            weight = torch.cat([weight, block.attn.c_attn.bias.detach()[None]])
        q, k, _ = (part.unflatten(1, (model.config.n_head, -1)) for part in weight.chunk(3, dim=1))  # (d_model, h, d)
        out.append(((q * k).sum((0, 2)) / (q.norm(dim=(0, 2)) * k.norm(dim=(0, 2)))).numpy())
    return np.stack(out)


@dataclass(frozen=True)
class Sentence:
    """Words, and which word each dependent belongs to, by relation: name -> (dependent, head) word numbers."""

    words: tuple[str, ...]
    relations: dict[str, tuple[int, int]]


def sentences() -> list[Sentence]:
    """Short sentences by rule, so that who belongs to whom needs no parser."""
    out = []
    nouns, verbs = ("dog", "teacher", "farmer", "child"), ("chased", "found", "watched", "carried")
    things, places = ("ball", "letter", "horse", "chair"), ("garden", "house", "city", "river")
    for n, (noun, verb, thing) in enumerate(product(nouns, verbs, things)):
        place = places[n % 4]
        words = ("the", "old", noun, verb, "the", "small", thing, "near", "the", place, ".")
        relations = {"det": (4, 6), "dobj": (6, 3), "pobj": (9, 7), "amod": (1, 2)}
        out.append(Sentence(words, relations))
        words = ("his", "young", noun, "was", "slowly", verb, "by", "her", "old", thing, ".")
        out.append(Sentence(words, {"poss": (7, 9), "auxpass": (3, 5), "pobj": (9, 6)}))
    return out


def relation_accuracy(loaded: LoadedModel, given: Sequence[Sentence]) -> dict[str, np.ndarray]:
    """Relation -> (layers, heads) share of dependents whose most attended other word is the one they belong to.

    Clark et al. 2019 (arXiv 1906.04341), section 4.1: attention *to* a word is summed over its tokens, *from* a word
    averaged; special tokens and the word itself are left out.
    """
    hits: dict[str, list[np.ndarray]] = {}
    for sentence in given:
        encoded = loaded.tokenizer(list(sentence.words), is_split_into_words=True)
        attention = np.stack(_attention(loaded, torch.tensor([encoded["input_ids"]])))  # (layers, heads, q, k)
        of_word = [[t for t, w in enumerate(encoded.word_ids()) if w == n] for n in range(len(sentence.words))]
        to_words = np.stack([attention[..., tokens].sum(-1) for tokens in of_word], axis=-1)  # (…, q, words)
        for name, (dependent, head) in sentence.relations.items():
            seen = to_words[:, :, of_word[dependent]].mean(2)  # (layers, heads, words)
            seen[..., dependent] = -1
            hits.setdefault(name, []).append(seen.argmax(-1) == head)
    return {name: np.mean(found, axis=0) for name, found in hits.items()}


def _attention(loaded: LoadedModel, ids: torch.Tensor) -> list[np.ndarray]:
    """(heads, q, k) of every site, rebuilt from captured queries and keys."""
    inputs, found = model_inputs(loaded, ids, "cpu"), []
    rows = torch.tensor([(0, i) for i in range(ids.shape[1])])
    with Capture(loaded.model, find_sites(loaded.model, inputs)) as capture:
        capture.forward(
            inputs,
            lambda _site, call: found.append(torch.cat([part.p for part in pattern_rows(call, rows)]).transpose(0, 1)),
        )
    return [p.numpy() for p in found]
