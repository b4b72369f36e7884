"""The standard probe of heads: random tokens repeated (Olsson et al. 2022, arXiv 2209.11895), no corpus needed.

A sequence is r r, r some random tokens, behind the special tokens that the tokenizer opens a window with. What comes
next in the second copy is known only to a head that finds the first. Scores are mean p over queries of the second copy:

    induction         causal: the key after the first occurrence of the query's token, i − L + 1 with L = |r|.
                      Bidirectional (the masked analogue): 15 % of the second copy is masked, and a masked query i looks
                      at i − L, the key whose token the mask hides; it can find it by its neighbours only
    duplicate_token   the other occurrence of the query's token, i − L; bidirectional: queries that are not masked
    previous_token    i − 1

Unlike the types of a run, these are shares of all attention, first and special tokens included, so that they compare
with published figures. Tokens of r are drawn without repetition where the vocabulary allows, special ones left out.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from attnengine.corpus.windows import SpecialTokens
from attnengine.errors import PlanError, UnsupportedModelError
from attnengine.model.capture import Capture, find_sites
from attnengine.model.load import LoadedModel
from attnengine.records import Site
from attnengine.statistics import uncertainty
from attnengine_kernels import AttentionCall, pattern_rows

SCORES = ("induction", "previous_token", "duplicate_token")
MASKED = 0.15  # share of the second copy, BERT's own


@dataclass(frozen=True)
class ProbeSettings:
    """How many sequences of which length; the seed decides the tokens."""

    length: int = 50  # tokens of one copy
    sequences: int = 20
    seed: int = 0
    bos: str = "auto"  # auto: what the tokenizer opens a window with, else its BOS token if it has one; never: nothing
    batch: int = 4  # sequences at a time

    def __post_init__(self) -> None:
        for name, least in (("length", 2), ("sequences", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.bos not in ("auto", "never"):
            raise ValueError(f"bos must be auto or never, got {self.bos!r}")


@dataclass(frozen=True)
class Sequences:
    """The probe's input, and where each score looks: pairs of query and key position, equal for all sequences."""

    ids: Tensor  # (n, l) int64
    start: int  # position of the first repeated token
    length: int
    masked: tuple[int, ...]  # positions of masked queries; none for a causal model

    def targets(self, causal: bool) -> dict[str, list[tuple[int, int]]]:
        """Score -> (query, key) positions."""
        second = range(self.start + self.length, self.start + 2 * self.length)
        shown = [i for i in second if i not in self.masked]
        wanted = [(i, i - self.length + 1) for i in second] if causal else [(i, i - self.length) for i in self.masked]
        return {
            "induction": wanted,
            "previous_token": [(i, i - 1) for i in second],
            "duplicate_token": [(i, i - self.length) for i in shown],
        }


def probe(loaded: LoadedModel, settings: ProbeSettings, device: str = "cpu") -> pd.DataFrame:
    """One row per site and head: ``site, layer, kind, stack, head`` and each score with ``_se`` over sequences.

    Raises UnsupportedModelError for models of images, of two stacks, or bidirectional ones without a mask token;
    PlanError if two copies are longer than the model's positions.
    """
    if loaded.modality != "text" or loaded.is_encoder_decoder:
        raise UnsupportedModelError(f"the probe reads models of text with one stack; {loaded.class_name} is none")
    plain = make_sequences(loaded, settings, causal=True)
    check = model_inputs(loaded, plain.ids[:1], device)
    sites = find_sites(loaded.model, check)
    causal = is_causal(loaded, sites, check)
    sequences = plain if causal else make_sequences(loaded, settings, causal=False)
    targets = sequences.targets(causal)
    scores: dict[int, list[Tensor]] = {site.site: [] for site in sites}  # (sequences, heads, scores)
    with Capture(loaded.model, sites) as capture:
        for ids in sequences.ids.split(settings.batch):
            inputs = model_inputs(loaded, ids, device)
            capture.forward(inputs, lambda site, call: scores[site.site].append(_scores(call, targets)))
    return pd.concat([_rows(site, torch.cat(scores[site.site]).numpy()) for site in sites], ignore_index=True)


