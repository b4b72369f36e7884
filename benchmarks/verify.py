"""Check every kernel of this machine against the fp64 reference: ``attnengine bench verify [--quick]``.

The benchmarks run this first and print no speed if a check fails. On a CUDA machine the Triton passes are checked, one
by one and together (every sum of ``attnengine_kernels.sums``), in fp32, fp16 and bf16, and the lse of each of torch's
SDPA backends; on the CPU the compiled path and the plain torch one; nearest neighbours, whoever proposes them. Exit
code 1 if anything is off.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace

import torch

from attnengine_kernels import AttentionCall, TokenFacts, head_sums
from attnengine_kernels.neighbours import nearest
from attnengine_kernels.reference import pattern
from attnengine_kernels.sums import LIMIT_ATTENDED_BF16, LIMIT_ATTENDED_FP32, LIMIT_ENTROPY, LIMIT_MASS
from attnengine_kernels.vendor import BACKENDS, attention_with_lse
from benchmarks.calls import Shape, features_of, make_call
from tests.kernels.oracles import agree

SHAPES = (
    Shape(2, 4, 2, 113, 64), Shape(1, 2, 1, 257, 128, causal=False), Shape(2, 2, 2, 130, 72, skewed=True),
    Shape(1, 2, 1, 200, 256), Shape(2, 3, 1, 65, 32, causal=False, skewed=True),
)  # fmt: skip
REPEATS = 5


def failures(device: str, *, quick: bool = False) -> Iterator[str]:
    """What disagrees with the reference by more than the limits, as sentences."""
    cuda = device == "cuda"
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for shape in SHAPES[: 2 if quick else None]:
            call, facts = make_call(shape, dtype, device)
            where = f"{dtype} {shape}: "
            for path in ("triton", "torch") if cuda else ("numba", "torch"):
                yield from (f"{where}{path}: {text}" for text in _whole(call, facts, path))
            if cuda:
                yield from (where + text for text in _passes(call))
    yield from (f"lse of {name}: {text}" for name in BACKENDS for text in _lse(name, device))
    for by in ("torch", "triton") if cuda else ("torch",):
        yield from (
            f"neighbours proposed by {by}: {text}" for d in (32, 72, 256) for text in _neighbours(by, d, device)
        )


def _whole(call: AttentionCall, facts: TokenFacts, path: str) -> Iterator[str]:
    """Every sum of one call, and that five repeats have the same bits."""
    call = replace(call, lse=None)  # the vendor's has its own error, and is checked apart
    facts = _on_cpu(facts)
    want = head_sums(call, facts, facts, path="reference")
    runs = [head_sums(call, facts, facts, path=path) for _ in range(REPEATS)]
    try:
        agree(runs[0], want, but=() if call.query.dtype == torch.float32 else ("qk_attended", "qk_attended_m2"))
    except AssertionError as error:
        yield str(error).splitlines()[0]
    if any(not torch.equal(one, again[name]) for again in runs[1:] for name, one in runs[0].items()):
        yield f"{REPEATS} runs differ in their bits"


def _passes(call: AttentionCall) -> Iterator[str]:
    """The row-wise results of the Triton passes against the dense pattern."""
    from attnengine_kernels.gpu.columns import column_pass
    from attnengine_kernels.gpu.fused import fused_attention
    from attnengine_kernels.gpu.rows import row_pass

    call = replace(call, lse=None)
    dense, features = pattern(call), features_of(call)
    group = call.query.shape[1] // call.key.shape[1]
    key, value = (x.double().cpu().repeat_interleave(group, 1) for x in (call.key, call.value))
    attended = LIMIT_ATTENDED_FP32 if call.query.dtype == torch.float32 else LIMIT_ATTENDED_BF16
    entropy = -torch.special.xlogy(dense.p, dense.p).sum(-1)
    masses = dense.p @ features.double().cpu()[:, None]
    row, fused = row_pass(call, features, want_ak2=True), fused_attention(call, features)
    column = column_pass(call, want_aq=True)
    query = call.query.double().cpu()
    rows = call.query.shape[2]
    for name, got, want, limit in (
        ("row entropy", row.entropy, entropy, LIMIT_ENTROPY),
        ("row masses", row.masses, masses, LIMIT_MASS),
        ("row ak", row.ak, dense.p @ key, attended * float(key.abs().max())),
        ("fused entropy", fused.entropy, entropy, LIMIT_ENTROPY),
        ("fused masses", fused.masses, masses, LIMIT_MASS),
        ("fused output", fused.output, dense.p @ value, 2 * attended * float(value.abs().max())),
        ("received", column.received, dense.p.sum(2), LIMIT_MASS * rows),
        ("aq", column.aq, dense.p.transpose(2, 3) @ query, attended * float(query.abs().max()) * rows**0.5),
    ):
        assert got is not None
        worst = float((got.cpu().double() - want).abs().max())
        if not worst <= limit:
            yield f"{name} is off by {worst:.2e}, limit {limit:.2e}"


def _lse(backend: str, device: str) -> Iterator[str]:
    """The vendor's lse against ours in fp64; a backend that torch does not offer here is no failure, and is said."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    call, _ = make_call(Shape(2, 4, 4, 130, 64), dtype, device)
    try:
        found = attention_with_lse(call.query, call.key, call.value, is_causal=True, backend=backend)
    except ValueError as error:
        print(f"  lse of {backend}: not checked, {error}")
        return
    want = torch.logsumexp(pattern(call).score, dim=-1)
    worst = float((found.lse.cpu().double() - want).abs().max())
    if not worst <= (1e-5 if dtype == torch.float32 else 2e-3):
        yield f"off by {worst:.2e}"


