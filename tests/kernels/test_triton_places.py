"""The places pass agrees with the fp64 definitions row by row, within the limits that always bind."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu._ops import flat
from attnengine_kernels.gpu.places import PlaceFacts, PlaceSums, _places, places_pass
from attnengine_kernels.gpu.rows import row_lse
from attnengine_kernels.intervals import packed
from attnengine_kernels.reference import pattern
from attnengine_kernels.sums import LIMIT_MASS
from tests.kernels.calls import DEVICE, adversarial, make_call, poisoned

pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []

MASKS = ("full", "causal", "window", "wide window", "right padding", "left padding", "packed", "one key")


def line(length: int, first: int, last: int, batch: int = 1) -> Tensor:
    """(batch, length) int32: 0, 1, … in [first, last), -1 elsewhere."""
    index = torch.arange(length)
    inside = (first <= index) & (index < last)
    return torch.where(inside, index - first, -1).int().expand(batch, -1).contiguous()


def make_facts(
    batch: int, length: int, *, first: int = 0, last: int | None = None, images: bool = False, seed: int = 0
) -> PlaceFacts:
    """Few tokens and short sentences, some tokens in none; tokens outside [first, last) are padding or a prefix."""
    make = torch.Generator().manual_seed(seed)
    last = length if last is None else last
    position = line(length, first, last, batch)
    if images:
        side = max(int(length**0.5), 1)
        patch = torch.stack([position // side, position % side], dim=-1).float()
        return _moved(PlaceFacts(query_position=position, key_position=position, query_patch=patch, key_patch=patch))
    token = torch.randint(0, 5, (batch, length), generator=make).int().masked_fill(position < 0, -1)
    sentence = (torch.rand(batch, length, generator=make) < 0.2).cumsum(1).int()
    sentence[torch.rand(batch, length, generator=make) < 0.2] = -1
    sentence = sentence.masked_fill(position < 0, -1)
    return _moved(PlaceFacts(False, position, position, token, token, sentence, sentence,
                             first=torch.full((batch,), first, dtype=torch.int32)))  # fmt: skip


def _moved(facts: PlaceFacts) -> PlaceFacts:
    named = {name: x.to(DEVICE) for name, x in vars(facts).items() if isinstance(x, Tensor)}
    return replace(facts, **named)


def agrees(call: AttentionCall, facts: PlaceFacts, got: PlaceSums) -> None:
    """Assert every field against sums over the dense fp64 pattern, pair by pair as the definitions are written."""
    p = pattern(call).p  # (b, h, q, k)
    (b, _, n_rows, n_keys), group = p.shape, call.query.shape[1] // call.key.shape[1]
    host = {name: x.cpu() if isinstance(x, Tensor) else x for name, x in vars(facts).items()}
    i, j = host["query_position"], host["key_position"]
    if i is None:
        i = (torch.arange(n_rows) + n_keys - n_rows).expand(b, -1)
        j = torch.arange(n_keys).expand(b, -1)
    place = ((i >= 0)[:, :, None] & (j >= 0)[:, None, :])[:, None] & (not facts.cross)  # (b, 1, q, k)
    offset = (i[:, :, None] - j[:, None, :])[:, None].double()

    def close(name: str, want: Tensor, limit: float = LIMIT_MASS) -> None:
        value = getattr(got, name)
        assert value is not None, name
        value = value.cpu().double()
        assert value.isfinite().all(), f"{name} is not finite"
        worst = (value - want).abs().max()
        assert worst <= limit, f"{name} is off by {worst:.2e}, limit {limit:.2e}"

    seen = pattern(call).visible.any(1)[:, None, :]
    norm = call.value.cpu().double().norm(dim=-1).repeat_interleave(group, 1).where(seen, 0.0)  # (b, h, k)
    first = torch.zeros(b, dtype=torch.int32) if host["first"] is None else host["first"]
    weight, size = p * norm[:, :, None], float(norm.max())
    close("value_weight", weight.sum(-1), LIMIT_MASS * size)
    at_first = (torch.arange(n_keys) == first[:, None])[:, None, None]
    close("value_weight_first", (weight * at_first).sum(-1), LIMIT_MASS * size)
    if host["query_token"] is not None:
        mine, theirs = host["query_token"][:, None, :, None], host["key_token"][:, None, None, :]
        before = torch.roll(theirs, 1, dims=-1)
        follows = (theirs >= 0) & (before >= 0) & (torch.arange(n_keys) > 0)
        itself, following = place & (offset == 0), place & (offset == -1)
        close("same_token", (p * ((mine == theirs) & (theirs >= 0) & ~itself)).sum(-1))
        close("induction", (p * ((mine == before) & follows & ~itself & ~following)).sum(-1))
    if host["query_sentence"] is not None:
        mine, theirs = host["query_sentence"][:, None, :, None], host["key_sentence"][:, None, None, :]
        close("other_sentence", (p * ((mine != theirs) & (mine >= 0) & (theirs >= 0))).sum(-1))
    if facts.cross:
        assert (got.offset, got.distance, got.behind, got.ahead) == (None, None, None, None)
        return
    near = p * place
    total = near.sum(-1)
    total = total.masked_fill(total == 0, 1.0)
    distance = offset.abs()
    if host["query_patch"] is not None:
        distance = torch.cdist(host["query_patch"].double(), host["key_patch"].double())[:, None]
    longest = float((distance * place).max())
    close("offset", (near * offset).sum(-1) / total, LIMIT_MASS * max(longest, 1))
    close("distance", (near * distance).sum(-1) / total, LIMIT_MASS * max(longest, 1))
    for name, sign in (("behind", 1), ("ahead", -1)):
        edges = [64.0 * 2**s for s in range(1, 17)]
        inside = [(near * ((a <= sign * offset) & (sign * offset < z))).sum((2, 3)) for a, z in pairwise(edges)]
        close(name, torch.stack(inside, dim=-1), LIMIT_MASS * n_rows)


@pytest.mark.parametrize("mask", MASKS)
def test_every_mask_with_poison_beyond_what_rows_see(mask: str) -> None:
    call = poisoned(make_call(mask, 81, batch=2, d=16, h=1))
    call, facts = replace(call, value=call.key), make_facts(2, 81)
    agrees(call, facts, places_pass(call, facts))


@pytest.mark.parametrize("n", [1, 3, 63, 64, 65, 113])
def test_odd_lengths(n: int) -> None:
    call, facts = make_call("causal", n, d=16, h=1, dtype=torch.float16), make_facts(1, n)
    agrees(call, facts, places_pass(call, facts))


@pytest.mark.parametrize(("first", "last"), [(0, 1300), (3, 1200)])
@pytest.mark.parametrize("mask", ["full", "causal"])
def test_long_distances_take_the_unmasked_tiles(mask: str, first: int, last: int) -> None:
    """Offsets of some hundreds on either side, bins that a tile straddles, tiles before and after the diagonal's.

    Few rows against many keys, whose positions run on: the long ways of the kernel at a length the interpreter bears.
    """
    call = make_call("full", 40, 1300, d=16, h=1, dtype=torch.float16)
    if mask == "causal":
        call = replace(call, hi=torch.arange(700, 740, dtype=torch.int32, device=DEVICE)[None])
    text = make_facts(1, 1300, first=first, last=last)
    rows = slice(690, 730)
    facts = PlaceFacts(
        False, text.query_position[:, rows], text.key_position, text.query_token[:, rows], text.key_token,
        text.query_sentence[:, rows], text.key_sentence, first=text.first,
    )  # fmt: skip
    agrees(call, facts, places_pass(call, facts))


@pytest.mark.parametrize("d", [16, 32, 64, 72, 80, 96, 128, 192, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_head_width_and_type(d: int, dtype: torch.dtype) -> None:
    call, facts = make_call("causal", 33, h=1, d=d, dtype=dtype), make_facts(1, 33)
    agrees(call, facts, places_pass(call, facts))


@pytest.mark.parametrize(("first", "last"), [(0, 113), (9, 113), (0, 106), (5, 100), (7, 7)])
@pytest.mark.parametrize("images", [False, True])
def test_tokens_without_a_position_have_no_offset(first: int, last: int, images: bool) -> None:
    """Padding and the prefix of images; patches have Euclidean distances. Both may be seen by every row."""
    call, facts = make_call("full", 113, d=16, h=1), make_facts(1, 113, first=first, last=last, images=images)
    agrees(call, facts, places_pass(call, facts))


def test_cross_attention_knows_tokens_but_no_offsets() -> None:
    """No key is the query itself, so none is left out."""
    call = make_call("full", 20, 70, d=16)
    queries, keys = make_facts(1, 20), make_facts(1, 70, seed=1)
    facts = PlaceFacts(True, None, None, queries.query_token, keys.key_token)
    agrees(call, facts, places_pass(call, facts))


def test_without_facts_every_token_has_a_position() -> None:
    """The last query is at the last key, and what needs facts is absent."""
    call = make_call("causal", 20, 70, d=16)
    got = places_pass(call)
    assert (got.same_token, got.induction, got.other_sentence) == (None, None, None)
    agrees(call, PlaceFacts(), got)


def test_head_groups_and_values_of_another_width() -> None:
    call, facts = make_call("window", 65, h=4, hkv=2, d=16), make_facts(1, 65)
    call = replace(call, value=torch.randn(1, 2, 65, 24, generator=torch.Generator().manual_seed(3)).to(DEVICE))
    agrees(call, facts, places_pass(call, facts))


@pytest.mark.parametrize("name", ["all equal", "one sink", "offset"])
def test_adversarial_scores(name: str) -> None:
    call, facts = adversarial(name), make_facts(1, 65)
    call = replace(call, value=torch.ones_like(call.value))
    agrees(call, facts, places_pass(call, facts))


@pytest.mark.parametrize("options", [{"sink": True}, {"softcap": 2.0}, {"bias": True},
                                     {"sink": True, "softcap": 5.0, "bias": True}], ids=str)  # fmt: skip
def test_what_changes_the_scores(options: dict[str, float]) -> None:
    call, facts = make_call("left padding", 65, d=16, **options), make_facts(1, 65, first=9)
    agrees(call, facts, places_pass(call, facts))


def test_a_bias_of_minus_infinity_hides_the_pair() -> None:
    """Also a whole row and a whole key, whose NaN then stay out."""
    call, facts = make_call("full", 65, bias=True, d=16), make_facts(1, 65)
    assert call.bias is not None
    hidden = torch.rand(65, 65, generator=torch.Generator().manual_seed(1)) < 0.4
    hidden[7], hidden[:, 20] = True, True
    call = replace(call, bias=call.bias.masked_fill(hidden.to(DEVICE), -torch.inf))
    call = replace(call, lse=row_lse(call))
    query, key = call.query.clone(), call.key.clone()
    query[:, :, 7], key[:, :, 20] = torch.nan, torch.nan
    agrees(call, facts, places_pass(replace(call, query=query, key=key, value=key), facts))


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")  # the interpreter's maximum of a poisoned row
@pytest.mark.parametrize("bias", [False, True])
def test_nan_in_what_is_seen_surfaces_in_its_own_head(bias: bool) -> None:
    call, facts = make_call("causal", 33, h=2, hkv=2, d=16, bias=bias), make_facts(1, 33)
    for name, at in (("query", (0, 1, 20, 3)), ("key", (0, 1, 4, 3)), ("value", (0, 1, 4, 3))):
        spoilt = replace(call, **{name: getattr(call, name).clone()})
        getattr(spoilt, name)[at] = torch.nan
        got = places_pass(spoilt, facts)
        assert got.value_weight[0, 0].isfinite().all()
        assert got.value_weight[0, 1, 20].isnan()
        assert name == "value" or (got.offset is not None and got.offset[0, 1, 20].isnan())


def test_packed_sequences_are_sequences_alone() -> None:
    """Lengths 0 and 1 among them, and rows after the last that belong to none; the same bits as by themselves."""
    edges = [0, 30, 30, 31, 200]
    cu = torch.tensor(edges, dtype=torch.int32, device=DEVICE)
    call, facts = make_call("full", 203, d=16, h=1), make_facts(1, 203)
    lo, hi = packed(cu, 203)
    whole = replace(call, lo=lo, hi=hi)
    whole = replace(whole, lse=row_lse(whole))
    got = places_pass(whole, facts, cu)
    assert got.behind is not None
    assert got.ahead is not None
    together = {name: getattr(got, name).sum(0, keepdim=True) for name in ("behind", "ahead")}
    agrees(whole, facts, replace(got, **together))
    assert (got.behind[1] == 0).all()
    assert got.behind[3].sum() > 0
    assert whole.lse is not None
    part = {name: getattr(whole, name)[:, :, 31:200] for name in ("query", "key", "value", "lse")}
    token, sentence = facts.query_token[:, 31:200], facts.query_sentence[:, 31:200]
    place = line(169, 0, 169).to(DEVICE)
    alone = places_pass(
        replace(whole, **part, lo=lo[:, 31:200] - 31, hi=hi[:, 31:200] - 31),
        PlaceFacts(False, place, place, token, token, sentence, sentence),
    )
    assert alone.behind is not None
    assert torch.allclose(alone.behind[0], got.behind[3], rtol=1e-6)  # other tiles: another order of adding


def test_repeats_and_batches_give_the_same_bits() -> None:
    call, facts = make_call("causal", 65, batch=2, d=16), make_facts(2, 65)
    both, again = places_pass(call, facts), places_pass(call, facts)
    alone = replace(call, query=call.query[1:], key=call.key[1:], value=call.key[1:], lo=call.lo[1:], hi=call.hi[1:])
    one = replace(facts, **{name: x[1:] for name, x in vars(facts).items() if isinstance(x, Tensor)})
    half = places_pass(alone, one)
    for name, value in vars(both).items():
        assert torch.equal(value, getattr(again, name)), name
        assert torch.equal(value[1:], getattr(half, name)), name


@pytest.mark.filterwarnings("ignore")
def test_the_operator_and_a_compiled_caller() -> None:
    call, facts = make_call("causal", 20, h=1, d=16), make_facts(1, 20, first=1)
    given = [x for name, x in vars(facts).items() if name not in ("cross", "first")]
    torch.library.opcheck(_places, (*flat(call), False, *given, facts.first, None))
    cu = torch.tensor([0, 5, 20], dtype=torch.int32, device=DEVICE)
    torch.library.opcheck(_places, (*flat(call), True, *[None] * 9, cu))

    def caller(one: AttentionCall) -> Tensor:
        got = places_pass(one, facts)
        assert got.induction is not None
        return got.induction * 2

    compiled = torch.compile(caller, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(call), caller(call))


def test_facts_that_do_not_fit_are_refused() -> None:
    call, facts = make_call("causal", 33, d=16), make_facts(1, 33)
    with pytest.raises(ValueError, match="query_token, key_token: expected both or neither"):
        places_pass(call, replace(facts, key_token=None))
    with pytest.raises(ValueError, match=r"key_sentence: expected shape \(1, 33\), got \(1, 32\)"):
        places_pass(call, replace(facts, key_sentence=facts.key_sentence[:, 1:]))
    with pytest.raises(TypeError, match=r"query_token: expected int32, got torch\.int64"):
        places_pass(call, replace(facts, query_token=facts.query_token.long()))
    with pytest.raises(ValueError, match=r"first: expected int32 of shape \(1,\)"):
        places_pass(call, replace(facts, first=torch.zeros(2, dtype=torch.int32, device=DEVICE)))
    with pytest.raises(ValueError, match="key_position: expected positions that rise by one"):
        places_pass(call, replace(facts, key_position=facts.key_position * 2))
