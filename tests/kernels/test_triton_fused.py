"""The fused forward agrees with the fp64 definitions row by row, and with the row pass where both exist."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu._ops import flat
from attnengine_kernels.gpu.fused import FusedStats, fused_attention
from attnengine_kernels.gpu.rows import row_pass
from attnengine_kernels.reference import pattern
from attnengine_kernels.sums import LIMIT_ATTENDED_BF16, LIMIT_ATTENDED_FP32, LIMIT_ENTROPY, LIMIT_MASS
from tests.kernels.calls import DEVICE, adversarial, make_call, poisoned

pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []

MASKS = ("full", "causal", "window", "wide window", "right padding", "left padding", "packed", "one key")
#: Rounding of the output itself, relative; the interpreter cuts bf16 where a GPU rounds it.
ROUNDING = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-7}


def with_values(call: AttentionCall, dv: int, seed: int = 5) -> AttentionCall:
    """The call with random values of their own width; NaN where the keys have it."""
    b, hkv, n_keys, _ = call.key.shape
    v = torch.randn(b, n_keys, hkv, dv, generator=torch.Generator().manual_seed(seed)).to(DEVICE, call.key.dtype)
    v = v.transpose(1, 2)
    return replace(call, value=v.masked_fill(call.key.isnan().any(-1, keepdim=True), torch.nan))


def token_features(call: AttentionCall) -> Tensor:
    """(b, k, 3): ones, every third key, and the position's low digit."""
    j = torch.arange(call.key.shape[2], device=DEVICE)
    return torch.stack([torch.ones_like(j), j % 3 == 0, j % 16], dim=1).float().expand(call.key.shape[0], -1, -1)


