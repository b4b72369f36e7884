"""What ships compiles for GPUs that this machine does not have, without spilling; a slice of the full table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from attnengine_kernels.gpu._launch import architecture
from attnengine_kernels.gpu.aot import Resources, Variant


def variant(arch: int, dtype: str = "bf16", kernel: str = "row ak") -> Variant:
    return Variant(kernel, 128, dtype, arch, None, {}, {}, {})


@pytest.mark.parametrize(
    ("arch", "dim", "dtype", "kernel"),
    [
        (90, 128, "bf16", "row ak"),
        (80, 64, "fp16", "row ak"),
        (90, 64, "bf16", "scan"),
        (80, 64, "fp32", "lse"),
        (100, 128, "bf16", "row ak2"),
    ],
)
def test_a_slice_of_the_table_has_no_defect(
    arch: int, dim: int, dtype: str, kernel: str, root: Path, without_interpreter: dict[str, str]
) -> None:
    """No stack, memory within the architecture, its own tensor-core instruction: the command exits 0."""
    done = subprocess.run(
        [sys.executable, "-m", "attnengine_kernels.gpu.aot", "--arch", str(arch), "--dim", str(dim), "--dtype", dtype,
         "--kernel", kernel],
        capture_output=True, text=True, check=False,
        env=without_interpreter | {"PYTHONPATH": str(root / "kernels")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(kernel)]
    assert rows
    assert all(f" {dtype} " in f"{line} " for line in rows)


def test_each_kind_of_defect_is_named() -> None:
    """A table without defects means something only if they would show."""
    good = {"registers": 255, "stack": 0, "shared": 99 * 1024, "products": 8, "serialised": False}
    assert Resources(**good).defects(variant(80)) == []
    assert Resources(**good | {"stack": 8}).defects(variant(80)) == ["8 bytes of stack"]
    assert "shared" in Resources(**good | {"shared": 99 * 1024 + 1}).defects(variant(80))[0]
    assert Resources(**good | {"shared": 227 * 1024}).defects(variant(90)) == []
    assert "wgmma" in Resources(**good | {"products": 0}).defects(variant(90))[0]
    assert "tcgen05" in Resources(**good | {"products": 0}).defects(variant(100))[0]
    assert Resources(**good | {"products": 0}).defects(variant(90, "fp32")) == []
    assert Resources(**good | {"tensor_memory": 512}).defects(variant(100)) == []
    assert "tensor memory" in Resources(**good | {"tensor_memory": 544}).defects(variant(100))[0]
    assert "C7512" in Resources(**good | {"serialised": True}).defects(variant(90))[0]


@pytest.mark.parametrize(("kilobytes", "table"), [(227, 90), (228, 90), (163, 80), (99, 80)])
def test_a_device_takes_the_tiles_that_its_shared_memory_holds(
    kilobytes: int, table: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer card of a later architecture than H100's has less of it than an A100."""
    properties = SimpleNamespace(shared_memory_per_block_optin=kilobytes * 1024)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
    assert architecture(torch.device("cuda")) == table
    assert architecture(torch.device("cpu")) == 80
