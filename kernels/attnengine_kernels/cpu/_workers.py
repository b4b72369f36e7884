"""Threads that each work alone: independent pieces of a call, one join at the end.

Parallel regions inside the pieces would wait for each other many times per call, and torch's OpenMP threads and
numba's would spin against each other for the same cores; on a busy machine that costs more than the work itself.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
_lock = threading.Lock()
_local = threading.local()


def in_parallel(work: Callable[..., None], pieces: Iterable[tuple[Any, ...]]) -> None:
    """``work(*piece)`` for every piece, on as many threads as torch uses; the first exception is raised.

    Inside ``work`` torch runs on one thread, so that a piece gives the same bits however many pieces there are.
    """
    futures = [_pool(torch.get_num_threads()).submit(work, *piece) for piece in pieces]
    for future in futures:
        future.result()


def _pool(threads: int) -> ThreadPoolExecutor:
    place = (os.getpid(), threads)  # threads do not survive a fork
    with _lock:
        if place not in _pools:
            barrier = threading.Barrier(threads)

            def alone() -> None:
                torch.set_num_threads(1)  # of this thread; the default of later threads is put back below
                barrier.wait()

            _pools[place] = ThreadPoolExecutor(threads, "attnengine", initializer=alone)
            for ready in [_pools[place].submit(int) for _ in range(threads)]:
                ready.result()
            torch.set_num_threads(threads)
        return _pools[place]


def room(name: str, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> Any:
    """This thread's array of that name, with whatever it held before: fresh memory costs a page fault every 4 kB."""
    rooms: dict[str, Any] = _local.__dict__
    size = math.prod(shape)
    if name not in rooms or rooms[name].size < size:
        rooms[name] = np.empty(size, dtype)
    return rooms[name][:size].reshape(shape)