def _neighbours(by: str, d: int, device: str) -> Iterator[str]:
    """Neighbours against all distances in fp64: of scattered points, and of clumps, which are full of ties."""
    make = torch.Generator().manual_seed(d)
    scattered = torch.randn(700, d, generator=make)
    clumps = scattered[:7].repeat(100, 1) + 1e-3 * torch.randn(700, d, generator=make).round()
    for name, points in (("scattered", scattered), ("clumps", clumps)):
        found, squares = (x.cpu() for x in nearest(points.to(device), 15, by=by))
        x = points.double()
        everything = torch.stack([(row - x).square().sum(1) for row in x])
        off = 1e-12 * everything.max()
        if not torch.equal(found[:, 0], torch.arange(len(x), dtype=torch.int32)):
            yield f"a {name} point is not its own first neighbour"
        if not ((everything.gather(1, found.long()) - squares).abs() <= off).all():
            yield f"distances of {name} points are not those of the neighbours named"
        if not ((everything.sort(dim=1).values[:, :15] - squares).abs() <= off).all():
            yield f"there are nearer neighbours of {name} points"


def _on_cpu(facts: TokenFacts) -> TokenFacts:
    moved = {f.name: getattr(facts, f.name) for f in fields(facts)}
    moved = {name: x.cpu() if isinstance(x, torch.Tensor) else x for name, x in moved.items()}
    return TokenFacts(**moved | {"classes": {name: x.cpu() for name, x in facts.classes.items()}})


def passed(device: str, say: Callable[[str], object] = print, *, quick: bool = False) -> bool:
    """Run the checks and say what came of them; benchmarks stop if this is False."""
    found = list(failures(device, quick=quick))
    for text in found:
        print(text, file=sys.stderr)
    say("checks passed" if not found else f"{len(found)} checks failed: no speed is given for results that are wrong")
    return not found


def main(arguments: list[str] | None = None) -> int:
    """Check what this machine can run."""
    parser = argparse.ArgumentParser(prog="attnengine bench verify", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two shapes a type")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    return 0 if passed(options.device, quick=options.quick) else 1


if __name__ == "__main__":
    sys.exit(main())
