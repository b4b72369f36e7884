"""The share pass agrees with the fp64 definition for any intervals, and keeps its digits where means are large."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu import share
from attnengine_kernels.gpu._blocks import row_blocks
from attnengine_kernels.gpu._launch import Tile
from attnengine_kernels.gpu._ops import flat
from attnengine_kernels.gpu.share import Shares, ShareTiles, share_pass, whole_chunks
from attnengine_kernels.intervals import packed
from tests.kernels.calls import DEVICE, adversarial, make_call, poisoned

pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []

LIMIT = 1e-5  # of the head's share_n
MASKS = ("full", "causal", "window", "wide window", "right padding", "left padding", "packed", "one key")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 32 keys, so that a short call has many, and of the dims several blocks."""
    tiles = ShareTiles(Tile(32, 32, 32, 4, 1), 32, 32, 16, 16, 16, 16)
    monkeypatch.setattr(share, "share_tiles", lambda *_: tiles)


def definition(call: AttentionCall, counted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """share (b, h, q, d) and its sum (b, h, q) of every row, from row means and covariances in fp64."""
    j = torch.arange(call.key.shape[2], device=DEVICE)
    visible = (call.lo[..., None] <= j) & (j < call.hi[..., None])  # (b, q, k)
    if counted is not None:
        visible = visible & counted[..., None]
    query = call.query.double().masked_fill(~visible.any(2)[:, None, :, None], 0.0)
    key = call.key.double().masked_fill(~visible.any(1)[:, None, :, None], 0.0)
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    score = call.scale * query @ key.transpose(-1, -2)
    n = visible.sum(-1).clamp(min=1)[:, None]  # (b, 1, q)
    see = visible[:, None]
    mean = score.masked_fill(~see, 0.0).sum(-1) / n
    centred = (score - mean[..., None]).masked_fill(~see, 0.0)
    row = see.double() @ key / n[..., None]  # the row's mean key
    about = centred @ key - centred.sum(-1, keepdim=True) * row
    return call.scale * query * about / n[..., None], centred.square().sum(-1) / n


def agrees(got: Shares, call: AttentionCall, counted: Tensor | None = None, limit: float = LIMIT) -> None:
    """Assert both fields over whole windows."""
    by_row, variance = definition(call, counted)
    want, total = by_row.sum(2), variance.sum(2)
    assert (got.share.dtype, got.share_n.dtype) == (torch.float64, torch.float64)
    assert got.share.shape == want.shape
    assert got.share.isfinite().all()
    size = total.clamp(min=1e-12)
    assert ((got.share - want).abs() / size[..., None]).max() <= limit
    assert ((got.share_n - total).abs() / size).max() <= limit


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("mask", MASKS)
def test_every_mask_with_poison_beyond_what_rows_see(mask: str) -> None:
    """Runs of chunks, ranges that move, ranges too short for a chunk: the same definition."""
    agrees(share_pass(call := poisoned(make_call(mask, 161, d=16, batch=2))), call)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("n_query", "n_key"), [(1, 1), (3, 3), (31, 31), (33, 33), (239, 239), (5, 170), (170, 5)])
def test_odd_and_unequal_lengths(n_query: int, n_key: int) -> None:
    """Causal from the bottom right, with several blocks of dims."""
    agrees(share_pass(call := make_call("causal", n_query, n_key, d=24, h=1)), call)


@pytest.mark.parametrize(
    "d", [16, 64, 72, *(pytest.param(d, marks=pytest.mark.acceptance) for d in (80, 96, 128, 192, 256))]
)
def test_shipped_tiles_of_every_head_width(d: int) -> None:
    """The second chunk's rows see the first as a whole."""
    agrees(share_pass(call := make_call("causal", 258 if d > 64 else 131, d=d, h=1)), call)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_half_precision_keeps_the_limit(dtype: torch.dtype, offset: float) -> None:
    """Products are split into parts, also where the mean key is thirty times its spread."""
    call = make_call("causal", 140, d=32, dtype=dtype)
    call = replace(call, key=call.key + offset)
    agrees(share_pass(call), call)


