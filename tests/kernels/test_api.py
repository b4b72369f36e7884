"""The one call for every device: paths by name, facts shared by layers, memory that grows as length does."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import attnengine_kernels
from attnengine_kernels import Memory, empty_facts, head_sums, path_for
from attnengine_kernels.sums import CORE
from tests.kernels.calls import DEVICE
from tests.kernels.oracles import agree, make_facts, random_call


def causal(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    hi = torch.arange(1, length + 1, dtype=torch.int32).repeat(batch, 1)
    return torch.zeros_like(hi), hi


def test_what_is_exported_is_what_all_says() -> None:
    public = {name for name, value in vars(attnengine_kernels).items() if not name.startswith("_")}
    modules = {name for name in public if isinstance(getattr(attnengine_kernels, name), type(sys))}
    assert public - modules == set(attnengine_kernels.__all__) - modules


def test_the_manifest_learns_which_implementation_runs() -> None:
    assert set(path_for("cpu").values()) == {"numba"}
    assert path_for("cpu", torch.float64)["rows"] == "torch"
    assert path_for("cuda")["rows"] == path_for("cuda")["scans"] == "triton"
    assert path_for("cuda")["places"] == "triton"
    assert path_for("cuda")["hidden scans"] == "torch"


def test_fp64_goes_where_fp64_is_kept() -> None:
    lo, hi = causal(1, 20)
    call, facts = random_call(lo, hi, 20, dtype=torch.float64), empty_facts(1, 20)
    sums, want = head_sums(call, facts, facts), head_sums(call, facts, facts, path="reference")
    torch.testing.assert_close(sums["entropy"], want["entropy"], rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="path='torch' takes it"):
        head_sums(call, facts, facts, path="numba")


def test_an_unknown_path_is_named() -> None:
    lo, hi = causal(1, 4)
    with pytest.raises(ValueError, match="expected one of auto, numba, torch, triton, reference, got 'mkl'"):
        head_sums(random_call(lo, hi, 4), empty_facts(1, 4), empty_facts(1, 4), path="mkl")


MASSES = ("self", "previous", "next", "first", "special", "punctuation", "same_token", "induction", "cross_sentence")


@pytest.mark.parametrize("path", ["numba", "torch", "reference"])
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("mask", ["causal", "whole"])
def test_core_keeps_its_part_of_all(path: str, cross: bool, mask: str) -> None:
    """To the bit where the path computes everything; the numba path leaves work out, and so adds in another order."""
    lo, hi = causal(2, 24)
    hi = torch.full_like(hi, 24) if mask == "whole" else hi
    call, facts = random_call(lo, hi, 24, sink=not cross), make_facts(2, 24)
    everything = head_sums(call, facts, facts, cross=cross, path=path)
    core = head_sums(call, facts, facts, cross=cross, path=path, stats="core")
    masses = {f"{name}_mass" for name in (*MASSES, "learned_sink")}
    assert set(core) == (CORE | masses | {f"{name}_n" for name in masses}) & set(everything)
    if path == "numba":
        wanted = head_sums(call, facts, facts, cross=cross, path="reference")
        agree(core, {name: wanted[name] for name in core})
    else:
        assert all(torch.equal(value, everything[name]) for name, value in core.items())
    assert cross or set(everything) >= CORE


def test_an_unknown_set_of_statistics_is_named() -> None:
    lo, hi = causal(1, 4)
    with pytest.raises(ValueError, match="stats: expected one of all, core, got 'few'"):
        head_sums(random_call(lo, hi, 4), empty_facts(1, 4), empty_facts(1, 4), stats="few")


@pytest.mark.parametrize(
    ("mask", "cross", "bias"), [("causal", False, "none"), ("whole", True, "none"), ("causal", False, "hiding")]
)
def test_the_triton_path_gives_the_reference(mask: str, cross: bool, bias: str) -> None:
    lo, hi = causal(2, 37)
    hi = torch.full_like(hi, 37) if mask == "whole" else hi
    facts = make_facts(2, 37, left=2)
    lo, hi = torch.where(facts.real, lo.clamp(min=2), 0).int(), torch.where(facts.real, hi, 0).int()
    call = random_call(lo, hi, 37, h=2, hkv=1, d=16, sink=True, softcap=5.0, bias=bias)
    device = {name: getattr(call, name) for name in ("query", "key", "value", "lo", "hi", "sink", "bias")}
    moved = replace(call, **{name: x if x is None else x.to(DEVICE) for name, x in device.items()})
    got = head_sums(moved, facts, facts, path="triton", cross=cross)
    agree(got, head_sums(call, facts, facts, path="reference", cross=cross))


def test_layers_share_facts_and_other_masks_do_not() -> None:
    memory, facts = Memory(), make_facts(1, 30)
    lo, hi = causal(1, 30)
    call = random_call(lo, hi, 30)
    first = memory.find(call, facts, facts, cross=False, max_length=None)
    assert memory.find(replace(call, lo=lo.clone()), facts, facts, cross=False, max_length=None) is first
    wider = replace(call, hi=torch.full_like(hi, 30))
    for path in ("numba", "torch"):
        for one in (call, wider, replace(call, bias=torch.zeros(1, 1, 30, 30).masked_fill_(hi.T <= 9, -torch.inf))):
            fresh = head_sums(one, facts, facts, path=path)
            kept = head_sums(one, facts, facts, path=path, memory=memory)
            assert all(torch.equal(kept[name], value) for name, value in fresh.items())
    other = replace(facts, token_id=facts.token_id + 1)
    assert memory.find(call, other, other, cross=False, max_length=None) is not first


def test_a_profile_too_short_for_the_window_is_refused() -> None:
    lo, hi = causal(1, 20)
    for path in ("numba", "torch", "reference"):
        with pytest.raises(ValueError, match="max_length: expected more than the last position, 19, got 10"):
            head_sums(random_call(lo, hi, 20), empty_facts(1, 20), empty_facts(1, 20), max_length=10, path=path)


PEAK = """
import resource, torch
from attnengine_kernels import AttentionCall, empty_facts, head_sums
for length in (512, 2048, 8192):
    q, k, v = (torch.randn(1, 1, length, 16) for _ in range(3))
    hi = torch.arange(1, length + 1, dtype=torch.int32)[None]
    call, facts = AttentionCall(q, k, v, torch.zeros_like(hi), hi, 0.25), empty_facts(1, length)
    head_sums(call, facts, facts)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_grows_with_length_not_with_its_square() -> None:
    """One fp32 matrix of 8192 x 8192 is 256 MB; four times the length may take 60 MB more."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    _, middle, longest = (int(line) / 1024 for line in done.stdout.split())
    assert longest - middle < 60


def test_tensors_on_two_devices_are_refused() -> None:
    lo, hi = causal(1, 4)
    call = random_call(lo, hi, 4)
    with pytest.raises(ValueError, match="key: expected the device of query, cpu, got meta"):
        head_sums(replace(call, key=call.key.to("meta")), empty_facts(1, 4), empty_facts(1, 4))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_triton_passes_on_cpu_tensors_say_what_to_do(without_interpreter: dict[str, str], root: Path) -> None:
    """Without the interpreter and without a GPU: a sentence, not triton's `0 active drivers`."""
    program = (
        "import torch\nfrom attnengine_kernels import AttentionCall, intervals\n"
        "from attnengine_kernels.gpu.rows import row_pass\nx = torch.randn(1, 2, 5, 16)\n"
        "row_pass(AttentionCall(x, x, x, *intervals.causal(1, 5, 5), 0.25))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False,
                          env=without_interpreter | {"PYTHONPATH": str(root / "kernels")})  # fmt: skip
    assert "ValueError: query: expected a CUDA tensor, got one on cpu" in done.stderr
