"""The next batch is made by a thread while the model works on this one."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch

from attnengine.corpus.windows import Feed, WindowBatch

Windows = tuple[int, ...]


def batches(feed: Feed, pieces: Iterable[Windows], device: str) -> Generator[tuple[Windows, WindowBatch], None, None]:
    """(windows, batch) in order; the batch after the one handed out is being made meanwhile.

    What ``feed.batch`` raises is raised here, where its batch is asked for. On CUDA the thread leaves batches in
    pinned memory, from where they are copied without waiting. Close the iterator to stop the thread.
    """
    cuda = torch.device(device).type == "cuda"

    def make(windows: Windows) -> WindowBatch:
        return feed.batch(windows, "cpu").pinned() if cuda else feed.batch(windows, device)

    def here(batch: WindowBatch) -> WindowBatch:
        return batch.to(device, non_blocking=True) if cuda else batch

    with ThreadPoolExecutor(1, "attnengine-feed") as thread:
        ahead = None
        for windows in pieces:
            coming = windows, thread.submit(make, windows)
            if ahead is not None:
                yield ahead[0], here(ahead[1].result())
            ahead = coming
        if ahead is not None:
            yield ahead[0], here(ahead[1].result())
