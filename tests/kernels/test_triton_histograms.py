"""Histograms count every visible pair, once, in the bin that the definition says."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu import histograms
from attnengine_kernels.gpu._ops import flat
from attnengine_kernels.gpu.histograms import joint_histograms, quantiles, score_histograms, signed_log_edges
from attnengine_kernels.intervals import packed
from attnengine_kernels.reference import pattern
from tests.kernels.calls import DEVICE, make_call, poisoned

pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []

MASKS = ("full", "causal", "window", "wide window", "right padding", "left padding", "packed", "one key")


def joint(call: AttentionCall, edges: Tensor, counted: Tensor | None = None) -> Tensor:
    """(b, h, d, g, g) int64: one-hot bins of both sides summed over the visible pairs; NaN has no bin."""
    j = torch.arange(call.key.shape[2], device=DEVICE)
    visible = (call.lo[..., None] <= j) & (j < call.hi[..., None])  # (b, q, k)
    if counted is not None:
        visible = visible & counted[..., None]

    def one_hot(x: Tensor) -> Tensor:
        bins = torch.bucketize(x.float().contiguous(), edges, right=True)
        return torch.nn.functional.one_hot(bins, len(edges) + 1).double() * ~x.isnan()[..., None]

    key = one_hot(call.key).repeat_interleave(call.query.shape[1] // call.key.shape[1], dim=1)
    return torch.einsum("bhida,bij,bhjdc->bhdac", one_hot(call.query), visible.double(), key).long()


@pytest.mark.parametrize("mask", MASKS)
def test_joint_counts_of_every_mask_with_poison_beyond_what_rows_see(mask: str) -> None:
    """Whole tiles as differences of running counts, ragged ends as products: exact."""
    call = poisoned(make_call(mask, 150, d=2, h=2, hkv=1))
    got = joint_histograms(call)
    assert got.counts.dtype == torch.int64
    assert torch.equal(got.counts, joint(call, got.edges))
    assert not got.not_numbers.any()


@pytest.mark.parametrize(("n_query", "n_key"), [(1, 1), (3, 3), (63, 63), (64, 64), (65, 65), (5, 170), (170, 5)])
def test_joint_counts_of_odd_and_unequal_lengths(n_query: int, n_key: int) -> None:
    """More than one block, more than one tile, and neither."""
    call = make_call("causal", n_query, n_key, d=2, batch=2)
    assert torch.equal(joint_histograms(call).counts, joint(call, signed_log_edges().to(DEVICE)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bins", [4, 20])
def test_joint_counts_with_other_edges_and_types(dtype: torch.dtype, bins: int) -> None:
    """An element that is an edge belongs to the bin above it."""
    call = make_call("causal", 40, d=5, dtype=dtype, h=1)
    edges = signed_log_edges(bins, least=0.5, most=2.0).to(DEVICE)
    call.query[0, 0, 5, :4] = torch.tensor([0.5, -0.5, 0.0, 2.0], dtype=dtype)
    assert torch.equal(joint_histograms(call, edges=edges).counts, joint(call, edges))


def test_counts_beyond_a_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys in one bin are counted in two digits; one of 32 puts both to work on a short call."""
    import triton.language as tl

    from attnengine_kernels.gpu import _histograms_kernel

    monkeypatch.setattr(_histograms_kernel, "DIGIT", tl.constexpr(32))
    call = make_call("full", 70, 200, d=1)
    call = replace(call, key=torch.ones_like(call.key))
    got = joint_histograms(call)
    assert torch.equal(got.counts, joint(call, got.edges))


