"""A training's state on disk: one safetensors file, replaced as a whole, so that a kill leaves the old one or the new.

Weights and the optimizers' moments are everything: batches and the learning rate are functions of the step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

NAME = "checkpoint.safetensors"


def save(folder: Path, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], step: int) -> None:
    """Write the state after ``step`` steps."""
    tensors = {f"weight.{name}": value.detach().clone() for name, value in model.named_parameters()}
    for place, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"moment.{place}.{index}.{name}": value.clone() for name, value in state.items()}
    temporary = folder / f"{NAME}.part"
    save_file(tensors, temporary, metadata={"step": str(step)})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(folder / NAME)


def load(folder: Path, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Put the saved state, if there is one, into model and optimizers; the number of steps done."""
    if not (folder / NAME).exists():
        return 0
    states: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in optimizers]
    weights = dict(model.named_parameters())
    with safe_open(folder / NAME, framework="pt") as file, torch.no_grad():
        for name in file.keys():  # noqa: SIM118 - a safetensors file is no dict
            kind, _, rest = name.partition(".")
            if kind == "weight":
                weights[rest].copy_(file.get_tensor(name))
            else:
                place, index, moment = rest.split(".")
                states[int(place)].setdefault(int(index), {})[moment] = file.get_tensor(name)
        step = int(file.metadata()["step"])
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def save_finished(model: Any, folder: Path) -> None:
    """Write the model in transformers' layout with its weights in fp16, to be computed with in fp32.

    transformers takes the dtype to load in from the configuration: half precision halves the file, but on a CPU it is
    slow and coarse.
    """
    model.half().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n", encoding="utf-8")
