"""What a batch asks of a GPU: torch's meta device stands in for it, whose tensors have shapes and no numbers.

Whatever needs a number of the device on the host, a copy of a tensor included, raises there.
"""

from __future__ import annotations

import pytest
import torch

from attnengine.corpus.feed import WindowBatch
from attnengine.corpus.plan import Plan
from attnengine.model import masks
from attnengine.model.masks import MaskReader
from attnengine.opened import open_run
from attnengine.records import Site
from attnengine.run import sampling
from attnengine.run.engine import Job, run_batch
from attnengine.run.sampling import Sample
from attnengine.statistics.accumulate import Pilot, SiteSums
from attnengine_kernels import AttentionCall, api
from tests.kernels.oracles import make_facts
from tests.run.agreement import assert_same_numbers
from tests.run.conftest import same_numbers

B, L, H, D = 3, 70, 4, 16


class OneForward:
    """In a capture's place: two layers call attention on their devices, under a padded causal mask."""

    def __init__(self, sites, devices=("meta", "meta")):
        self.sites, self.devices = sites, devices
        causal = torch.ones(L, L, dtype=torch.bool).tril().expand(B, 1, L, L)
        self.masks = {device: causal.to(device) for device in devices}

    def forward(self, inputs, on_call):
        reader = MaskReader()
        for site, device in zip(self.sites, self.devices, strict=True):
            q, k, v = (torch.ones(B, n, L, D, device=device) for n in (H, site.n_kv_heads, site.n_kv_heads))
            seen = reader.read(self.masks[device], None, False, q, k)
            on_call(site, AttentionCall(q, k, v, seen.lo, seen.hi, 0.25, bias=seen.bias, bounds=seen.bounds))


@pytest.fixture
def waits(monkeypatch):
    """The one copy to the host that capture makes, of what a mask says; each is noted, and answered for the device."""
    noted = []

    def answer(bounds, whole, says_more):
        noted.append([bounds.device.type, whole.device.type, says_more.device.type])
        hi = torch.arange(1, L + 1, dtype=torch.int32).expand(B, L)
        return torch.stack([torch.zeros_like(hi), hi]), True, False

    monkeypatch.setattr(masks, "_on_host", answer)
    return noted


@pytest.fixture
def a_batch(monkeypatch):
    """Job, windows, group, sums, sample and batch of a run with sampled rows, on that device."""
    monkeypatch.setattr(sampling, "_copied", lambda tensor: torch.empty_like(tensor))  # pinned memory needs a real one
    monkeypatch.setattr(api, "_chosen", lambda device, _: "numba" if device == "cpu" else "triton")
    facts = make_facts(B, L, right=6, seed=1)
    sites = [Site(n, f"m{n}", 0, "", "self", n, H, 2, D, D, 0.25, None, None, False, False) for n in range(2)]
    at = [(w, i) for w in (0, 2) for i in range(64)]
    where = torch.tensor(at, dtype=torch.int32).numpy()
    plan = Plan(((0, 1, 2),), ((0,),), torch.arange(B).int().numpy(), B, where[:, 0], where[:, 1], where[:, 0] == 0, "")

    class OneFeed:
        n_tokens = torch.tensor([L] * B).numpy()

    job = Job(None, sites, OneFeed(), plan, "meta", (tuple(range(H)),) * 2)
    batch = WindowBatch.on_host({"input_ids": torch.zeros(B, L, dtype=torch.long)}, {"": facts})
    return job, sites, batch


def test_a_batch_waits_for_the_device_once_to_read_its_mask(a_batch, waits) -> None:
    job, sites, batch = a_batch
    sums = [SiteSums(Pilot.zero(H, D)) for _ in sites]
    run_batch(job, OneForward(sites), (0, 1, 2), torch.arange(B), sums, Sample(), batch.to("meta"))
    assert waits == [["meta"] * 3]  # two layers, one mask
    for one in sums:
        kept = [*one.grouped.values(), *one.pooled.values(), *one.extremes.values(), one.tokens.mass]
        assert len(kept) > 60
        assert all(value.device.type == "meta" for value in kept)


def test_layers_on_several_devices_are_added_up_where_they_are(a_batch, waits) -> None:
    job, sites, batch = a_batch
    sums = [SiteSums(Pilot.zero(H, D)) for _ in sites]
    forward = OneForward(sites, ("meta", "cpu"))
    run_batch(job, forward, (0, 1, 2), torch.arange(B), sums, Sample(), batch.to("meta"))
    for one, device in zip(sums, ("meta", "cpu"), strict=True):
        assert {value.device.type for value in (*one.grouped.values(), one.tokens.mass)} == {device}
    assert sums[1].grouped["entropy"].sum() > 0


@pytest.mark.parametrize("asks", ["cpu", "item", "tolist", "nonzero", "numpy", "__bool__", "unique"])
def test_the_stand_in_refuses_to_give_numbers(asks) -> None:
    with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
        getattr(torch.ones(3 if asks != "__bool__" else (), device="meta"), asks)()


@pytest.mark.gpu
def test_a_run_on_a_gpu_has_the_numbers_of_the_cpu_and_its_own_bits_again(cli, seven, undisturbed, tmp_path) -> None:
    for name in ("once", "again"):
        assert cli(*seven, tmp_path / name, "--device", "cuda", "--dtype", "fp32", "-q")[0] == 0
    assert same_numbers(tmp_path / "once", tmp_path / "again")
    assert_same_numbers(open_run(undisturbed), open_run(tmp_path / "once"), atol=1e-4)
