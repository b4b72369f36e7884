"""Check the Triton passes on this GPU, then time them against plain attention: ``python benchmarks/gpu.py [--quick]``.

Run from a checkout with ``PYTHONPATH=kernels``. Nothing is timed unless every check passes (exit 1 if one fails, 2
without a CUDA device). Times are medians of CUDA events over rotated buffers, given as a ratio to the forward of
``scaled_dot_product_attention`` on the same tensors; the attention is timed twice, so that its own spread is known.
Results go to ``benchmarks/results/<gpu>-<date>.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton

from attnengine_kernels.call import AttentionCall, empty_facts
from attnengine_kernels.gpu.rows import row_lse, row_pass
from attnengine_kernels.gpu.scans import scan_pass
from attnengine_kernels.reference import head_sums, pattern
from attnengine_kernels.sums import LIMIT_ATTENDED_BF16, LIMIT_ATTENDED_FP32, LIMIT_ENTROPY, LIMIT_MASS

RESULTS = Path(__file__).parent / "results"
CHECKED = [(1, 2, 1, 257, 64), (2, 2, 2, 113, 72), (1, 4, 1, 300, 128), (1, 1, 1, 130, 256)]  # b, h, hkv, l, d
TIMED = [(8, 32, 32, 4096, 128), (8, 32, 8, 4096, 128), (8, 12, 12, 512, 64), (1, 32, 8, 32768, 128)]


def make(b: int, h: int, hkv: int, length: int, d: int, dtype: torch.dtype, seed: int = 0) -> AttentionCall:
    """A causal call in the layout of transformers."""
    source = torch.Generator("cuda").manual_seed(seed)

    def random(heads: int) -> torch.Tensor:
        return torch.randn(b, length, heads, d, generator=source, device="cuda").to(dtype).transpose(1, 2)

    hi = torch.arange(1, length + 1, dtype=torch.int32, device="cuda").expand(b, -1).contiguous()
    return AttentionCall(random(h), random(hkv), random(hkv), torch.zeros_like(hi), hi, d**-0.5)


def features_of(call: AttentionCall) -> torch.Tensor:
    """16 columns of 0 and 1 over the keys, (b, k, 16)."""
    j = torch.arange(call.key.shape[2], device="cuda")
    one = torch.stack([j % (n + 1) == 0 for n in range(16)], dim=1).to(call.query.dtype)
    return one.expand(call.key.shape[0], -1, -1)


def failures(call: AttentionCall) -> list[str]:
    """What disagrees with the fp64 reference by more than the limits."""
    dense = pattern(call)
    features = features_of(call)
    got = row_pass(call, features, want_ak2=True)
    key = call.key.double().cpu().repeat_interleave(call.query.shape[1] // call.key.shape[1], 1)
    attended = LIMIT_ATTENDED_FP32 if call.query.dtype == torch.float32 else LIMIT_ATTENDED_BF16
    facts = empty_facts(call.query.shape[0], call.query.shape[2])
    sums, scan = head_sums(call, facts, facts), scan_pass(call)
    compared = [
        ("entropy", got.entropy, -torch.special.xlogy(dense.p, dense.p).sum(-1), LIMIT_ENTROPY),
        ("masses", got.masses, dense.p @ features.double().cpu()[:, None], LIMIT_MASS),
        ("ak", got.ak, dense.p @ key, attended * float(key.abs().max())),
        *((name, scan[name], sums[name], 2e-6 * float(sums[name].abs().max())) for name in scan),
    ]
    found = []
    for name, value, expected, limit in compared:
        worst = float((value.cpu().double() - expected).abs().max())
        if not worst <= limit:
            found.append(f"{name} is off by {worst:.2e}, limit {limit:.2e}")
    again = row_pass(call, features, want_ak2=True)
    same = all(torch.equal(a, b) for a, b in ((got.entropy, again.entropy), (got.ak, again.ak), (got.ak2, again.ak2)))
    return found + ([] if same else ["two runs differ in their bits"])


def median_ms(run: Callable[[AttentionCall], object], calls: list[AttentionCall], repeats: int) -> float:
    """Median time of one launch; calls take turns, so that no input is still in the L2 cache."""
    for call in calls:
        run(call)
    times = []
    for n in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run(calls[n % len(calls)])
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def timed(shape: tuple[int, int, int, int, int], repeats: int) -> dict[str, Any]:
    """One row of the result: times in ms, ratios to the faster of the two timings of attention."""
    calls = [make(*shape, torch.bfloat16, seed) for seed in range(3)]
    calls = [AttentionCall(**vars(call) | {"lse": row_lse(call)}) for call in calls]
    features = features_of(calls[0])

    def attention(call: AttentionCall) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            call.query, call.key, call.value, is_causal=True, enable_gqa=shape[1] != shape[2]
        )

    runs: dict[str, Callable[[AttentionCall], object]] = {
        "attention": attention,
        "attention again": attention,
        "lse": row_lse,
        "row": lambda call: row_pass(call, want_ak=False),
        "row ak": row_pass,
        "row ak features": lambda call: row_pass(call, features),
        "row ak ak2 features": lambda call: row_pass(call, features, want_ak2=True),
        "scan": scan_pass,
    }
    ms = {name: median_ms(run, calls, repeats) for name, run in runs.items()}
    floor = min(ms["attention"], ms["attention again"])
    return {"shape": dict(zip(("b", "h", "hkv", "l", "d"), shape, strict=True)), "dtype": "bf16", "causal": True,
            "ms": ms, "ratio": {name: value / floor for name, value in ms.items()}}  # fmt: skip


def main() -> int:
    """Check, time, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one checked shape per type, one timed shape, few repeats")
    quick = parser.parse_args().quick
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a CUDA device and found none; nothing was checked or timed.", file=sys.stderr)
        return 2
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for shape in CHECKED[: 1 if quick else None]:
            if found := failures(make(*shape, dtype)):
                print(
                    f"{dtype} {shape}: {'; '.join(found)}\nno speed is given for results that are wrong",
                    file=sys.stderr,
                )
                return 1
    print("checks passed")
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent, check=False
    )
    device, today = torch.cuda.get_device_name(), datetime.datetime.now(datetime.UTC).date().isoformat()
    rows = []
    for shape in TIMED[: 1 if quick else None]:
        rows.append(timed(shape, 10 if quick else 50))
        print(shape, " ".join(f"{name} {ratio:.2f}" for name, ratio in rows[-1]["ratio"].items()), flush=True)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{device.replace(' ', '-')}-{today}.json"
    about = {"device": device, "date": today, "torch": torch.__version__, "triton": triton.__version__,
             "cuda": torch.version.cuda, "commit": commit.stdout.strip() or "unknown", "quick": quick}  # fmt: skip
    path.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
