"""What a model attends to, asked from the model itself: one window at a time, unpadded, in fp32 eager attention.

Patterns come from ``output_attentions``; queries, keys and values from forward hooks on the projections, with rotary
positions, scale, soft-cap, window, relative bias and learned sinks then applied here by hand, in fp64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from tests.oracle.facts import Window, picture_windows, text_windows
from tests.oracle.models import Case, Layer

Array = np.ndarray
EAGER_OUTPUT = {
    ("", "self"): "attentions",
    ("encoder", "self"): "encoder_attentions",
    ("decoder", "self"): "decoder_attentions",
    ("decoder", "cross"): "cross_attentions",
}


@dataclass(frozen=True)
class Head:
    """One head of one attention call over one window, dense and in fp64."""

    query: Array  # (q, d)
    key: Array  # (k, d)
    value: Array  # (k, dv)
    scale: float
    score: Array  # (q, k) scale * q.k, soft-capped, with bias
    visible: Array  # (q, k) bool
    pattern: Array  # (q, k) the model's own
    sink: float | None  # learned sink score

    def sink_mass(self, row: int) -> float:
        """exp(sink − lse) of a row; 0 without a sink."""
        if self.sink is None:
            return 0.0
        scores = self.score[row][self.visible[row]]
        top = max(scores.max(), self.sink)
        return float(np.exp(self.sink - top) / (np.exp(self.sink - top) + np.exp(scores - top).sum()))


def windows_of(case: Case) -> list[Window]:
    """The windows of a case's documents."""
    reader, documents = case.reader(), case.documents()
    if case.grid is not None:
        return picture_windows(len(documents), *case.grid, prefix=1)
    return text_windows(
        documents,
        reader,
        prefix=reader.convert_tokens_to_ids(list(case.prefix)),
        suffix=reader.convert_tokens_to_ids(list(case.suffix)),
        length=case.window,
        stride=case.settings.get("stride"),
        decoder_start=case.decoder_start,
    )


def attend(case: Case, model: Any, window: Window) -> list[list[Head]]:
    """All heads of all attention calls (layer by layer, as ``case.layers``) of one window."""
    with projections(case, model) as seen, torch.inference_mode():
        outputs = model(**inputs_of(case, window), output_attentions=True)
    rotary = seen.get("rotary_emb")
    parameters = dict(model.named_parameters())
    calls = []
    for layer in case.layers:
        vectors = [seen[f"{layer.module}.{name}"] for name in layer.projections]
        if len(vectors) == 1:  # GPT-2: query, key and value side by side
            vectors = np.split(vectors[0], 3, axis=-1)
        query, key, value = (
            split_heads(array, heads)
            for array, heads in zip(vectors, (case.heads, case.kv_heads, case.kv_heads), strict=True)
        )
        if case.rope:
            theta = model.config.rope_parameters["rope_theta"]
            angles = rotary or rotary_table(query.shape[1], query.shape[2], theta)
            query, key = rotate(query, *angles), rotate(key, *angles)
        pattern = getattr(outputs, EAGER_OUTPUT[layer.stack, layer.kind])[layer.layer][0].double().numpy()
        sinks = parameters[layer.sinks].detach().double().numpy() if layer.sinks else None
        table = parameters[layer.bias_table].detach().double().numpy() if layer.bias_table else None
        size = (query.shape[1], key.shape[1])
        visible, bias = visible_pairs(layer, *size), relative_bias(layer, table, case.heads, *size)
        calls.append([one_head(case, h, query, key, value, pattern, visible, bias, sinks) for h in range(case.heads)])
    return calls


def inputs_of(case: Case, window: Window) -> dict[str, torch.Tensor]:
    """One unpadded window as the model takes it; no mask, since everything is real."""
    if case.grid is not None:
        picture = case.documents()[window.document]
        return {"pixel_values": case.reader()(images=[picture.convert("RGB")], return_tensors="pt")["pixel_values"]}
    names = {"": "input_ids", "encoder": "input_ids", "decoder": "decoder_input_ids"}
    return {names[stack]: torch.tensor([stream.ids]) for stack, stream in window.streams.items()}


@contextmanager
def projections(case: Case, model: Any) -> Iterator[dict[str, Any]]:
    """Outputs of the projection modules by name, fp64 without the batch axis, and the rotary module's (cos, sin)."""
    seen: dict[str, Any] = {}

    def keep(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            both = output if isinstance(output, tuple) else (output,)
            arrays = tuple(tensor[0].double().numpy() for tensor in both)
            seen[name] = arrays if isinstance(output, tuple) else arrays[0]

        return hook

    names = [f"{layer.module}.{name}" for layer in case.layers for name in layer.projections]
    names += ["rotary_emb"] if case.rope == "module" else []
    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(keep(name)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def split_heads(array: Array, heads: int) -> Array:
    """(tokens, heads * d) to (heads, tokens, d)."""
    return array.reshape(len(array), heads, -1).swapaxes(0, 1)


def rotary_table(length: int, width: int, theta: float) -> tuple[Array, Array]:
    """cos and sin (tokens, d / 2) of position times theta^(−2i/d) (Su et al. 2021, arXiv 2104.09864)."""
    angle = np.arange(length)[:, None] * theta ** (-np.arange(0, width, 2) / width)
    return np.cos(angle), np.sin(angle)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Turn each pair (x_i, x_{i + d/2}) of (heads, tokens, d) by the token's angle."""
    half = x.shape[-1] // 2
    cos, sin = cos[:, :half], sin[:, :half]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def one_head(
    case: Case, h: int, query: Array, key: Array, value: Array, pattern: Array, seen: Array, bias: Array, sinks: Any
) -> Head:
    """The scores of head ``h`` from its vectors."""
    shared = h // (case.heads // case.kv_heads)  # neighbouring query heads share a key head
    product = case.scale * query[h] @ key[shared].T
    score = product if case.softcap is None else case.softcap * np.tanh(product / case.softcap)
    sink = None if sinks is None else float(sinks[h])
    return Head(query[h], key[shared], value[shared], case.scale, score + bias[h], seen, pattern[h], sink)


def visible_pairs(layer: Layer, rows: int, keys: int) -> Array:
    """(rows, keys) bool, pair by pair."""
    seen = np.ones((rows, keys), dtype=bool)
    for i in range(rows):
        for j in range(keys):
            if layer.causal and j > i:
                seen[i, j] = False
            if layer.window is not None and i - j >= layer.window:
                seen[i, j] = False
    return seen


def relative_bias(layer: Layer, table: Any, heads: int, rows: int, keys: int) -> Array:
    """(heads, rows, keys): T5's learned number of each pair's relative-position bucket; 0 for other models."""
    bias = np.zeros((heads, rows, keys))
    if table is not None:
        for i in range(rows):
            for j in range(keys):
                bias[:, i, j] = table[t5_bucket(j - i, both_ways=not layer.causal)]
    return bias


@cache
def t5_bucket(offset: int, both_ways: bool, buckets: int = 32, far: int = 128) -> int:
    """Number of the relative-position bucket of key − query (Raffel et al. 2020, arXiv 1910.10683)."""
    first = 0
    if both_ways:
        buckets //= 2
        first = buckets if offset > 0 else 0
        distance = abs(offset)
    else:
        distance = max(-offset, 0)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    # fp32, as the model has it: a bucket's edge must fall on the same side.
    step = np.log(np.float32(distance) / np.float32(exact)) / np.float32(math.log(far / exact))
    return first + min(exact + int(np.float32(step) * np.float32(buckets - exact)), buckets - 1)
