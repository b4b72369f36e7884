"""Heads laid out by a GPU, many in one launch: threads of the CPU prepare and judge them, to the bit as workers do."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial

import numpy as np
import torch

from attnengine.embedding import stored
from attnengine.embedding.head import Prepared, judge, prepare
from attnengine.embedding.methods import Planned, Task, finished, planned
from attnengine.embedding.on_device import lay_out_heads
from attnengine.embedding.order import Order, opened, read, start
from attnengine.embedding.settings import head_seed
from attnengine.errors import EmbeddingError
from attnengine_kernels.neighbours import nearest

#: Bytes a point takes on the device while it is laid out: two positions, some 40 edges, where they begin in each part.
BYTES_A_POINT = 512
MOST_BYTES = 4 * 2**30
Ready = tuple[Prepared, Task] | str  # or the reason why a head has no cloud


def embed_on(device: str, order: Order, todo: list[tuple[int, int]], threads: int) -> Iterator[None]:
    """Embed and write every head of ``todo``; yields as heads are finished."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        for batch in cut(order, todo):
            ready = list(pool.map(partial(_ready, order), batch))
            tasks = [one[1] for one in ready if not isinstance(one, str)]
            pictures = iter(_pictures(tasks, device, pool))
            judged = [
                pool.submit(_write, order, key, one, None if isinstance(one, str) else next(pictures))
                for key, one in zip(batch, ready, strict=True)
            ]
            for done in as_completed(judged):
                done.result()
                yield


def cut(order: Order, todo: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Batches that fit the device and, with vectors of some 100 numbers a point, the host."""
    points = 2 * len(opened(order.run).tokens)
    most = max(MOST_BYTES // (points * BYTES_A_POINT), 1)
    yield from (todo[first : first + most] for first in range(0, len(todo), most))


def _ready(order: Order, key: tuple[int, int]) -> Ready:
    try:
        prepared = prepare(read(opened(order.run), *key), order.settings)
        seed = head_seed(order.settings.seed, *key)
        return prepared, prepared.task(order.settings, seed, start(order, *key))
    except EmbeddingError as problem:
        return str(problem)


def _pictures(tasks: list[Task], device: str, pool: ThreadPoolExecutor) -> list[np.ndarray]:
    """Neighbours of one head on the device while the graphs of those before are made; then all layouts at once."""
    plans = [pool.submit(_planned, task, *_neighbours(task, device)) for task in tasks]
    laid_out = lay_out_heads([plan.result() for plan in plans], device)
    return [finished(task, picture) for task, picture in zip(tasks, laid_out, strict=True)]


def _neighbours(task: Task, device: str) -> tuple[np.ndarray, np.ndarray]:
    found, squares = nearest(torch.from_numpy(task.points).to(device), task.settings.neighbours)
    return found.cpu().numpy(), squares.cpu().numpy()


def _planned(task: Task, found: np.ndarray, squares: np.ndarray) -> Planned:
    return planned(task, (found, (squares / 2).astype(np.float32)))


def _write(order: Order, key: tuple[int, int], one: Ready, picture: np.ndarray | None) -> None:
    made = one if isinstance(one, str) or picture is None else judge(one[0], picture, order.settings)
    assert not isinstance(made, tuple)
    stored.write_head(stored.head_path(order.run, *key), order.digest, made)
