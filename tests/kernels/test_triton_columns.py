"""The column pass agrees with the fp64 definitions key by key, within the limits that always bind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu._ops import flat
from attnengine_kernels.gpu.columns import ColumnSums, _columns, column_pass, row_spans
from attnengine_kernels.gpu.rows import row_lse
from attnengine_kernels.intervals import packed
from attnengine_kernels.reference import pattern
from attnengine_kernels.sums import LIMIT_ATTENDED_BF16, LIMIT_ATTENDED_FP32, LIMIT_MASS
from tests.kernels.calls import DEVICE, adversarial, make_call, poisoned

pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []

MASKS = ("full", "causal", "window", "wide window", "right padding", "left padding", "packed", "one key")
LENGTHS = [(1, 1), (3, 3), (63, 63), (64, 64), (65, 65), (5, 70), (70, 5), (113, 239)]


def row_bins(call: AttentionCall, n: int = 32) -> Tensor:
    """(b, q, n) one-hot relative bins of the rows, as the pattern grid uses them."""
    b, length = call.lo.shape
    bins = n * torch.arange(length, device=DEVICE) // length
    return (bins[:, None] == torch.arange(n, device=DEVICE)).float().expand(b, -1, -1)


def agrees(call: AttentionCall, got: ColumnSums, features: Tensor | None, limit: float = LIMIT_ATTENDED_FP32) -> None:
    """Assert every field of ``got`` against the dense fp64 pattern."""
    dense = pattern(call)
    p, rows = dense.p, dense.visible.any(2)[:, None, :, None].cpu()
    seen_by = dense.visible.sum(1)[:, None].clamp(min=1)  # (b, 1, k)
    received = p.sum(2)
    assert ((got.received.cpu().double() - received).abs() <= LIMIT_MASS * seen_by).all()
    if features is not None:
        assert got.masses is not None
        columns = features.cpu().double()
        want = p.transpose(2, 3) @ columns[:, None]
        size = columns.abs().amax().clamp(min=1)
        assert ((got.masses.cpu().double() - want).abs() <= size * LIMIT_MASS * seen_by[..., None]).all()
    if got.aq is not None:
        query = torch.where(rows, call.query.cpu().double(), 0.0)
        off = (got.aq.cpu().double() - p.transpose(2, 3) @ query).abs()
        assert (off <= limit * query.abs().max() * received.clamp(min=1)[..., None]).all()


@pytest.mark.parametrize("mask", MASKS)
def test_every_mask_with_poison_beyond_what_rows_see(mask: str) -> None:
    """NaN in unseen keys and in rows without keys reaches no result."""
    call = poisoned(make_call(mask, 81, batch=2, d=16))
    agrees(call, column_pass(call, row_bins(call), want_aq=True), row_bins(call))


@pytest.mark.parametrize("d", [16, 32, 64, 72, 80, 96, 128, 192, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_head_width_and_type(d: int, dtype: torch.dtype) -> None:
    """Widths that are no power of two are padded in the tile; masses keep their digits in half precision."""
    call = make_call("causal", 33, h=1, d=d, dtype=dtype)
    limit = LIMIT_ATTENDED_FP32 if dtype == torch.float32 else LIMIT_ATTENDED_BF16
    agrees(call, column_pass(call, row_bins(call, 5), want_aq=True), row_bins(call, 5), limit)


@pytest.mark.parametrize(("n_query", "n_key"), LENGTHS)
def test_odd_and_unequal_lengths(n_query: int, n_key: int) -> None:
    call = make_call("causal", n_query, n_key, d=16, dtype=torch.float16)
    agrees(call, column_pass(call), None)


def test_many_rows_take_the_unmasked_tiles() -> None:
    """Beyond the diagonal whole row tiles see a whole key tile, and skip the mask."""
    call = make_call("causal", 239, h=1, d=16, dtype=torch.float16)
    agrees(call, column_pass(call, row_bins(call, 40)), row_bins(call, 40))


@pytest.mark.parametrize(("h", "hkv"), [(4, 2), (3, 1)])
def test_head_groups(h: int, hkv: int) -> None:
    """One result per query head, keys not expanded."""
    call = make_call("window", 65, h=h, hkv=hkv, d=16)
    got = column_pass(call, want_aq=True)
    assert got.received.shape == (1, h, 65)
    agrees(call, got, None)


@pytest.mark.parametrize("name", ["all equal", "one sink", "offset"])
def test_adversarial_scores(name: str) -> None:
    call = adversarial(name)
    agrees(call, column_pass(call, row_bins(call)), row_bins(call))


@pytest.mark.parametrize("options", [{"sink": True}, {"softcap": 2.0}, {"bias": True},
                                     {"sink": True, "softcap": 5.0, "bias": True}], ids=str)  # fmt: skip
def test_what_changes_the_scores(options: dict[str, float]) -> None:
    call = make_call("left padding", 65, d=16, **options)
    agrees(call, column_pass(call, row_bins(call), want_aq=True), row_bins(call))


def test_a_bias_of_minus_infinity_hides_the_pair() -> None:
    """Also a whole row and a whole key, whose NaN then stay out."""
    call = make_call("full", 65, bias=True, d=16)
    assert call.bias is not None
    hidden = torch.rand(65, 65, generator=torch.Generator().manual_seed(1)) < 0.4
    hidden[7], hidden[:, 20] = True, True
    call = replace(call, bias=call.bias.masked_fill(hidden.to(DEVICE), -torch.inf))
    clean = replace(call, lse=row_lse(call))
    query, key = call.query.clone(), call.key.clone()
    query[:, :, 7], key[:, :, 20] = torch.nan, torch.nan
    got = column_pass(replace(clean, query=query, key=key), row_bins(call), want_aq=True)
    agrees(clean, got, row_bins(call))


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")  # the interpreter's maximum of a poisoned row
@pytest.mark.parametrize("bias", [False, True])
def test_nan_in_what_is_seen_surfaces_in_its_own_head(bias: bool) -> None:
    call = make_call("causal", 33, h=2, hkv=2, d=16, bias=bias)
    for name, at in (("query", (0, 1, 20, 3)), ("key", (0, 1, 4, 3))):
        spoilt = replace(call, **{name: getattr(call, name).clone()})
        getattr(spoilt, name)[at] = torch.nan
        received = column_pass(spoilt).received
        assert received[0, 0].isfinite().all()
        assert received[0, 1, : 21 if name == "query" else 5].isnan().any()


def test_packed_sequences_are_sequences_alone() -> None:
    """Lengths 0 and 1 among them; the same bits as each sequence in a call of its own."""
    cu = torch.tensor([0, 40, 40, 41, 97], dtype=torch.int32, device=DEVICE)
    call = make_call("full", 97, d=16)
    lo, hi = packed(cu, 97)
    got = column_pass(replace(call, lo=lo, hi=hi), want_aq=True)
    agrees(replace(call, lo=lo, hi=hi), got, None)


def test_a_given_lse_is_used() -> None:
    call = make_call("causal", 33, d=16)
    given = replace(call, lse=row_lse(call) + 1.0)
    agrees(given, column_pass(given), None)


def test_all_mass_is_received_once() -> None:
    """Σ_j received = rows without a learned sink; masses over all rows are what is received."""
    call = make_call("causal", 113, d=16)
    got = column_pass(call, row_bins(call))
    assert got.masses is not None
    assert (got.received.double().sum(-1) - 113).abs().max() < 1e-4
    assert (got.masses.sum(-1) - got.received).abs().max() < 1e-5


@pytest.mark.parametrize("mask", MASKS)
def test_row_spans_hold_every_pair_and_only_whole_tiles_go_unmasked(mask: str) -> None:
    call = make_call(mask, 81, batch=2, d=16)
    sees = (call.hi > call.lo).to(torch.int8)
    spans = row_spans(call.lo, call.hi, sees, 81, 16, 32, whole=True).cpu()
    visible = pattern(call).visible
    for w, tile in ((w, t) for w in range(2) for t in range(3)):
        start, full_lo, full_hi, stop = spans[w, tile].tolist()
        part = visible[w, :, tile * 32 : tile * 32 + 32]
        outside = torch.ones(81, dtype=torch.bool)
        outside[start:stop] = False
        assert not part[outside].any()
        assert start <= full_lo <= full_hi <= max(stop, full_hi)
        assert part[full_lo:full_hi].all()
    if mask in ("full", "causal"):
        assert (spans[..., 2] > spans[..., 1])[:, 0].all()


def test_repeats_and_batches_give_the_same_bits() -> None:
    call = make_call("causal", 65, batch=2, d=16)
    both, again = (column_pass(call, row_bins(call), want_aq=True) for _ in range(2))
    alone = replace(call, query=call.query[1:], key=call.key[1:], value=call.key[1:], lo=call.lo[1:], hi=call.hi[1:])
    half = column_pass(alone, row_bins(alone), want_aq=True)
    for name in ("received", "aq", "masses"):
        assert torch.equal(getattr(both, name), getattr(again, name))
        assert torch.equal(getattr(both, name)[1:], getattr(half, name))


def test_strides_may_be_anything() -> None:
    call = make_call("causal", 33, d=16)
    turned = replace(call, query=call.query.transpose(2, 3).contiguous().transpose(2, 3), key=call.key.flip(2).flip(2))
    assert torch.equal(column_pass(turned).received, column_pass(call).received)


@pytest.mark.filterwarnings("ignore")
def test_the_operator_and_a_compiled_caller() -> None:
    call = make_call("causal", 20, h=1, d=16)
    torch.library.opcheck(_columns, (*flat(call), None, False))
    torch.library.opcheck(_columns, (*flat(call), row_bins(call, 3), True))
    compiled = torch.compile(
        lambda one: column_pass(one, want_aq=True).received * 2, fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(call), column_pass(call, want_aq=True).received * 2)


def test_calls_the_kernel_does_not_take_are_refused() -> None:
    call = make_call("causal", 33, d=16, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"exact in torch\.bfloat16"):
        column_pass(call, torch.full((1, 33, 1), 257.0, device=DEVICE))
    with pytest.raises(ValueError, match=r"row_features: expected \(1, 33, '1…64'\), got \(1, 33, 65\)"):
        column_pass(call, torch.ones(1, 33, 65, device=DEVICE))
    with pytest.raises(TypeError, match="int64"):
        column_pass(replace(call, lo=call.lo.long()))
    with pytest.raises(TypeError, match="float64"):
        column_pass(replace(call, query=call.query.double(), key=call.key.double()))
