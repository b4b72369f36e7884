"""Compile every shipped (kernel, head width, type, architecture) without a GPU and show what the machine code needs.

    python -m attnengine_kernels.gpu.aot [--arch 90] [--dim 128] [--dtype bf16] [--kernel row] [--jobs 2]

A row that spills to the stack, asks for more shared or tensor memory than the architecture has, misses the tensor-core
instruction of Hopper (wgmma) or Blackwell (tcgen05), or was serialised by ptxas (warning C7512: a wgmma waits for the
one before) is a defect; the command exits 1 if there is one.
It must run in a process without TRITON_INTERPRET, and compiles in seconds per row (cached by Triton).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

#: Modules with kernels, by name: the package exports functions that may be called like their module.
MODULES = (
    "_row_tiles", "_column_tiles", "band", "places", "distances", "fused", "histograms", "scans", "share", "product",
    "top_keys", "nearest",
)  # fmt: skip
DIMS = (16, 32, 64, 72, 80, 96, 128, 192, 256)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
ARCHITECTURES = (80, 90, 100)
TABLE = {80: 80, 90: 90, 100: 90}  # whose tiles an architecture launches: sm_100 has sm_90's shared memory
INSTRUCTION = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}  # of the tensor cores, as PTX has it
TENSOR_MEMORY_LIMIT = 512  # columns a multiprocessor of sm_100
#: Kernels whose products, if any, are not of matrices.
NO_PRODUCT = ("totals", "share run", "bins", "bin counts", "product", "top keys 16", "top keys 64")
SHARED_LIMIT = {80: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # sm_86, sm_89 and sm_120 take sm_80's tiles
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass(frozen=True)
class Variant:
    """One launch as it is shipped: the jitted function, its argument types, constants and options."""

    kernel: str
    d: int
    dtype: str
    arch: int
    function: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, Any]


@dataclass(frozen=True)
class Resources:
    """What the compiled code of a variant uses."""

    registers: int
    stack: int  # bytes a thread: spills
    shared: int  # bytes a block
    products: int  # the architecture's tensor-core instructions in the code
    serialised: bool  # ptxas warning C7512
    tensor_memory: int = 0  # columns a block, on sm_100

    def defects(self, variant: Variant) -> list[str]:
        """Reasons not to ship it."""
        found = [f"{self.stack} bytes of stack"] if self.stack else []
        if self.shared > SHARED_LIMIT[variant.arch]:
            found.append(f"{self.shared} bytes of shared memory")
        if self.tensor_memory > TENSOR_MEMORY_LIMIT:
            found.append(f"{self.tensor_memory} columns of tensor memory")
        if variant.arch >= 90 and variant.dtype != "fp32" and variant.kernel not in NO_PRODUCT and not self.products:
            found.append(f"no {INSTRUCTION[variant.arch]}: its products miss the tensor cores")
        return found + (["wgmma serialised (C7512)"] if self.serialised else [])


def variants() -> Iterator[Variant]:
    """Every launch that the host functions can make on a plain call (no soft-cap, sink or dense bias)."""
    modules = [import_module(f"attnengine_kernels.gpu.{name}") for name in MODULES]
    for arch in ARCHITECTURES:
        for dtype_name, dtype in DTYPES.items():
            for d in DIMS:
                found = [launch for module in modules for launch in module.shipped(TABLE[arch], d, dtype)]
                for name, function, types, constants, tile in found:
                    signature = {a: types[a] if a not in constants else "constexpr" for a in function.arg_names}
                    yield Variant(name, d, dtype_name, arch, function, signature, constants, tile.options())


def measure(variant: Variant) -> Resources:
    """Compile one variant; pointers and strides are taken as divisible by 16, as they are at launch."""
    names = variant.function.arg_names
    divisible = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if variant.signature[name].startswith("*") or re.search(r"_[a-z]$|_stride$", name)
        if variant.signature[name] != "constexpr"
    }
    constants = {(names.index(name),): value for name, value in variant.constants.items()}
    source = ASTSource(variant.function, variant.signature, constants, divisible)
    compiled = triton.compile(source, target=GPUTarget("cuda", variant.arch, 32), options=variant.options)
    with tempfile.TemporaryDirectory() as folder:
        cubin, ptx = Path(folder, "kernel.cubin"), Path(folder, "kernel.ptx")
        cubin.write_bytes(compiled.asm["cubin"])
        ptx.write_text(compiled.asm["ptx"])
        usage = _tool(str(CUOBJDUMP), "-res-usage", str(cubin))
        name = f"sm_{variant.arch}" + ("a" if variant.arch >= 90 else "")
        again = str(Path(folder, "again.cubin"))
        log = _tool(get_ptxas(variant.arch).path, "-v", f"--gpu-name={name}", str(ptx), "-o", again)
    return Resources(
        registers=int(re.search(r"REG:(\d+)", usage)[1]),  # type: ignore[index]
        stack=int(re.search(r"STACK:(\d+)", usage)[1]),  # type: ignore[index]
        shared=compiled.metadata.shared,
        products=compiled.asm["ptx"].count(INSTRUCTION[variant.arch]),
        serialised="C7512" in log,
        tensor_memory=getattr(compiled.metadata, "tmem_size", None) or 0,
    )


def _tool(name: str, *arguments: str) -> str:
    done = subprocess.run([name, *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def _is_wanted(v: Variant, chosen: argparse.Namespace) -> bool:
    same = chosen.arch in (None, v.arch) and chosen.dim in (None, v.d) and chosen.dtype in (None, v.dtype)
    return same and (chosen.kernel is None or chosen.kernel in v.kernel)


def _measured(wanted: list[Variant], jobs: int) -> Iterator[Resources]:
    """Resources of each variant, in order; forked workers inherit the list, since jitted functions do not pickle."""
    global _shared
    _shared = wanted
    if jobs == 1 or len(wanted) < 2:
        yield from map(measure, wanted)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(_measure_at, range(len(wanted)))


_shared: list[Variant] = []


def _measure_at(index: int) -> Resources:
    return measure(_shared[index])


def main(arguments: list[str] | None = None) -> int:
    """Print the table of the chosen variants; 1 if any has a defect."""
    parser = argparse.ArgumentParser(prog="python -m attnengine_kernels.gpu.aot", description=__doc__.split("\n")[0])
    parser.add_argument("--arch", type=int, choices=ARCHITECTURES)
    parser.add_argument("--dim", type=int, choices=DIMS)
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--kernel", help="part of a kernel's name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compiled at a time [all cores]")
    chosen = parser.parse_args(arguments)
    print(f"triton {triton.__version__}")
    titles = f"{'kernel':<24}{'D':>4} {'dtype':<6}{'arch':>4}{'REG':>5}{'STACK':>6}{'shared':>8}"
    print(f"{titles}{'tmem':>5}{'tensor':>7} C7512")
    wanted = [v for v in variants() if _is_wanted(v, chosen)]
    bad = 0
    for v, r in zip(wanted, _measured(wanted, max(chosen.jobs, 1)), strict=True):
        defects = r.defects(v)
        bad += bool(defects)
        line = f"{v.kernel:<24}{v.d:>4} {v.dtype:<6}{v.arch:>4}{r.registers:>5}{r.stack:>6}{r.shared:>8}"
        line += f"{r.tensor_memory:>5}{r.products:>7}"
        print(f"{line} {'yes' if r.serialised else 'no':<5} {'; '.join(defects)}".rstrip(), flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
