"""How many threads torch's CPU operations run on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def using_threads(n: int | None) -> Iterator[None]:
    """Run torch's CPU operations on ``n`` threads (None: as many as now): their number changes last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