def agrees(call: AttentionCall, got: FusedStats, features: Tensor | None = None) -> None:
    """Assert every field of ``got`` against the dense fp64 pattern."""
    dense = pattern(replace(call, lse=None))
    visible = dense.visible[:, None].expand_as(dense.p)
    some = visible.any(-1)
    total = dense.p.sum(-1)
    p_hat = torch.softmax(dense.score, -1).nan_to_num()  # p / Σ p also where the sink leaves p no digits
    v = call.value.double().cpu().repeat_interleave(call.query.shape[1] // call.key.shape[1], 1)
    v = torch.where(dense.visible.any(1)[:, None, :, None], v, 0.0)

    def close(name: str, expected: Tensor, limit: float | Tensor) -> None:
        value = getattr(got, name).cpu().double()
        assert value.isfinite().all(), f"{name} is not finite"
        expected = torch.where(some.view(*some.shape, *[1] * (expected.ndim - 3)), expected, 0.0)
        off = (value - expected).abs()
        assert (off <= limit).all(), f"{name} is off by {off.max():.2e}, limit {limit}"

    dtype = call.query.dtype
    limit = (LIMIT_ATTENDED_FP32 if dtype == torch.float32 else LIMIT_ATTENDED_BF16) * v.abs().max()
    exact = dense.p @ v
    assert got.output.dtype == dtype
    close("output", exact, limit + ROUNDING[dtype] * exact.abs())
    assert torch.equal(got.visible.cpu().long(), visible.sum(-1))
    close("entropy", -torch.special.xlogy(p_hat, p_hat).sum(-1), LIMIT_ENTROPY)
    close("row_sum", total, LIMIT_MASS)
    close("p_max", p_hat.amax(-1), LIMIT_MASS)
    close("mass_defect", torch.zeros_like(total), LIMIT_MASS)
    size = dense.score.masked_fill(~visible, 0.0).abs().amax().clamp(min=1.0)
    close("score_max", dense.score.amax(-1), 1e-6 * size)
    lse = got.lse.cpu().double()
    assert torch.equal(lse.isneginf(), dense.lse.isneginf())
    assert ((lse - dense.lse).nan_to_num().abs() <= 1e-6 * size).all()
    if features is not None:
        columns = features.cpu().double()
        close("masses", dense.p @ columns[:, None], LIMIT_MASS * columns.abs().max())


@pytest.mark.parametrize("mask", MASKS)
def test_every_mask_with_poison_beyond_what_rows_see(mask: str) -> None:
    call = with_values(poisoned(make_call(mask, batch=2)), 24)
    features = token_features(call)
    agrees(call, fused_attention(call, features), features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("d", "dv"), [(16, 16), (64, 64), (72, 64), (80, 80), (96, 96), (128, 32), (192, 128),
                                       (64, 256), (256, 256)])  # fmt: skip
def test_every_width_of_keys_and_of_values_and_every_type(d: int, dv: int, dtype: torch.dtype) -> None:
    call = with_values(make_call("causal", 33, d=d, dtype=dtype), dv)
    features = token_features(call)
    agrees(call, fused_attention(call, features), features)


@pytest.mark.parametrize(("n_query", "n_key"), [(1, 1), (3, 3), (63, 63), (64, 64), (65, 65), (5, 70), (70, 5)])
def test_odd_and_unequal_lengths(n_query: int, n_key: int) -> None:
    call = with_values(make_call("causal", n_query, n_key), 16)
    agrees(call, fused_attention(call))


@pytest.mark.parametrize(("h", "hkv"), [(2, 2), (4, 2), (3, 1)])
def test_head_groups(h: int, hkv: int) -> None:
    call = with_values(make_call("window", 65, h=h, hkv=hkv), 16)
    agrees(call, fused_attention(call))


@pytest.mark.parametrize("name", ["all equal", "one sink", "offset"])
def test_adversarial_scores(name: str) -> None:
    """The online entropy keeps its digits whatever the scores' size."""
    call = with_values(adversarial(name), 16)
    features = token_features(call)
    agrees(call, fused_attention(call, features), features)


def test_a_maximum_that_grows_with_every_tile() -> None:
    """Rising scores: every tile rescales what came before it."""
    call = make_call("full", 65, d=16)
    key = call.key.clone()
    key[..., 0] = torch.arange(65, device=DEVICE) * 0.7
    query = call.query.clone()
    query[..., 0] = 4.0
    call = with_values(replace(call, query=query, key=key), 16)
    agrees(call, fused_attention(call))


OPTIONS: list[dict[str, Any]] = [{"sink": True}, {"softcap": 2.0}, {"bias": True},
                                 {"sink": True, "softcap": 5.0, "bias": True}]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_changes_the_scores(options: dict[str, Any]) -> None:
    call = with_values(make_call("left padding", 65, **options), 16)
    features = token_features(call)
    agrees(call, fused_attention(call, features), features)


def test_a_sink_far_above_every_score_leaves_the_distribution_its_digits() -> None:
    """p underflows, p^ does not: entropy and p_max come from sums about the keys' own maximum."""
    call = with_values(make_call("causal", 33), 16)
    sink = torch.tensor([120.0, 0.0], device=DEVICE)
    call = replace(call, sink=sink)
    agrees(call, fused_attention(call))


def test_a_bias_of_minus_infinity_hides_the_pair() -> None:
    call = make_call("full", 65, bias=True)
    assert call.bias is not None
    hidden = torch.rand(65, 65, generator=torch.Generator().manual_seed(1)) < 0.4
    hidden[7], hidden[:, 20] = True, True
    call = replace(call, bias=call.bias.masked_fill(hidden.to(DEVICE), -torch.inf))
    call.key[:, :, 20] = torch.nan  # a key that the bias hides from every row
    call = with_values(call, 16)
    features = token_features(call)
    agrees(call, fused_attention(call, features), features)


def test_it_agrees_with_the_row_pass() -> None:
    """Two forms of the same sums: output = row_sum · A K where values are the keys."""
    call = make_call("causal", 113, sink=True)
    fused, row = fused_attention(call), row_pass(call)
    assert row.ak is not None
    assert (fused.output - row.ak * row.row_sum[..., None]).abs().max() < 1e-5
    for name in ("lse", "entropy", "p_max", "row_sum"):
        assert (getattr(fused, name) - getattr(row, name)).abs().max() < 2e-6, name


def test_repeats_and_batches_give_the_same_bits() -> None:
    call = with_values(make_call("causal", 65, batch=2), 16)
    both, again = fused_attention(call), fused_attention(call)
    alone = replace(call, query=call.query[1:], key=call.key[1:], value=call.value[1:], lo=call.lo[1:], hi=call.hi[1:])
    half = fused_attention(alone)
    for one in fields(FusedStats):
        if (value := getattr(both, one.name)) is not None:
            assert torch.equal(value, getattr(again, one.name)), one.name
            assert torch.equal(value[1:], getattr(half, one.name)), one.name


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # the interpreter's maximum of a row of NaN
@pytest.mark.parametrize("where", ["query", "key", "value"])
def test_a_nan_that_is_seen_surfaces_in_its_head_and_in_no_other(where: str) -> None:
    """A NaN value has no place in the statistics, but in the output."""
    call = with_values(make_call("causal", 33, h=2, hkv=2), 16)
    clean = fused_attention(call)
    tensor = getattr(call, where).clone()
    tensor[0, 1, 20, 3] = torch.nan
    got = fused_attention(replace(call, **{where: tensor}))
    rows = slice(20, 21) if where == "query" else slice(20, None)
    assert got.output[:, 1, rows].isnan().any(-1).all()
    assert torch.equal(got.output[:, 0], clean.output[:, 0])
    for name in ("lse", "mass_defect", "entropy", "p_max", "score_max", "row_sum"):
        value = getattr(got, name)
        assert bool(value[:, 1, rows].isnan().all()) == (where != "value"), name
        assert torch.equal(value[:, 0], getattr(clean, name)[:, 0]), name
        assert torch.equal(value[:, 1, :20], getattr(clean, name)[:, 1, :20]), name


@pytest.mark.parametrize("full", [False, True])
def test_the_operator_keeps_torchs_promises(full: bool) -> None:
    options: dict[str, Any] = {"sink": True, "softcap": 5.0, "bias": True} if full else {}
    call = with_values(make_call("causal", 19, 23, d=16, **options), 24)
    features = token_features(call) if full else None
    torch.library.opcheck(torch.ops.attnengine.fused_attention.default, (*flat(call)[:-1], features))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_caller_compiles_into_one_graph(backend: str) -> None:
    call = make_call("causal", 19, d=16)

    def caller(q: Tensor, k: Tensor, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
        got = fused_attention(AttentionCall(q, k, k, lo, hi, 0.25))
        return got.output * 2, got.entropy

    arguments = (call.query, call.key, call.lo, call.hi)
    compiled = torch.compile(caller, fullgraph=True, backend=backend)(*arguments)
    for a, b in zip(compiled, caller(*arguments), strict=True):
        assert torch.equal(a, b)


def test_calls_the_kernel_does_not_take_are_refused() -> None:
    call = make_call("causal", 33)
    with pytest.raises(TypeError, match=r"value: expected .*float32, got torch\.float16"):
        fused_attention(replace(call, value=call.value.half()))
    with pytest.raises(ValueError, match="value: expected 1…256 dims"):
        fused_attention(with_values(call, 264))
    with pytest.raises(TypeError, match="int64"):
        fused_attention(replace(call, hi=call.hi.long()))
    with pytest.raises(ValueError, match="digits"):
        fused_attention(make_call("causal", 33, dtype=torch.bfloat16), torch.full((1, 33, 1), 257.0, device=DEVICE))
