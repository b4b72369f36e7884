"""What the kernels' README shows runs as it stands, and lists every pass that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from attnengine_kernels import gpu
from tests.kernels.calls import DEVICE

pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []


def test_the_examples_run_one_after_the_other(root: Path) -> None:
    """With fewer tokens, so that the interpreter gets through them."""
    blocks = re.findall(r"```python\n(.*?)```", (root / "kernels/README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, object] = {}
    with torch.device(DEVICE):
        for block in blocks:
            exec(compile(block.replace("300", "60").replace("299", "59"), "README", "exec"), names)
    assert names["entropy"].shape == (1, 8)  # type: ignore[attr-defined]
    row, fused = names["row"], names["fused"]
    assert torch.allclose(row.entropy, fused.entropy, atol=1e-5)  # type: ignore[attr-defined]
    assert torch.allclose(fused.output, names["output"], atol=1e-4)  # type: ignore[attr-defined]
    assert names["share"].shape == (1, 8, 64)  # type: ignore[attr-defined]
    assert names["products"].shape == (2, 8, 60, 64)  # type: ignore[attr-defined]


def test_every_public_pass_is_in_the_table(root: Path) -> None:
    text = (root / "kernels/README.md").read_text()
    listed = set(re.findall(r"`(\w+)`", text))
    helpers = {"PlaceFacts", "signed_log_edges"}
    assert set(gpu.__all__) - helpers <= listed
