"""The row pass agrees with the fp64 definitions row by row, within the limits that always bind."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu._ops import flat
from attnengine_kernels.gpu.rows import RowStats, row_lse, row_pass
from attnengine_kernels.reference import pattern
from attnengine_kernels.sums import LIMIT_ATTENDED_BF16, LIMIT_ATTENDED_FP32, LIMIT_ENTROPY, LIMIT_MASS
from tests.kernels.calls import DEVICE, adversarial, make_call, poisoned

pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []

MASKS = ("full", "causal", "window", "wide window", "right padding", "left padding", "packed", "one key")


LENGTHS = [(1, 1), (3, 3), (63, 63), (64, 64), (65, 65), (239, 239), (5, 70), (70, 5)]


def token_features(call: AttentionCall) -> Tensor:
    """(b, k, 4): a class, every third key, the position in two digits that bf16 holds exactly."""
    j = torch.arange(call.key.shape[2], device=DEVICE)
    columns = torch.stack([torch.ones_like(j), j % 3 == 0, j // 16, j % 16], dim=1).float()
    return columns.expand(call.key.shape[0], -1, -1)


def agrees(call: AttentionCall, got: RowStats, features: Tensor | None, attended: float = LIMIT_ATTENDED_FP32) -> None:
    """Assert every field of ``got`` against the dense fp64 pattern."""
    dense = pattern(call)
    visible = dense.visible[:, None].expand_as(dense.p)
    some = visible.any(-1)
    p, s = dense.p, dense.score.masked_fill(~visible, 0.0)
    total = p.sum(-1)
    p_hat = p / total.clamp_min(1e-300)[..., None]
    n = visible.sum(-1)
    mean = s.sum(-1) / n.clamp(min=1)
    centred = (s - mean[..., None]).masked_fill(~visible, 0.0)
    key = call.key.double().cpu().repeat_interleave(call.query.shape[1] // call.key.shape[1], 1)
    key = torch.where(dense.visible.any(1)[:, None, :, None], key, 0.0)
    size = s.abs().amax().clamp(min=1.0)

    def close(name: str, expected: Tensor, limit: float) -> None:
        value = getattr(got, name).cpu().double()
        assert value.isfinite().all(), f"{name} is not finite"
        worst = (value - torch.where(some.view(*some.shape, *[1] * (expected.ndim - 3)), expected, 0.0)).abs().max()
        assert worst <= limit, f"{name} is off by {worst:.2e}, limit {limit:.2e}"

    assert torch.equal(got.visible.cpu().long(), n)
    sunk = 0.0 if call.sink is None else torch.exp(call.sink.cpu().double()[:, None] - dense.lse)
    close("mass_defect", (total + sunk - 1).abs(), LIMIT_MASS)
    close("entropy", -torch.special.xlogy(p_hat, p_hat).sum(-1), LIMIT_ENTROPY)
    close("row_sum", total, LIMIT_MASS)
    close("p_max", p_hat.amax(-1), LIMIT_MASS)
    close("score_max", dense.score.amax(-1), 1e-6 * size)
    close("score_min", s.masked_fill(~visible, torch.inf).amin(-1), 1e-6 * size)
    close("score_mean", mean, 1e-6 * size)
    close("score_m2", centred.square().sum(-1), 1e-5 * max(centred.square().sum(-1).max(), 1.0))
    close("ak", p_hat @ key, attended * key.abs().max())
    if got.ak2 is not None and got.key_shift is not None:
        shift = got.key_shift.cpu().double().repeat_interleave(call.query.shape[1] // call.key.shape[1], 1)
        square = (key - shift[:, :, None]).square()
        rounded = 2 if call.query.dtype == torch.bfloat16 else 1  # p and the stored square
        close("ak2", p_hat @ square, rounded * attended * square.max())
    if features is not None and got.masses is not None:
        columns = features.cpu().double()
        close("masses", p @ columns[:, None], LIMIT_MASS * columns.abs().max())


@pytest.mark.parametrize("mask", MASKS)
def test_every_mask_with_poison_beyond_what_rows_see(mask: str) -> None:
    """NaN in unseen keys and in rows without keys reaches no result; rows without keys are zeros."""
    call = poisoned(make_call(mask, batch=2))
    features = token_features(call)
    agrees(call, row_pass(call, features, want_ak2=True), features)


@pytest.mark.parametrize("d", [16, 32, 64, 72, 80, 96, 128, 192, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_head_width_and_type(d: int, dtype: torch.dtype) -> None:
    """Widths that are no power of two are padded in the tile, types change nothing but the error of A K."""
    call = make_call("causal", 33, d=d, dtype=dtype)
    features = token_features(call)
    limit = LIMIT_ATTENDED_FP32 if dtype == torch.float32 else LIMIT_ATTENDED_BF16
    agrees(call, row_pass(call, features, want_ak2=True), features, limit)


@pytest.mark.parametrize(("n_query", "n_key"), LENGTHS)
def test_odd_and_unequal_lengths(n_query: int, n_key: int) -> None:
    """Fewer queries than keys (a cache) and more (cross-attention) are causal from the bottom right."""
    call = make_call("causal", n_query, n_key)
    agrees(call, row_pass(call), None)


@pytest.mark.parametrize(("h", "hkv"), [(2, 2), (4, 2), (3, 1)])
def test_head_groups(h: int, hkv: int) -> None:
    """Query heads read their group's key head, without expansion."""
    call = make_call("window", 65, h=h, hkv=hkv)
    agrees(call, row_pass(call, want_ak2=True), None)


