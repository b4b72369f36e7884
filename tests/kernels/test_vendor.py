"""The vendor's attention with its log-sum-exp: the output is SDPA's, bit for bit, and the lse is that of its scores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from attnengine_kernels import vendor
from attnengine_kernels.vendor import BACKENDS, attention_with_lse
from tests.kernels.calls import DEVICE

sdpa = torch.nn.functional.scaled_dot_product_attention
gpu = pytest.mark.gpu


def operands(
    n_query: int = 37, n_key: int = 51, *, h: int = 4, hkv: int = 4, d: int = 16, dv: int | None = None,
    dtype: torch.dtype = torch.float32, device: torch.device = DEVICE,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Seeded tensors in the layout of transformers, two windows."""
    make = torch.Generator().manual_seed(3)

    def one(length: int, heads: int, width: int) -> Tensor:
        return torch.randn(2, length, heads, width, generator=make).to(device, dtype).transpose(1, 2)

    return one(n_query, h, d), one(n_key, hkv, d), one(n_key, hkv, dv or d)


def masks(kind: str, n_query: int, n_key: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """A named mask for two windows and four heads; every row sees a key."""
    make = torch.Generator().manual_seed(4)
    seen = torch.rand(2, 1, n_query, n_key, generator=make) < 0.6
    seen[..., 0] = True
    bias = torch.randn(1, 4, n_query, n_key, generator=make)
    padding = torch.arange(n_key)[None, :] < torch.tensor([[n_key], [n_key - 9]])
    found = {"bool": seen, "bias": bias, "padding": padding[:, None, None], "none": None}[kind]
    return None if found is None else found.to(device, torch.bool if found.dtype == torch.bool else dtype)


def exact_lse(q: Tensor, k: Tensor, mask: Tensor | None, is_causal: bool, scale: float) -> Tensor:
    """fp64, from the definition; causal from the top left."""
    key = k.double().repeat_interleave(q.shape[1] // k.shape[1], 1)
    score = scale * q.double() @ key.mT
    if mask is not None:
        score = score.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else score + mask.double()
    if is_causal:
        score = score.masked_fill(~torch.ones(score.shape[-2:], dtype=torch.bool, device=q.device).tril(), -torch.inf)
    return torch.logsumexp(score, -1)


def agrees(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, backend: str) -> str:
    """Assert that the output is plain SDPA's in every bit and the lse right; the backend's name."""
    got = attention_with_lse(q, k, v, mask=mask, is_causal=is_causal, scale=0.3, backend=backend)
    with sdpa_kernel(BACKENDS[got.backend]):
        plain = sdpa(q, k, v, mask, is_causal=is_causal, scale=0.3, enable_gqa=q.shape[1] != k.shape[1])
    assert torch.equal(got.output, plain)
    assert got.output.dtype == q.dtype
    assert got.lse.shape == q.shape[:3]
    assert got.lse.dtype == torch.float32
    limit = 1e-5 if q.dtype == torch.float32 else 2e-3
    assert (got.lse - exact_lse(q, k, mask, is_causal, 0.3)).abs().max() <= limit
    return got.backend


@pytest.mark.parametrize("mask", ["none", "bool", "bias", "padding"])
@pytest.mark.parametrize("backend", ["auto", "flash", "math"])
@pytest.mark.parametrize("hkv", [4, 2])
def test_every_backend_of_the_cpu(mask: str, backend: str, hkv: int) -> None:
    cpu = torch.device("cpu")
    q, k, v = operands(hkv=hkv, device=cpu)
    ran = agrees(q, k, v, masks(mask, 37, 51, torch.float32, cpu), False, backend)
    assert ran == ("math" if backend == "math" else "flash")


@pytest.mark.parametrize(("n_query", "n_key"), [(37, 37), (37, 51), (300, 20), (1, 9)])
@pytest.mark.parametrize("backend", ["auto", "math"])
def test_causal_is_aligned_at_the_top_left(n_query: int, n_key: int, backend: str) -> None:
    agrees(*operands(n_query, n_key, device=torch.device("cpu")), None, True, backend)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_the_cpu(dtype: torch.dtype) -> None:
    agrees(*operands(dtype=dtype, device=torch.device("cpu")), None, False, "auto")


def test_values_of_another_width_are_left_to_the_math_backend_and_the_lse_is_made_here() -> None:
    assert agrees(*operands(dv=24, device=torch.device("cpu")), None, False, "auto") == "math"


def test_a_row_that_sees_nothing_has_no_lse_where_it_is_made_here() -> None:
    q, k, _ = operands(5, 5, device=torch.device("cpu"))
    mask = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    mask[..., 2, :] = False
    for make in (vendor.lse_by_torch, vendor.lse_by_kernel):
        lse = make(q.to(DEVICE), k.to(DEVICE), mask.to(DEVICE), False, 0.3)
        assert lse[..., 2].isneginf().all()
        assert lse[..., [0, 1, 3, 4]].isfinite().all()


@pytest.mark.parametrize("mask", ["none", "bool", "bias", "padding"])
@pytest.mark.parametrize("is_causal", [False, True])
def test_the_kernels_lse_is_that_of_torch(mask: str, is_causal: bool) -> None:
    """Where the vendor gives none, CUDA sweeps tiles with Triton; everything else takes rows of scores."""
    q, k, _ = operands(hkv=2)
    hidden = masks(mask, 37, 51, torch.float32, DEVICE)
    expected = exact_lse(q, k, hidden, is_causal, 0.3)
    for make in (vendor.lse_by_torch, vendor.lse_by_kernel):
        assert (make(q, k, hidden, is_causal, 0.3) - expected).abs().max() < 1e-5


BRANCHES: list[tuple[Callable[..., tuple[Tensor, Tensor]], dict[str, int]]] = [
    (vendor.flash_on_cuda, {"d": 64}), (vendor.flash_on_cuda, {"d": 36}), (vendor.efficient_on_cuda, {"d": 64}),
    (vendor.efficient_on_cuda, {"d": 36, "dv": 20}), (vendor.cudnn_on_cuda, {"d": 64}),
    (vendor.cudnn_on_cuda, {"d": 64, "dv": 32}), (vendor.cudnn_on_cuda, {"d": 64, "hkv": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("branch", "shape"), BRANCHES, ids=lambda x: getattr(x, "__name__", str(x)))
@pytest.mark.parametrize("n_query", [1, 32, 37])
def test_shapes_of_the_branches_for_cuda(
    branch: Callable[..., tuple[Tensor, Tensor]], shape: dict[str, int], n_query: int
) -> None:
    """torch's own shape rules, on tensors without data: padded rows and widths never come out."""
    meta = torch.device("meta")
    q, k, v = (x.to(meta) for x in operands(n_query, device=torch.device("cpu"), dtype=torch.float16, **shape))
    masked = () if branch is vendor.flash_on_cuda else (torch.ones(2, 1, 1, 51, dtype=torch.bool, device=meta),)
    output, lse = branch(q, k, v, *masked, False, None)
    assert (output.shape, output.dtype) == ((2, 4, n_query, v.shape[3]), torch.float16)
    assert (lse.shape, lse.dtype) == ((2, 4, n_query), torch.float32)


@pytest.mark.parametrize("n_key", [48, 51])
@pytest.mark.parametrize("kind", ["bool", "bias", "padding"])
def test_a_mask_is_laid_out_as_memory_efficient_attention_reads_it(kind: str, n_key: int) -> None:
    """Rows start at multiples of 8 elements, and the numbers are the same."""
    mask = masks(kind, 37, n_key, torch.float32, torch.device("cpu"))
    bias = vendor._additive(mask, torch.float32, -torch.inf)
    assert bias is not None
    laid = vendor._aligned_to_8(bias)
    assert torch.equal(laid, bias)
    assert laid.stride(-1) == 1
    assert all(stride % 8 == 0 for stride in laid.stride()[:-1])


@gpu
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch says why a backend does not take a call
@pytest.mark.parametrize("backend", ["flash", "efficient", "cudnn", "math"])
@pytest.mark.parametrize("mask", ["none", "bool", "bias", "padding"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("d", [64, 36])
def test_every_backend_of_cuda(backend: str, mask: str, dtype: torch.dtype, d: int) -> None:
    """Each gives plain SDPA's bits under the same backend, or says that torch does not run the call with it."""
    q, k, v = operands(d=d, dtype=dtype)
    hidden = masks(mask, 37, 51, dtype, DEVICE)
    if (backend == "flash" and mask != "none") or (backend == "cudnn" and d % 8):
        with pytest.raises(ValueError, match="backend"):
            attention_with_lse(q, k, v, mask=hidden, backend=backend)
        return
    assert agrees(q, k, v, hidden, False, backend) == backend


@gpu
@pytest.mark.parametrize("backend", ["flash", "efficient", "cudnn", "math", "auto"])
def test_causal_and_groups_on_cuda(backend: str) -> None:
    agrees(*operands(64, 64, d=64, dtype=torch.bfloat16), None, True, backend)
    if backend != "efficient":  # torch runs it with as many key heads as query heads only
        agrees(*operands(64, 64, hkv=2, d=64, dtype=torch.bfloat16), None, True, backend)


def test_bad_input_is_named() -> None:
    q, k, v = operands(device=torch.device("cpu"))
    with pytest.raises(ValueError, match=r"backend: expected auto.*got 'fast'"):
        attention_with_lse(q, k, v, backend="fast")
    with pytest.raises(ValueError, match="torch runs none"):
        attention_with_lse(q, k, v, backend="cudnn")
    with pytest.raises(ValueError, match="beside is_causal"):
        attention_with_lse(q, k, v, mask=torch.ones(1, 1, 37, 51, dtype=torch.bool), is_causal=True)
    with pytest.raises(ValueError, match=r"mask: expected a shape that broadcasts to \(2, 4, 37, 51\)"):
        attention_with_lse(q, k, v, mask=torch.ones(1, 1, 37, 50, dtype=torch.bool))
    with pytest.raises(TypeError, match="int64"):
        attention_with_lse(q, k, v, mask=torch.ones(1, 1, 37, 51, dtype=torch.int64))
    with pytest.raises(TypeError, match="float16"):
        attention_with_lse(q, k.half(), v)
    with pytest.raises(ValueError, match=r"hkv \| h"):
        attention_with_lse(q, k[:, :3], v[:, :3])
    with pytest.raises(ValueError, match="4 dimensions"):
        attention_with_lse(q[0], k, v)


def test_the_module_needs_no_triton(root: Path) -> None:
    """The engine uses it where there is no Triton."""
    code = (
        "import sys; sys.modules['triton'] = None; import torch\n"
        "from attnengine_kernels.vendor import attention_with_lse\n"
        "q = torch.randn(1, 2, 5, 8)\n"
        "assert attention_with_lse(q, q, q, backend='math').lse.isfinite().all()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(root / "kernels")})
