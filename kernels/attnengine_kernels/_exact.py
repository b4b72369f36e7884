"""fp32 products stay fp32: TF32 or bf16 inside them would cost the statistics all but three digits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_products() -> Iterator[None]:
    """No gradients, and fp32 matrix products at full precision whatever the program has asked for elsewhere."""
    before = torch.get_float32_matmul_precision()
    if before != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad():
            yield
    finally:
        if before != "highest":
            torch.set_float32_matmul_precision(before)