@pytest.mark.parametrize("name", ["all equal", "one sink", "offset"])
def test_adversarial_scores(name: str) -> None:
    """Entropy, masses and score moments keep their digits whatever the scores' size."""
    call = adversarial(name)
    features = token_features(call)
    agrees(call, row_pass(call, features, want_ak2=True), features)


@pytest.mark.parametrize("options", [{"sink": True}, {"softcap": 2.0}, {"bias": True},
                                     {"sink": True, "softcap": 5.0, "bias": True}], ids=str)  # fmt: skip
def test_what_changes_the_scores(options: dict[str, float]) -> None:
    """Sink, soft-cap and bias enter in the order of the contract; row_sum + p_sink = 1."""
    call = make_call("left padding", 65, **options)
    features = token_features(call)
    got = row_pass(call, features, want_ak2=True)
    agrees(call, got, features)
    assert got.mass_defect.max() < 1e-6


def test_a_bias_of_minus_infinity_hides_the_pair() -> None:
    """A dense mask given as a bias is a mask, and a row that it hides entirely is a row without keys."""
    call = make_call("full", 65, bias=True)
    assert call.bias is not None
    hidden = torch.rand(65, 65, generator=torch.Generator().manual_seed(1)) < 0.4
    hidden[7], hidden[:, 20] = True, True
    call = replace(call, bias=call.bias.masked_fill(hidden.to(DEVICE), -torch.inf))
    call.key[:, :, 20] = torch.nan  # a key that the bias hides from every row
    features = token_features(call)
    agrees(call, row_pass(call, features), features)


def test_a_given_lse_is_used_and_its_error_shows() -> None:
    """p = exp(s - lse) with the vendor's lse: masses follow it, statistics of p^ do not."""
    call = make_call("causal", 65)
    given = replace(call, lse=row_lse(call) + 0.01)
    features = token_features(given)
    got = row_pass(given, features)
    agrees(given, got, features)
    assert (got.row_sum - torch.exp(torch.tensor(-0.01))).abs().max() < 1e-5
    assert (got.mass_defect - (1 - torch.exp(torch.tensor(-0.01)))).abs().max() < 1e-5


def test_entropy_identity() -> None:
    """H_i = lse_i - c Σ_d q_id (A K)_id where nothing but scaled dot products makes the score."""
    call = make_call("causal", 113)
    got = row_pass(call)
    assert got.ak is not None
    identity = got.lse - call.scale * (call.query.float() * got.ak).sum(-1)
    assert (got.entropy - identity).abs().max() < 1e-5


def test_p_max_identity() -> None:
    """p_max = exp(score_max - lse) without a learned sink."""
    got = row_pass(make_call("wide window", 113))
    assert (got.p_max - torch.exp(got.score_max - got.lse)).abs().max() < 1e-6


def test_repeats_and_batches_give_the_same_bits() -> None:
    """A program sees one window, so a batch of two is its two halves, and the same call twice is the same."""
    call = make_call("causal", 65, batch=2)
    both, again = row_pass(call, want_ak2=True), row_pass(call, want_ak2=True)
    alone = replace(call, query=call.query[1:], key=call.key[1:], value=call.key[1:], lo=call.lo[1:], hi=call.hi[1:])
    half = row_pass(alone, want_ak2=True)
    for one in fields(RowStats):
        if (value := getattr(both, one.name)) is not None:
            assert torch.equal(value, getattr(again, one.name)), one.name
            assert torch.equal(value[1:], getattr(half, one.name)), one.name