@pytest.mark.parametrize("mask", ["causal", "wide window"])
def test_the_parts_of_half_precision_add_up(mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The split of bf16, tried with fp16 where the interpreter has no bf16: 11 bits alone would miss the limit."""
    import triton.language as tl

    monkeypatch.setattr(share, "product_type", lambda _: tl.float16)
    monkeypatch.setattr(share, "share_tiles", lambda *_: ShareTiles(Tile(32, 16, 16, 4, 1), 32, 16, 16, 16, 16, 32))
    call = make_call(mask, 140, d=32, dtype=torch.float16)
    call = replace(call, key=call.key + 8.0)
    agrees(share_pass(call), call, limit=2e-6)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("mask", ["causal", "window", "packed"])
def test_keys_far_from_zero_that_drift(mask: str) -> None:
    """Means 300 times the spread, and another mean in every part of the window: centres are local."""
    call = make_call(mask, 161, d=16)
    drift = 100.0 * torch.arange(161, device=DEVICE)[:, None].div(40, rounding_mode="floor")
    key = call.key + 300.0 + drift
    agrees(share_pass(call := replace(call, key=key.float())), call, limit=3e-5 if mask == "window" else LIMIT)


@pytest.mark.parametrize("name", ["all equal", "one sink", "offset"])
def test_adversarial_scores(name: str) -> None:
    """Scores of one extreme kind; equal scores have no variance."""
    call = adversarial(name)
    if name != "all equal":
        agrees(share_pass(call), call)
        return
    assert share_pass(call).share.abs().max() < 1e-9


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("h", "hkv"), [(2, 2), (4, 2), (3, 1)])
def test_head_groups_some_heads_at_a_time(h: int, hkv: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for one key head is enough, and gives the same bits."""
    call = make_call("causal", 70, d=16, h=h, hkv=hkv, batch=2)
    whole = share_pass(call)
    agrees(whole, call)
    monkeypatch.setattr(share, "WORKSPACE", 1)
    assert torch.equal(share_pass(call).share, whole.share)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("causal", [True, False])
def test_packed_sequences_have_their_own_sums(causal: bool) -> None:
    """Lengths 0 and 1, lengths of whole chunks, tokens after the last; one sequence's NaN stays there."""
    edges = torch.tensor([0, 5, 5, 6, 96, 130], dtype=torch.int32, device=DEVICE)
    lo, hi = packed(edges, 133, causal=causal)
    call = replace(make_call("full", 133, d=16, h=2, hkv=2), lo=lo, hi=hi)
    by_row, variance = definition(call)
    want = torch.stack([by_row[0, :, a:b].sum(1) for a, b in pairwise(edges.tolist())])
    total = torch.stack([variance[0, :, a:b].sum(1) for a, b in pairwise(edges.tolist())])
    got = share_pass(call, cu_seqlens=edges)
    assert got.share.shape == (5, 2, 16)
    assert ((got.share - want).abs().amax(2) <= LIMIT * total.clamp(min=1e-9)).all()
    call.key[0, 0, 3] = torch.nan
    again = share_pass(call, cu_seqlens=edges)
    assert again.share[0, 0].isnan().all()
    assert torch.equal(again.share[0, 1], got.share[0, 1])
    assert ((again.share[1:] - want[1:]).abs().amax(2) <= LIMIT * total[1:].clamp(min=1e-9)).all()


@pytest.mark.usefixtures("small")
def test_rows_that_are_not_counted_leave_every_sum() -> None:
    """Whether a block has whole chunks depends on its counted rows alone."""
    call = make_call("causal", 100, d=16)
    counted = (torch.arange(100, device=DEVICE) % 7 != 0)[None]
    agrees(share_pass(call, counted), call, counted)
    nothing = share_pass(call, torch.zeros_like(counted))
    assert not nothing.share.any()


@pytest.mark.usefixtures("small")
def test_what_is_seen_and_not_a_number_shows_in_its_head() -> None:
    """A NaN key in a whole chunk, in a ragged tile, a NaN query: the head's sums are NaN, and no other's."""
    for name, at in (("key", 3), ("key", 99), ("query", 50)):
        call = make_call("causal", 100, d=16, h=2, hkv=2)
        getattr(call, name)[0, 1, at] = torch.nan
        got = share_pass(call)
        assert got.share[0, 1].isnan().all()
        assert got.share[0, 0].isfinite().all()


def test_whole_chunks_and_runs() -> None:
    """Causal blocks grow by a chunk; a window's ranges move, so each is a run of its own; a hole ends a run."""
    call = make_call("causal", 96)
    whole, run = whole_chunks(row_blocks(1, 96, 16, DEVICE), call.lo, call.hi, 16)
    assert whole.tolist() == [[0, 0]] + [[0, end] for end in range(1, 6)]
    assert run.tolist() == [0, 5, 0, 0, 0, 0]
    call = make_call("wide window", 160)
    whole, run = whole_chunks(row_blocks(1, 160, 16, DEVICE), call.lo, call.hi, 16)
    assert whole[5:].tolist() == [[2, 5], [3, 6], [4, 7], [5, 8], [6, 9]]
    assert run.tolist()[5:] == [1] * 5


@pytest.mark.usefixtures("small")
def test_repeats_and_batches_give_the_same_bits() -> None:
    """One partial per program and a fixed order of adding."""
    call = make_call("causal", 81, d=16, batch=2)
    both, again = share_pass(call), share_pass(call)
    alone = replace(call, query=call.query[1:], key=call.key[1:], value=call.key[1:], lo=call.lo[1:], hi=call.hi[1:])
    assert torch.equal(both.share, again.share)
    assert torch.equal(both.share[1:], share_pass(alone).share)


def test_the_operator_keeps_torchs_promises() -> None:
    """Schema, fake shapes and tracing, packed and not."""
    call = make_call("causal", 19, d=16)
    torch.library.opcheck(torch.ops.attnengine.share.default, (*flat(call), None, None))
    edges = torch.tensor([0, 4, 19], dtype=torch.int32, device=DEVICE)
    counted = torch.ones(1, 19, dtype=torch.bool, device=DEVICE)
    torch.library.opcheck(torch.ops.attnengine.share.default, (*flat(call), counted, edges))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_caller_compiles_into_one_graph(backend: str) -> None:
    """No graph break, and the same bits."""
    call = make_call("causal", 19, d=16)

    def caller(q: Tensor, k: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
        got = share_pass(AttentionCall(q, k, k, lo, hi, 0.25))
        return got.share / got.share_n[..., None]

    arguments = (call.query, call.key, call.lo, call.hi)
    compiled = torch.compile(caller, fullgraph=True, backend=backend)(*arguments)
    assert torch.equal(compiled, caller(*arguments))


def test_strides_of_any_kind() -> None:
    """The last dimension need not be the fastest."""
    call = make_call("causal", 40, d=16)
    turned = replace(call, query=call.query.mT.contiguous().mT, key=call.key.mT.contiguous().mT)
    assert torch.equal(share_pass(turned).share, share_pass(call).share)


def test_calls_the_kernels_do_not_take_are_refused() -> None:
    """The message names what came; a finite bias changes nothing."""
    call = make_call("causal", 9, d=16, bias=True)
    assert call.bias is not None
    assert torch.equal(share_pass(call).share, share_pass(replace(call, bias=None)).share)
    with pytest.raises(ValueError, match="-inf"):
        share_pass(replace(call, bias=call.bias.masked_fill(call.bias < -0.1, -torch.inf)))
    with pytest.raises(TypeError, match="float64"):
        share_pass(replace(call, query=call.query.double(), key=call.key.double()))
    with pytest.raises(ValueError, match="256 dims"):
        share_pass(make_call("causal", 3, d=264))
    with pytest.raises(ValueError, match="batch of 1"):
        share_pass(make_call("causal", 3, batch=2), cu_seqlens=torch.tensor([0, 3]))