def make_sequences(loaded: LoadedModel, settings: ProbeSettings, *, causal: bool) -> Sequences:
    """Random tokens twice, between the tokenizer's special tokens; masked in the second copy unless ``causal``."""
    tokenizer = loaded.tokenizer
    prefix, suffix = _around(tokenizer, settings.bos)
    total = len(prefix) + 2 * settings.length + len(suffix)
    if loaded.max_positions is not None and total > loaded.max_positions:
        raise PlanError(
            f"two copies of {settings.length} tokens with special ones are {total}, the model has "
            f"{loaded.max_positions} positions; use a smaller --length"
        )
    embedding = loaded.model.get_input_embeddings().weight
    assert isinstance(embedding, Tensor)
    known = min(len(tokenizer), len(embedding))
    words = np.setdiff1d(np.arange(known), tokenizer.all_special_ids)
    rng = np.random.default_rng(settings.seed)
    once = np.stack(
        [rng.choice(words, settings.length, replace=len(words) < settings.length) for _ in range(settings.sequences)]
    )
    ends = [np.tile(np.asarray(part, dtype=np.int64), (settings.sequences, 1)) for part in (prefix, suffix)]
    ids = torch.from_numpy(np.concatenate([ends[0], once, once, ends[1]], axis=1).astype(np.int64))
    masked: tuple[int, ...] = ()
    if not causal:
        if tokenizer.mask_token_id is None:
            raise UnsupportedModelError(
                f"{loaded.class_name} is bidirectional and its tokenizer has no mask token: the masked probe needs one"
            )
        second = np.arange(settings.length) + len(prefix) + settings.length
        chosen = rng.choice(second, max(round(MASKED * settings.length), 1), replace=False)
        masked = tuple(sorted(chosen.tolist()))
        ids[:, list(masked)] = tokenizer.mask_token_id
    return Sequences(ids, len(prefix), settings.length, masked)


def _around(tokenizer: Any, bos: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Special tokens before and after; GPT-2's published scores have its BOS in front, which it does not add itself."""
    if bos == "never":
        return (), ()
    special = SpecialTokens.of(tokenizer)
    if not special.prefix and tokenizer.bos_token_id is not None:
        return (tokenizer.bos_token_id,), special.suffix
    return special.prefix, special.suffix


def model_inputs(loaded: LoadedModel, ids: Tensor, device: str) -> dict[str, Tensor]:
    """What the model is called with: no padding, one segment."""
    ids = ids.to(device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    takes = set(inspect.signature(loaded.model.forward).parameters) & set(loaded.tokenizer.model_input_names)
    return inputs | ({"token_type_ids": torch.zeros_like(ids)} if "token_type_ids" in takes else {})


def is_causal(loaded: LoadedModel, sites: list[Site], inputs: dict[str, Tensor]) -> bool:
    """Whether no row of any call sees a key behind itself."""
    answers = []

    def on_call(_site: Site, call: AttentionCall) -> None:
        rows = torch.arange(call.query.shape[2], device=call.hi.device)
        answers.append(bool((call.hi <= rows + 1).all()))

    with Capture(loaded.model, sites) as capture:
        capture.forward(inputs, on_call)
    return all(answers)


def _scores(call: AttentionCall, targets: dict[str, list[tuple[int, int]]]) -> Tensor:
    """(sequences, heads, scores) mean p on each score's pairs, fp64."""
    queries = sorted({i for pairs in targets.values() for i, _ in pairs})
    row = {i: n for n, i in enumerate(queries)}
    out = []
    for sequence in range(call.query.shape[0]):
        where = torch.tensor([(sequence, i) for i in queries])
        p = torch.cat([part.p for part in pattern_rows(call, where)])  # (rows, heads, keys)
        found = [p[[row[i] for i, _ in pairs], :, [j for _, j in pairs]].mean(0) for pairs in targets.values()]
        out.append(torch.stack(found, dim=-1))
    return torch.stack(out).double().cpu()


def _rows(site: Site, scores: np.ndarray) -> pd.DataFrame:
    """The table's rows of one site from (sequences, heads, scores)."""
    heads = np.arange(site.n_heads, dtype=np.int32)
    frame = pd.DataFrame({"site": np.int32(site.site), "layer": np.int32(site.layer), "head": heads})
    frame.insert(2, "kind", site.kind)
    frame.insert(3, "stack", site.stack)
    for n, name in enumerate(SCORES):
        value, error = uncertainty.ratio(scores[:, :, n], np.ones((len(scores), 1)))
        frame[name], frame[f"{name}_se"] = value, error
    return frame