def test_outputs_not_asked_for_are_absent() -> None:
    """A K costs a product per tile, so it can be left out; what remains does not change."""
    call = make_call("causal", 65)
    plain, lean = row_pass(call), row_pass(call, want_ak=False)
    assert (lean.ak, lean.ak2, lean.masses) == (None, None, None)
    assert (plain.entropy - lean.entropy).abs().max() < 1e-6


def test_features_that_half_precision_would_round_are_refused() -> None:
    """Silent rounding would cost more than the limit on masses."""
    call = make_call("causal", 33, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="digits"):
        row_pass(call, torch.full((1, 33, 1), 257.0, device=DEVICE))
    with pytest.raises(ValueError, match="features must be"):
        row_pass(call, torch.ones(1, 33, 17, device=DEVICE))


def test_calls_the_kernels_do_not_take_are_refused() -> None:
    """The message names what came."""
    call = make_call("causal", 33)
    with pytest.raises(TypeError, match="float64"):
        row_pass(replace(call, query=call.query.double(), key=call.key.double()))
    with pytest.raises(TypeError, match="int64"):
        row_pass(replace(call, lo=call.lo.long()))
    with pytest.raises(ValueError, match="256 dims"):
        row_pass(make_call("causal", 3, d=264))


@pytest.mark.parametrize("where", ["query", "key"])
@pytest.mark.parametrize("given", [False, True])
def test_a_nan_that_is_seen_surfaces_in_its_head_and_in_no_other(where: str, given: bool) -> None:
    """The mass defect, and every statistic, of the rows that see it are NaN: never a zero that looks like a result."""
    call = make_call("causal", 33, h=2, hkv=2)
    clean = row_pass(call, want_ak2=True)
    tensor = getattr(call, where).clone()
    tensor[0, 1, 20, 3] = torch.nan
    call = replace(call, **{where: tensor}, lse=clean.lse if given else None)
    got = row_pass(call, want_ak2=True)
    rows = slice(20, 21) if where == "query" else slice(20, None)
    for name in ("mass_defect", "entropy", "p_max", "score_mean", "ak"):
        value = getattr(got, name)
        assert value[:, 1, rows].isnan().all(), name
        assert torch.equal(value[:, 0], getattr(clean, name)[:, 0]), name
        if name != "ak":  # 0 · NaN: rows above share the key's tile
            assert torch.equal(value[:, 1, :20], getattr(clean, name)[:, 1, :20]), name


def test_strides_are_free() -> None:
    """Widths that are not the last in memory, and heads that lie apart, change no bits."""
    call = make_call("causal", 65)
    apart = replace(call, query=call.query.mT.contiguous().mT, key=torch.stack([call.key, call.key], -1)[..., 0])
    assert torch.equal(row_pass(call).entropy, row_pass(apart).entropy)


@pytest.mark.parametrize("options", [{}, {"sink": True, "softcap": 5.0, "bias": True}], ids=str)
def test_the_operators_keep_torchs_promises(options: dict[str, float]) -> None:
    """Schema, fake shapes and tracing of both operators, with everything and with the least."""
    call = make_call("causal", 19, 23, d=16, **options)
    torch.library.opcheck(torch.ops.attnengine.row_lse.default, flat(call))
    rest = (token_features(call), True, True) if options else (None, False, False)
    call = replace(call, lse=row_lse(call)) if options else call
    torch.library.opcheck(torch.ops.attnengine.row_pass.default, (*flat(call), *rest))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_caller_compiles_into_one_graph(backend: str) -> None:
    """No graph break, and the same bits."""
    call = make_call("causal", 19, d=16)

    def caller(q: Tensor, k: Tensor, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor | None]:
        got = row_pass(AttentionCall(q, k, k, lo, hi, 0.25), want_ak=True)
        return got.entropy * 2, got.ak

    arguments = (call.query, call.key, call.lo, call.hi)
    compiled = torch.compile(caller, fullgraph=True, backend=backend)(*arguments)
    for a, b in zip(compiled, caller(*arguments), strict=True):
        assert torch.equal(a, b)
