"""Chosen rows: explicit products and heaviest keys agree with the dense pattern and with the plain torch form."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu._ops import flat
from attnengine_kernels.gpu.product import product_pass
from attnengine_kernels.gpu.rows import row_lse
from attnengine_kernels.gpu.top_keys import top_keys
from attnengine_kernels.reference import pattern
from attnengine_kernels.sums import LIMIT_ENTROPY, LIMIT_MASS
from attnengine_kernels.topk import plain_rows
from tests.kernels.calls import DEVICE, make_call, poisoned

pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []

MASKS = ("full", "causal", "window", "right padding", "left padding", "packed", "one key")
OPTIONS = [{}, {"sink": True}, {"softcap": 2.0}, {"bias": True}, {"sink": True, "softcap": 5.0, "bias": True}]


def chosen(call: AttentionCall) -> Tensor:
    """The first, and the last twice."""
    b, n = call.query.shape[0], call.query.shape[2]
    rows = [[0, 0], [b - 1, n - 1], [b - 1, n - 1]]
    return torch.tensor(rows, device=DEVICE)


def hiding(call: AttentionCall) -> AttentionCall:
    """A bias that hides pairs, one key from all, and NaN there."""
    assert call.bias is not None
    hidden = torch.rand(call.bias.shape[2:], generator=torch.Generator().manual_seed(1)) < 0.4
    hidden[:, 2] = True
    call.key[:, :, 2] = torch.nan
    return replace(call, bias=call.bias.masked_fill(hidden.to(DEVICE), -torch.inf))


def products_agree(call: AttentionCall) -> None:
    """Every field of the product pass."""
    rows = chosen(call)
    w, i = rows.cpu().unbind(1)
    got, dense = product_pass(call, rows), pattern(call)
    visible = dense.visible[w, i]
    assert torch.equal(got.visible.cpu(), visible)
    key = call.key.repeat_interleave(call.query.shape[1] // call.key.shape[1], 1).float().cpu()
    want = call.query.float().cpu()[w, :, i][:, :, None] * key[w]
    assert torch.equal(got.product.cpu(), want.masked_fill(~visible[:, None, :, None], 0.0))
    score = dense.score[w, :, i]
    assert torch.equal(got.score.cpu().isneginf(), score.isneginf())
    assert (got.score.cpu() - score).nan_to_num(0.0).abs().max() < 1e-5
    assert (got.p.cpu() - dense.p[w, :, i]).abs().max() <= LIMIT_MASS


def tops_agree(call: AttentionCall, top: int) -> None:
    """Weights, keys and entropy of the kernel against the plain form and the dense pattern."""
    rows = chosen(call)
    w, i = rows.cpu().unbind(1)
    got, dense = top_keys(call, rows, top=top), pattern(call)
    weights, keys, entropy = plain_rows(call, rows, top)
    assert (got.weights.dtype, got.keys.dtype, got.entropy.dtype) == (torch.float32, torch.int32, torch.float32)
    assert torch.equal(got.keys, keys)
    assert (got.weights - weights).abs().max() <= LIMIT_MASS
    assert (got.entropy - entropy).abs().max() <= LIMIT_ENTROPY
    p = dense.p[w, :, i]
    best = torch.nn.functional.pad(p.sort(dim=-1, descending=True).values, (0, top))[..., :top]
    assert (got.weights.cpu() - best).abs().max() <= LIMIT_MASS


@pytest.mark.parametrize("mask", MASKS)
def test_every_mask_with_poison_beyond_what_rows_see(mask: str) -> None:
    """Rows without keys have none; hidden keys are never read."""
    call = poisoned(make_call(mask, 113, batch=2, d=128, h=1))
    products_agree(call)
    tops_agree(call, 4)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_changes_the_scores(options: dict[str, float]) -> None:
    """Soft-cap, then bias, sink in the lse only; a given lse is used."""
    call = make_call("causal", 65, d=128, h=2, hkv=2, **options)
    products_agree(call)
    tops_agree(call, 5)
    tops_agree(replace(call, lse=row_lse(call) + 0.01), 5)
    products_agree(replace(call, lse=row_lse(call) + 0.01))
    if options.get("bias"):
        products_agree(hiding(call))
        tops_agree(hiding(call), 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "d", [72, 256, *(pytest.param(d, marks=pytest.mark.acceptance) for d in (16, 80, 96, 128, 192))]
)
def test_every_head_width_and_type(d: int, dtype: torch.dtype) -> None:
    """Products of half precision inputs are exact in fp32."""
    call = make_call("causal", 70, d=d, dtype=dtype, h=1)
    products_agree(call)
    tops_agree(call, 7)


LONG = pytest.mark.acceptance


@pytest.mark.parametrize("top", [1, 3, *(pytest.param(top, marks=LONG) for top in (2, 33, 64))])
@pytest.mark.parametrize(("n_query", "n_key"), [(1, 1), (5, 70), pytest.param(239, 239, marks=LONG), (70, 5)])
def test_lists_of_every_length(top: int, n_query: int, n_key: int) -> None:
    """Longer than the visible keys, shorter than a tile, over several tiles."""
    tops_agree(make_call("causal", n_query, n_key, d=128, h=1), top)


def test_ties_go_to_the_lower_index() -> None:
    """Also between tiles, and between 0 and -0."""
    call = make_call("full", 2, 70, d=128, h=1)
    call = replace(call, query=torch.zeros_like(call.query))
    call.query[:, :, 1] = -0.0
    assert top_keys(call, chosen(call), top=40).keys.tolist() == [[list(range(40))]] * 3


def test_a_nan_that_a_row_sees_shows() -> None:
    """In its row and its head."""
    call = make_call("causal", 20, d=128, hkv=2)
    call.key[0, 1, 12] = torch.nan
    rows = torch.tensor([[0, 11], [0, 19]], device=DEVICE)
    got = top_keys(call, rows, top=3)
    assert got.weights.isnan().any(-1).tolist() == [[False, False], [False, True]]
    assert got.entropy.isnan().tolist() == [[False, False], [False, True]]
    assert got.keys[1, 1, 0] == 12
    seen = product_pass(call, rows)
    assert seen.p.isnan().any(-1).tolist() == [[False, False], [False, True]]


def test_repeats_give_the_same_bits() -> None:
    """And a row alone is the row among others."""
    call = make_call("causal", 81, d=128)
    rows = chosen(call)
    first, again, one = top_keys(call, rows), top_keys(call, rows), top_keys(call, rows[2:3])
    assert torch.equal(first.weights, again.weights)
    assert torch.equal(first.weights[2:3], one.weights)
    assert torch.equal(product_pass(call, rows).p[2:3], product_pass(call, rows[2:3]).p)


def test_the_operators_keep_torchs_promises() -> None:
    """Schema, fake shapes and tracing of both."""
    call = make_call("causal", 19, d=128, h=1, sink=True, bias=True)
    torch.library.opcheck(torch.ops.attnengine.products.default, (*flat(call), chosen(call)[:1]))
    torch.library.opcheck(torch.ops.attnengine.top_keys.default, (*flat(call), chosen(call)[:1], 2))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_caller_compiles_into_one_graph(backend: str) -> None:
    """No graph break, and the same bits."""
    call = make_call("causal", 19, d=16)

    def caller(q: Tensor, k: Tensor, lo: Tensor, hi: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        one = AttentionCall(q, k, k, lo, hi, 0.25)
        return product_pass(one, rows).product * 2, top_keys(one, rows, top=2).weights

    arguments = (call.query, call.key, call.lo, call.hi, chosen(call))
    compiled = torch.compile(caller, fullgraph=True, backend=backend)(*arguments)
    for a, b in zip(compiled, caller(*arguments), strict=True):
        assert torch.equal(a, b)


def test_no_rows_and_bad_input() -> None:
    """The message names what came."""
    call = make_call("causal", 5, d=16, bias=True)
    nothing = torch.zeros(0, 2, dtype=torch.int64, device=DEVICE)
    assert product_pass(call, nothing).product.shape == (0, 2, 5, 16)
    assert top_keys(call, nothing).keys.shape == (0, 2, 16)
    for run in (product_pass, top_keys):
        with pytest.raises(ValueError, match="queries below 5"):
            run(call, torch.tensor([[0, 5]]))
        with pytest.raises(ValueError, match=r"expected \(n, 2\)"):
            run(call, torch.zeros(3, dtype=torch.int64))
        with pytest.raises(TypeError, match="integers"):
            run(call, torch.zeros(3, 2))
        assert call.bias is not None
        with pytest.raises(ValueError, match="every head"):
            run(replace(call, bias=call.bias.masked_fill(call.bias < -0.1, -torch.inf)), chosen(call))
    with pytest.raises(ValueError, match="1…64"):
        top_keys(call, chosen(call), top=65)
