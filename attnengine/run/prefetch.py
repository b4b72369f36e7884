"""The next batch is made by a thread while the model works on this one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor

from attnengine.corpus.windows import Feed, WindowBatch
from attnengine_kernels import TokenFacts

Windows = tuple[int, ...]


def batches(feed: Feed, pieces: Iterable[Windows], device: str) -> Generator[tuple[Windows, WindowBatch], None, None]:
    """(windows, batch) in order; the batch after the one handed out is being made meanwhile.

    What ``feed.batch`` raises is raised here, where its batch is asked for. On CUDA the thread leaves batches in
    pinned memory, from where they are copied without waiting. Close the iterator to stop the thread.
    """
    cuda = torch.device(device).type == "cuda"

    def make(windows: Windows) -> WindowBatch:
        return mapped(feed.batch(windows, "cpu"), Tensor.pin_memory) if cuda else feed.batch(windows, device)

    with ThreadPoolExecutor(1, "attnengine-feed") as thread:
        ahead = None
        for windows in pieces:
            coming = windows, thread.submit(make, windows)
            if ahead is not None:
                yield ahead[0], _here(ahead[1].result(), device, cuda)
            ahead = coming
        if ahead is not None:
            yield ahead[0], _here(ahead[1].result(), device, cuda)


def _here(batch: WindowBatch, device: str, cuda: bool) -> WindowBatch:
    return mapped(batch, lambda tensor: tensor.to(device, non_blocking=True)) if cuda else batch


def mapped(batch: WindowBatch, change: Callable[[Tensor], Tensor]) -> WindowBatch:
    """The batch with every tensor changed; streams that share their facts go on sharing them."""
    facts: dict[int, TokenFacts] = {}
    for one in batch.streams.values():
        if id(one) not in facts:
            tensors = {name: change(value) for name, value in vars(one).items() if isinstance(value, Tensor)}
            classes = {name: change(value) for name, value in one.classes.items()}
            facts[id(one)] = replace(one, **tensors, classes=classes)
    inputs = {name: change(value) for name, value in batch.inputs.items()}
    return WindowBatch(inputs, {name: facts[id(one)] for name, one in batch.streams.items()})