def test_joint_counts_add_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several programs a head give what one gives."""
    call = make_call("causal", 200, d=2)
    whole = joint_histograms(call)
    monkeypatch.setattr(histograms, "STRIP", 64)
    assert torch.equal(joint_histograms(call).counts, whole.counts)


def test_joint_counts_of_packed_sequences_and_counted_rows() -> None:
    """Lengths 0 and 1, tokens after the last, rows left out."""
    edges = torch.tensor([0, 5, 5, 6, 90, 100], dtype=torch.int32, device=DEVICE)
    lo, hi = packed(edges, 103)
    call = replace(make_call("full", 103, d=2), lo=lo, hi=hi)
    counted = (torch.arange(103, device=DEVICE) % 5 != 0)[None]
    got = joint_histograms(call, counted, cu_seqlens=edges)
    for w, (a, b) in enumerate(pairwise(edges.tolist())):
        here = counted & (torch.arange(103, device=DEVICE) >= a) & (torch.arange(103, device=DEVICE) < b)
        assert torch.equal(got.counts[w], joint(call, got.edges, here)[0])
    assert not got.not_numbers.any()


def test_pairs_of_nan_are_counted_apart() -> None:
    """A NaN falls in no bin and is not lost."""
    call = make_call("causal", 70, d=2, h=2, hkv=2)
    call.key[0, 1, 10, 0] = torch.nan
    call.query[0, 1, 30, 0] = torch.nan
    got = joint_histograms(call)
    assert torch.equal(got.counts, joint(call, got.edges))
    assert got.not_numbers.tolist() == [[[0, 0], [31 + 60 - 1, 0]]]
    scores = score_histograms(call)
    assert scores.not_numbers.tolist() == [[0, 31 + 60 - 1]]
    assert (scores.counts.sum(-1) + scores.not_numbers).tolist() == [[2485, 2485]]
    assert quantiles(scores, torch.tensor([0.5])).isnan().tolist() == [[[False], [True]]]


def binned(values: Tensor, visible: Tensor, low: float, high: float, bins: int) -> Tensor:
    """(b, h, bins) int64 of fp64 values over the visible pairs."""
    at = ((values - low) * (bins / (high - low))).floor().clamp(0, bins - 1).long()
    one_hot = torch.nn.functional.one_hot(at.masked_fill(~visible, 0), bins) * visible[..., None]
    return one_hot.sum((2, 3))


@pytest.mark.parametrize("options", [{}, {"softcap": 2.0, "bias": True, "sink": True}], ids=str)
@pytest.mark.parametrize("log_p", [False, True])
@pytest.mark.parametrize("mask", ["full", "causal", "window", "packed", "left padding"])
def test_score_counts(mask: str, log_p: bool, options: dict[str, float]) -> None:
    """All pairs are counted, and where the fp64 score is no edge's neighbour, in its bin."""
    call = poisoned(make_call(mask, 81, d=16, **options))
    dense = pattern(call)
    visible = dense.visible[:, None].expand_as(dense.p)
    values = dense.score - dense.lse[..., None] if log_p else dense.score
    got = score_histograms(call, low=-3.0, high=1.5, bins=18, log_p=log_p)
    want = binned(values.masked_fill(~visible, 0.0), visible, -3.0, 1.5, 18)
    assert torch.equal(got.counts.sum(-1).cpu(), want.sum(-1))
    near = (values * 4 - (values * 4).round()).abs() < 1e-4  # within rounding of an edge
    assert (got.counts.cpu() - want).abs().sum() <= 2 * (near & visible).sum()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("d", [72, 256])
def test_score_counts_of_types_and_widths(d: int, dtype: torch.dtype) -> None:
    """Scores are fp32 sums of exact products."""
    call = make_call("causal", 40, d=d, dtype=dtype, h=1)
    dense = pattern(call)
    visible = dense.visible[:, None].expand_as(dense.p)
    got = score_histograms(call, low=-4.0, high=4.0, bins=16)
    want = binned(dense.score.masked_fill(~visible, 0.0), visible, -4.0, 4.0, 16)
    assert (got.counts.cpu() - want).abs().sum() <= 2


def test_scores_that_a_bias_hides_are_no_pairs() -> None:
    """-inf in the bias hides; NaN poison in a key that it hides everywhere stays out."""
    call = make_call("full", 40, d=16, bias=True)
    assert call.bias is not None
    hidden = torch.rand(40, 40, generator=torch.Generator().manual_seed(1)) < 0.4
    hidden[:, 20] = True
    call = replace(call, bias=call.bias.masked_fill(hidden.to(DEVICE), -torch.inf))
    call.key[:, :, 20] = torch.nan
    got = score_histograms(call)
    assert got.counts.sum(-1).tolist() == [[int((~hidden).sum())] * 2]
    assert not got.not_numbers.any()


