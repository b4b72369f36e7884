"""The training loop the three scripts share: steps, progress, curve, checkpoints, resume."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from examples.train import checkpoint


@dataclass(frozen=True)
class Settings:
    """How long and how fast. ``bf16`` runs the forward under autocast, as CPUs with AMX and GPUs like it.

    ``muon_rate`` hands the layers' matrices to Muon, at that rate, which biases and norms then have too.
    """

    steps: int
    peak_rate: float
    muon_rate: float | None = None
    warmup: int = 200
    decay: float = 0.2  # share of the steps over which the learning rate goes down to zero
    weight_decay: float = 0.1
    bf16: bool = True
    measure_every: int = 250  # steps
    checkpoint_every: float = 600.0  # seconds


def share_at(step: int, settings: Settings) -> float:
    """Share of the peak rate at a step: a linear warm-up, 1, a linear way down over the last ``decay`` of the steps.

    Before the way down begins, ``steps`` has had no influence: a training may still be made longer or shorter.
    """
    way_down = settings.decay * settings.steps
    return min(1.0, (step + 1) / settings.warmup, (settings.steps - step) / way_down)


def train(
    model: torch.nn.Module,
    loss_at: Callable[[int], torch.Tensor],
    measure: Callable[[], dict[str, float | str]],
    folder: Path,
    settings: Settings,
    *,
    tokens_a_step: int,
) -> None:
    """Train ``model`` in place up to ``settings.steps``, from the checkpoint in ``folder`` if there is one.

    ``loss_at(step)`` gives the step's loss and depends on nothing but the step; ``measure()`` gives what a row of the
    curve says beside step, seconds and loss.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizers = optimizers_for(model, settings)
    first = checkpoint.load(folder, model, optimizers)
    curve = Curve(folder / "curve.csv", first)
    saved = time.monotonic()
    model.train()
    for step in range(first, settings.steps):
        loss = one_step(model, optimizers, loss_at, step, settings)
        curve.add(loss)
        if (step + 1) % settings.measure_every == 0 or step + 1 == settings.steps:
            curve.write(step + 1, measure(), settings.steps, tokens_a_step)
        if step + 1 == settings.steps or time.monotonic() - saved > settings.checkpoint_every:
            checkpoint.save(folder, model, optimizers, step + 1)
            curve.keep()
            saved = time.monotonic()


def optimizers_for(model: torch.nn.Module, settings: Settings) -> list[torch.optim.Optimizer]:
    """AdamW, without decay for biases and norms; with ``muon_rate``, Muon (Jordan et al. 2024) for layers' matrices."""
    named = dict(model.named_parameters())
    hidden = {name for name, p in named.items() if settings.muon_rate and p.ndim == 2 and ".layers." in name}
    others = [p for name, p in named.items() if name not in hidden]
    groups: list[dict[str, object]] = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": settings.weight_decay},
        {
            "params": [p for p in others if p.ndim <= 1],
            "weight_decay": 0.0,
            "lr": settings.muon_rate or settings.peak_rate,
        },
    ]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=settings.peak_rate, betas=(0.9, 0.98), fused=True)
    ]
    if settings.muon_rate:
        matrices = [named[name] for name in sorted(hidden)]
        decay, adjust = settings.weight_decay, "match_rms_adamw"
        found.append(torch.optim.Muon(matrices, lr=settings.muon_rate, weight_decay=decay, adjust_lr_fn=adjust))
    for group in (group for optimizer in found for group in optimizer.param_groups):
        group["peak"] = group["lr"]
    return found


def one_step(
    model: torch.nn.Module,
    optimizers: list[torch.optim.Optimizer],
    loss_at: Callable[[int], torch.Tensor],
    step: int,
    settings: Settings,
) -> float:
    """One update; its loss."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share_at(step, settings)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.bf16):
        loss = loss_at(step)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


class Curve:
    """The curve as CSV. Rows are written as they come; a resumed training drops those after its checkpoint."""

    def __init__(self, path: Path, first: int) -> None:
        self.path, self.losses = path, list[float]()
        self.rows = [row for row in read_curve(path) if int(row["step"]) <= first]
        self.seconds = float(self.rows[-1]["seconds"]) if self.rows else 0.0
        self.began = self.last = time.monotonic()
        self.keep()

    def add(self, loss: float) -> None:
        """Count one step's loss into the next row."""
        self.losses.append(loss)

    def write(self, step: int, measured: dict[str, float | str], steps: int, tokens_a_step: int) -> None:
        """Add a row and say it."""
        now = time.monotonic()
        speed = len(self.losses) / (now - self.last)  # steps a second
        facts = {
            "step": step,
            "tokens": step * tokens_a_step,
            "seconds": round(self.seconds + now - self.began),
            "loss": round(sum(self.losses) / len(self.losses), 4),
        }
        row = facts | {name: round(v, 4) if isinstance(v, float) else v for name, v in measured.items()}
        self.rows.append({name: str(value) for name, value in row.items()})
        self.keep()
        left = (steps - step) / speed / 60
        said = "  ".join(f"{name} {value}" for name, value in row.items())
        sys.stderr.write(f"{said}  · {speed * tokens_a_step:.0f} tokens/s, {left:.1f} min left\n")
        sys.stderr.flush()
        self.last, self.losses = now, []

    def keep(self) -> None:
        """Write all rows."""
        if self.rows:
            with self.path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(self.rows[-1]))
                writer.writeheader()
                writer.writerows(self.rows)


def read_curve(path: Path) -> list[dict[str, str]]:
    """The rows of a curve file; none if it is not there."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
