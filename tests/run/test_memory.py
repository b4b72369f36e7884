"""Memory that runs out, batches made ahead, batch sizes from free memory."""

import threading
import time

import numpy as np
import pytest
import torch

from attnengine.corpus.feed import changed
from attnengine.model.capture import Capture
from attnengine.opened import open_run
from attnengine.run.batch_size import that_fit
from attnengine.run.describe import facts
from attnengine.run.prefetch import batches
from attnengine_kernels import empty_facts
from tests.run.agreement import assert_same_numbers


@pytest.fixture
def small_memory(monkeypatch):
    """A device on which a forward over more than 150 padded tokens runs out of memory in its second layer."""
    forward, failed = Capture.forward, []

    def limited(self, inputs, on_call):
        too_large = inputs["input_ids"].numel() > 150

        def calling(site, call):
            if too_large and site.site == 1:
                failed.append(tuple(inputs["input_ids"].shape))
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            on_call(site, call)

        return forward(self, inputs, calling)

    monkeypatch.setattr(Capture, "forward", limited)
    return failed


def test_a_batch_that_runs_out_of_memory_runs_in_halves_and_info_says_so(
    seven, undisturbed, cli, small_memory, tmp_path
):
    run = tmp_path / "r"
    code, said = cli(*seven, run)
    assert code == 0, said
    assert small_memory
    assert not list(run.rglob("*.failed"))
    assert "memory ran out in 7 shards (the first: 0), whose batches ran in pieces" in said
    one, other = open_run(undisturbed), open_run(run)
    assert other.shards.resplit.all()
    assert other.manifest["resplit"] == list(range(7))
    assert_same_numbers(one, other, atol=1e-5)
    assert (one.tokens.token_id == other.tokens.token_id).all()
    assert np.allclose(one.queries(1), other.queries(1), atol=1e-5)
    told = dict(facts(run, other.manifest))
    assert told["resplit"] == "shards 0, 1, 2, 3, 4, 5, 6 ran out of memory and in pieces: last bits may differ"


def test_a_window_that_does_not_fit_alone_makes_its_shard_fail_not_the_run(
    cli, seven, undisturbed, monkeypatch, tmp_path
):
    forward, windows = Capture.forward, open_run(undisturbed).windows
    shortest = windows.n_tokens.min()
    assert (windows.n_tokens == shortest).sum() == 1

    def but_for_one_window(self, inputs, on_call):
        if (inputs["attention_mask"].sum(dim=1) == shortest).any():
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(self, inputs, on_call)

    monkeypatch.setattr(Capture, "forward", but_for_one_window)
    code, said = cli(*seven, tmp_path / "r", "-q")
    assert code == 2
    assert "1 of them failed (the first: OutOfMemoryError: CUDA out of memory" in said
    assert len(list(tmp_path.rglob("*.failed"))) == 1
    assert len(list(tmp_path.rglob("shard-*.safetensors"))) == 6


def test_a_device_too_small_for_one_window_is_said_in_one_line(cli, seven, monkeypatch, tmp_path):
    def nothing_fits(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Capture, "forward", nothing_fits)
    code, said = cli(*seven, tmp_path / "r", "-q")
    assert code == 2
    assert "not even one window fits into memory" in said


class Feed:
    """A feed whose batches say who made them, and when."""

    def __init__(self, bad=None):
        self.bad, self.made, self.threads = bad, [], set()

    def batch(self, windows, device):
        if windows == self.bad:
            raise ValueError("no such picture")
        self.threads.add(threading.current_thread())
        self.made.append(windows)
        return windows


def test_batches_come_in_order_and_one_ahead_from_another_thread():
    feed, got = Feed(), []
    for windows, batch in batches(feed, [(i,) for i in range(5)], "cpu"):
        assert windows == batch
        deadline = time.monotonic() + 10
        while len(feed.made) < min(len(got) + 2, 5) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(feed.made) == min(len(got) + 2, 5)  # the next one, and no more
        got.append(windows)
    assert got == [(i,) for i in range(5)]
    assert threading.current_thread() not in feed.threads


def test_what_a_batch_raises_is_raised_where_it_is_asked_for_and_the_thread_ends():
    feed = Feed(bad=(2,))
    ready = batches(feed, [(i,) for i in range(5)], "cpu")
    assert [next(ready)[0], next(ready)[0]] == [(0,), (1,)]
    with pytest.raises(ValueError, match="no such picture"):
        next(ready)
    assert not any(thread.is_alive() for thread in feed.threads)
    stopped = batches(Feed(), [(i,) for i in range(5)], "cpu")
    next(stopped)
    stopped.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("attnengine-feed")]


def test_every_tensor_of_a_batch_is_moved_and_shared_facts_stay_shared():
    shared = empty_facts(2, 5)
    moved = changed({"encoder": shared, "decoder": shared}, lambda tensor: tensor.double())
    assert moved["encoder"] is moved["decoder"]
    assert moved["encoder"].classes["first"].dtype == torch.float64
    assert moved["encoder"].position.dtype == torch.float64
    assert moved["encoder"].token_id is None


@pytest.mark.parametrize(
    ("free", "used", "tokens", "expected"),
    [
        (16 * 2**30, 2**30, 4096, 32768),  # 0.6 · 16 · 4096 = 39,321
        (16 * 2**30 + 2**27, 2**30, 4096, 32768),  # a little more free memory: the same plan
        (2**30, 2**30, 4096, 2048),
        (2**20, 2**30, 4096, 512),
        (2**40, 2**20, 4096, 2**18),
    ],
)
def test_batch_sizes_are_powers_of_two_that_fit_into_free_memory(free, used, tokens, expected):
    assert that_fit(free, used, tokens) == expected