def test_scores_of_packed_sequences() -> None:
    """Counts of each sequence are those of it alone; a NaN stays in its sequence."""
    edges = torch.tensor([0, 5, 5, 6, 40], dtype=torch.int32, device=DEVICE)
    lo, hi = packed(edges, 42)
    call = replace(make_call("full", 42, d=16), lo=lo, hi=hi)
    call.key[:, :, 2] = torch.nan
    got = score_histograms(call, cu_seqlens=edges, bins=50)
    assert got.not_numbers.tolist() == [[3, 3], [0, 0], [0, 0], [0, 0]]
    last = replace(call, query=call.query[:, :, 6:40], key=call.key[:, :, 6:40], value=call.key[:, :, 6:40],
                   lo=lo[:, 6:40] - 6, hi=hi[:, 6:40] - 6)  # fmt: skip
    assert torch.equal(got.counts[3], score_histograms(last, bins=50).counts[0])


def test_quantiles_are_within_a_bin() -> None:
    """Against the exact quantiles of all visible scores."""
    call = make_call("causal", 81, d=16)
    dense = pattern(call)
    histogram = score_histograms(call, low=-8.0, high=8.0, bins=200)
    at = torch.tensor([0.0, 0.01, 0.25, 0.5, 0.9, 1.0])
    got = quantiles(histogram, at.to(DEVICE)).cpu()
    for head in range(2):
        exact = dense.score[0, head][dense.visible[0]].quantile(at.double(), interpolation="lower")
        assert (got[0, head] - exact).abs().max() <= histogram.width
    with pytest.raises(ValueError, match="shares"):
        quantiles(histogram, torch.tensor([1.5]))


def test_the_operators_keep_torchs_promises() -> None:
    """Schema, fake shapes and tracing of both."""
    call = make_call("causal", 9, d=2)
    edges, packs = signed_log_edges(4).to(DEVICE), torch.tensor([0, 4, 9], dtype=torch.int32, device=DEVICE)
    for cu_seqlens in (None, packs):
        arguments = (*flat(call), None, edges, cu_seqlens)
        torch.library.opcheck(torch.ops.attnengine.joint_histograms.default, arguments)
        arguments = (*flat(call), None, -1.0, 1.0, 8, True, cu_seqlens)
        torch.library.opcheck(torch.ops.attnengine.score_histograms.default, arguments)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_caller_compiles_into_one_graph(backend: str) -> None:
    """No graph break, and the same counts."""
    call = make_call("causal", 19, d=2)
    edges = signed_log_edges(4).to(DEVICE)

    def caller(q: Tensor, k: Tensor, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
        one = AttentionCall(q, k, k, lo, hi, 0.25)
        return joint_histograms(one, edges=edges).counts, score_histograms(one, bins=8).counts

    arguments = (call.query, call.key, call.lo, call.hi)
    compiled = torch.compile(caller, fullgraph=True, backend=backend)(*arguments)
    for a, b in zip(compiled, caller(*arguments), strict=True):
        assert torch.equal(a, b)


def test_bad_input_is_refused() -> None:
    """The message names what came."""
    call = make_call("causal", 5, d=2, bias=True)
    assert call.bias is not None
    with pytest.raises(ValueError, match="rising"):
        joint_histograms(call, edges=torch.tensor([0.0, 2.0, 1.0]))
    with pytest.raises(ValueError, match="3…63"):
        joint_histograms(call, edges=torch.zeros(1))
    with pytest.raises(ValueError, match="-inf"):
        joint_histograms(replace(call, bias=call.bias.masked_fill(call.bias < -0.1, -torch.inf)))
    with pytest.raises(ValueError, match="1022"):
        score_histograms(call, bins=1)
    with pytest.raises(ValueError, match="low < high"):
        score_histograms(call, low=1.0, high=1.0)
    with pytest.raises(ValueError, match="even"):
        signed_log_edges(5)
    with pytest.raises(ValueError, match="least < most"):
        signed_log_edges(6, least=2.0, most=1.0)
    with pytest.raises(TypeError, match="float64"):
        score_histograms(replace(call, query=call.query.double(), key=call.key.double()))
