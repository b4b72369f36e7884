"""What a GPU lays out is what the CPU lays out, to the bit: its layout kernel, its neighbours, its pictures."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as few

from attnengine.embedding import batches, pipeline
from attnengine.embedding.curve import fit_curve
from attnengine.embedding.fuzzy import fuzzy_graph
from attnengine.embedding.init import first_positions
from attnengine.embedding.layout import Descent, lay_out_plainly, schedule
from attnengine.embedding.layout_compiled import lay_out
from attnengine.embedding.methods import Planned
from attnengine.embedding.neighbours import exact, nearest
from attnengine.embedding.on_device import lay_out_heads
from attnengine.embedding.pipeline import embed_run
from attnengine.embedding.settings import EmbedSettings
from attnengine.embedding.stored import head_path
from attnengine.errors import ModelError
from attnengine_kernels import neighbours as on_any_device
from attnengine_kernels.gpu.nearest import rounding
from tests.embedding.test_neighbours import hard_points
from tests.kernels.calls import DEVICE

pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []
A, B = fit_curve()


def planned(points: np.ndarray, dims: int, seed: int, epochs: int) -> Planned:
    found, squares = nearest(points, 15)
    graph = fuzzy_graph(found, (squares / 2).astype(np.float32), 200)
    return Planned(first_positions(points, dims, seed), schedule(graph), Descent(seed, A, B, epochs))


@pytest.mark.parametrize(("dims", "epochs"), [(2, 2), (3, 1)])  # the interpreter takes seconds an epoch
def test_heads_of_unequal_size_laid_out_together_have_the_bits_of_the_plain_layout(cloud, dims, epochs):
    heads = [planned(cloud[:40], dims, 7, epochs), planned(cloud[40:60], dims, 2**32 - 5, epochs)]
    together = lay_out_heads(heads, DEVICE)
    for head, found in zip(heads, together, strict=True):
        plain = lay_out_plainly(head.start, head.plan, head.descent)
        assert np.array_equal(found, plain)
        assert np.abs(plain - head.start).max() > 0.1


def test_heads_that_move_differently_are_not_mixed(cloud):
    head = planned(cloud[:40], 2, 1, 2)
    other = replace(head, descent=replace(head.descent, epochs=3))
    with pytest.raises(ValueError, match="one curve, number of epochs and rate"):
        lay_out_heads([head, other], DEVICE)
    assert lay_out_heads([], DEVICE) == []


@given(hard_points())
def test_neighbours_found_by_torch_are_the_compiled_ones_to_the_bit(points):
    same_neighbours(points, min(len(points), 15), tile=40_000, by="torch")


@few(max_examples=8)  # the interpreter takes seconds for one
@given(hard_points())
def test_neighbours_found_by_the_running_list_are_the_compiled_ones_to_the_bit(points):
    same_neighbours(points, min(len(points), 15), tile=40_000, by="triton")


def test_more_neighbours_than_the_running_list_holds_are_still_found(cloud):
    """Its kernel takes 64 candidates at most; beyond that torch proposes, by itself."""
    same_neighbours(cloud[:300], 40)


def same_neighbours(points: np.ndarray, k: int, **options: Any) -> None:
    wanted = exact(points, np.arange(len(points)), k)
    found = on_any_device.nearest(torch.from_numpy(points).to(DEVICE), k, **options)
    for mine, theirs in zip(found, wanted, strict=True):
        assert np.array_equal(mine.cpu().numpy(), theirs)


@pytest.mark.parametrize("by", ["torch", "triton"])
@pytest.mark.parametrize(("near", "others", "right"), [(1, -1, True), (1, 0, True), (-1, 1, True), (100_000, 0, False)])
def test_products_as_wrong_as_they_may_be_change_no_neighbour(cloud, by, near, others, right, monkeypatch):
    """Candidates proposed with the worst error that the certificate allows for; far beyond it neighbours are lost."""
    n, d = cloud.shape
    wanted, _ = exact(cloud, np.arange(n), 15)
    units = d if by == "torch" else rounding(d)

    def by_wrong_products(centred, squares, rows, room):
        x, size = centred.double(), squares.double()
        asking = slice(rows.start, rows.stop)
        keys = size - 2 * x[asking] @ x.T
        is_near = torch.zeros_like(keys, dtype=torch.bool)
        is_near.scatter_(1, torch.from_numpy(wanted[asking]).long().to(keys.device), True)
        keys += torch.where(is_near, near, others) * units * on_any_device.UNIT * (size[asking, None] + size)
        keys.diagonal(rows.start).fill_(-torch.inf)
        smallest, candidates = keys.topk(room, dim=1, largest=False)
        return on_any_device.Proposed(candidates, smallest.amax(1))

    monkeypatch.setattr(on_any_device, "_by_products", by_wrong_products)
    monkeypatch.setattr(on_any_device, "_running_list", lambda d: (by_wrong_products, rounding(d)))
    found, _ = on_any_device.nearest(torch.from_numpy(cloud).to(DEVICE), 15, by=by)
    assert np.array_equal(found.cpu().numpy(), wanted) == right


@pytest.mark.parametrize("tile", [1, 100_000, 2**28])
def test_neighbours_of_a_real_head_do_not_depend_on_the_tile(cloud, tile):
    same_neighbours(cloud, 15, tile=tile)


def test_more_neighbours_than_points_are_refused():
    with pytest.raises(ValueError, match="between 1 and 10 neighbours for 10 points, got 11"):
        on_any_device.nearest(torch.zeros(10, 2), 11)


def test_heads_embedded_by_the_device_have_the_bytes_of_those_embedded_by_workers(bert_run, tmp_path, monkeypatch):
    """The whole path but the layout kernel, whose bits are tested above: the interpreter would need an hour."""
    one, other = (shutil.copytree(bert_run, tmp_path / name) for name in ("one", "other"))
    settings = EmbedSettings(epochs=20)
    embed_run(one, settings, layers=[0, 2], heads=[3, 7], jobs=1)
    on_cpu = lambda heads, _device: [lay_out(head.start, head.plan, head.descent) for head in heads]  # noqa: E731
    if DEVICE.type == "cpu":
        monkeypatch.setattr(batches, "lay_out_heads", on_cpu)
    monkeypatch.setattr(batches, "MOST_BYTES", 3 * 1280 * batches.BYTES_A_POINT)  # three heads a batch
    monkeypatch.setattr(pipeline, "check_device", lambda device, settings: device)
    embed_run(
        other, settings, layers=[0, 2], heads=[3, 7], jobs=2, device=str(DEVICE) if DEVICE.type == "cuda" else "cpu:0"
    )
    for site, head in ((0, 3), (0, 7), (2, 3), (2, 7)):
        assert head_path(one, site, head).read_bytes() == head_path(other, site, head).read_bytes()
    assert (one / "clouds.parquet").read_bytes() == (other / "clouds.parquet").read_bytes()


def test_a_device_that_is_not_there_and_a_method_without_one_are_named(bert_run):
    with pytest.raises(ModelError, match="torch sees no CUDA device" if DEVICE.type == "cpu" else "unknown device"):
        embed_run(bert_run, device="cuda" if DEVICE.type == "cpu" else "nonsense")


@pytest.mark.parametrize("arch", [90, pytest.param(80, marks=pytest.mark.acceptance)])
def test_no_operation_of_the_compiled_layout_is_contracted_or_approximate(arch, without_interpreter):
    """A fused multiply-add or a fast division would be another number than the CPU's."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(arch)],
        capture_output=True, text=True, check=True, env=without_interpreter | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    stack, *operations = done.stdout.split()
    assert stack == "0"
    assert "div.rn.f32" in operations
    assert any(name.startswith("mul") and name.endswith("f32") for name in operations)
    assert not [name for name in operations if name.startswith(("fma", "div.full", "div.approx", "ex2", "lg2", "rcp"))]


COMPILE = """
import re, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from attnengine.embedding.on_device import LAW
from attnengine_kernels.gpu.aot import Variant, measure
from attnengine_kernels.gpu.layout import shipped_with

name, function, types, constants, tile = shipped_with(LAW)[0]
names, arch = function.arg_names, int(sys.argv[1])
signature = {a: types[a] if a not in constants else "constexpr" for a in names}
print(measure(Variant(name, 16, "fp32", arch, function, signature, constants, tile.options())).stack)
source = ASTSource(function, signature, {(names.index(a),): c for a, c in constants.items()}, {})
text = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=tile.options()).asm["ptx"]
print(*sorted(set(re.findall("(?:fma|div|ex2|lg2|mul|rcp)[.][a-z0-9.]*", text))))
"""
