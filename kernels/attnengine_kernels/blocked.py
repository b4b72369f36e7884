"""The same sums in plain torch, on any device, in fp64 where the inputs are.

What serves inputs that the compiled passes do not take: fp64, and on CUDA scans where a bias hides pairs.

A block of query rows at a time, O(L) memory per head. With lse known, p = exp(s - lse) needs no second sweep. Scores
are taken about the mean key, c q·(k - k̄), and put together with lse in fp64, so that a large common offset costs no
digits. Sums inside a block are in the inputs' precision (fp32 for half), sums over blocks fp64, in a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnengine_kernels._check import check_call
from attnengine_kernels._exact import exact_products
from attnengine_kernels._facts import Memory, Prepared
from attnengine_kernels._finish import finish
from attnengine_kernels.call import AttentionCall, HeadSums, TokenFacts
from attnengine_kernels.cpu._row import SUMS
from attnengine_kernels.cpu._scan import (
    HIGH,
    LOW,
    NEAR,
    NEAR_DISTANCE,
    NEAR_SQUARE,
    NEURON_SUMS,
    POSITIVE,
    QK,
    SHARE,
    SQUARE,
)
from attnengine_kernels.sums import PATTERN_BINS, profile_edges

BLOCK_ELEMENTS = {"cpu": 2**21, "cuda": 2**25}  # of one (h, rows, keys) array
MOST_ROWS = 256
EXTREME_ELEMENTS = 2**22  # of one (rows, keys, d) array

Sums = dict[str, Tensor]


@dataclass(frozen=True)
class Operands:
    """One call's tensors, clean of poison, in the working precision, and what the passes add to (all fp64)."""

    call: AttentionCall
    facts: Prepared
    query: Tensor  # (b, h, q, d), 0 in rows that do not count
    key: Tensor  # (b, hkv, k, d), 0 where nobody looks
    about: Tensor  # (b, hkv, k, d), keys about their mean
    centre: Tensor  # (b, h, d) fp64, the key that ``attended`` is taken about
    shift: Tensor  # (b, h, q) fp64, scale q · k̄
    value_norm: Tensor  # (b, h, k)
    unit: Tensor  # (b, hkv, k, d), keys of length 1, or 0
    named: Sums  # the names of SUMS (b, h), and Raw's other fields


def head_sums(
    call: AttentionCall,
    queries: TokenFacts,
    keys: TokenFacts,
    *,
    cross: bool = False,
    max_length: int | None = None,
    memory: Memory | None = None,
) -> HeadSums:
    """Every sum of :mod:`.sums` for one attention call, on the device and in the precision of its tensors.

    As :func:`.reference.head_sums`; ``memory`` saves the work that depends on facts and mask only. Raises ValueError
    for shapes that do not fit.
    """
    check_call(call)
    facts = (memory or Memory()).find(call, queries, keys, cross=cross, max_length=max_length)
    with exact_products():
        operands = _start(call, facts)
        _sweep(operands)
        return finish(call, facts, operands.named | {"centre": operands.centre})


def neuron_sums(call: AttentionCall, facts: Prepared) -> tuple[Tensor, Tensor]:
    """NEURON_SUMS (b, h, sums, d) and the sum of cosines (b, h), fp64, on the call's device, by products of blocks.

    Holds where a bias of -inf hides pairs too, so that nothing factors.
    """
    operands = _start(call, facts)
    _sweep(operands, pattern=False)
    return operands.named["neurons"], operands.named["cosine"]


def _start(call: AttentionCall, facts: Prepared) -> Operands:
    """Clean operands and empty sums."""
    b, h, _, d = call.query.shape
    group, device = h // call.key.shape[1], call.query.device
    dtype = torch.promote_types(torch.promote_types(call.query.dtype, call.key.dtype), torch.float32)
    seen = _on(facts.key_rows > 0, device)[:, None, :, None]  # (b, 1, k, 1)
    rows = _on(facts.seen > 0, device)[:, None, :, None]
    query = call.query.detach().to(dtype).masked_fill(~rows, 0.0)
    key = call.key.detach().to(dtype)
    key_norm = torch.linalg.vector_norm(key.double(), dim=-1)
    key_norm = key_norm.masked_fill(~_on(facts.counted_keys, device)[:, None], 0.0).sum(dim=-1)  # (b, hkv)
    key = key.masked_fill(~seen, 0.0)
    mean = key.double().sum(dim=2) / seen.sum(dim=2).clamp(min=1)  # (b, hkv, d)
    about = (key.double() - mean[:, :, None]).to(dtype).masked_fill(~seen, 0.0)
    centre = mean.repeat_interleave(group, dim=1)
    value_norm = torch.linalg.vector_norm(call.value.detach().to(dtype), dim=-1)
    value_norm = value_norm.masked_fill(~seen[..., 0], 0.0).repeat_interleave(group, dim=1)
    n_bins = len(profile_edges(facts.max_length))
    shapes = {"received": (call.key.shape[2],), "grid": (PATTERN_BINS + 1, PATTERN_BINS), "profile": (n_bins,)}
    shapes |= {"attended": (3, d), "neurons": (len(NEURON_SUMS), d), "cosine": ()} | dict.fromkeys(SUMS, ())
    named = {name: torch.zeros(b, h, *shape, dtype=torch.float64, device=device) for name, shape in shapes.items()}
    for name in ("score_min", "score_max"):
        named[name] += torch.inf if name == "score_min" else -torch.inf
    named["neurons"][:, :, LOW], named["neurons"][:, :, HIGH] = torch.inf, -torch.inf
    exact = query.double()
    named["query_totals"] = torch.stack([exact.sum(dim=2), exact.square().sum(dim=2)], dim=2)
    named["query_norm"] = torch.linalg.vector_norm(exact, dim=-1).sum(dim=-1)
    named["key_norm"] = key_norm.repeat_interleave(group, dim=1)
    shift = call.scale * (exact @ centre[..., None])[..., 0]
    unit = torch.nn.functional.normalize(key, dim=-1, eps=torch.finfo(dtype).tiny)
    return Operands(call, facts, query, key, about, centre, shift, value_norm, unit, named)


def _sweep(operands: Operands, *, pattern: bool = True) -> None:
    """All blocks in order. ``pattern`` False leaves out all but the neurons' sums."""
    facts, (h, n_query) = operands.facts, operands.query.shape[1:3]
    n_key = operands.key.shape[2]
    room = BLOCK_ELEMENTS.get(operands.query.device.type, BLOCK_ELEMENTS["cpu"])
    block = min(max(room // (h * n_key), 1), MOST_ROWS)
    for w in range(len(facts.lo)):
        for r0 in range(0, n_query, block):
            r1 = min(r0 + block, n_query)
            live = facts.seen[w, r0:r1] > 0
            if live.any():
                k0, k1 = facts.lo[w, r0:r1][live].min(), facts.hi[w, r0:r1][live].max()
                _block(operands, w, slice(r0, r1), slice(int(k0), int(k1)), pattern)


def _on(array: Any, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def _block(o: Operands, w: int, i: slice, j: slice, pattern: bool) -> None:
    """One block of rows of one window: scores, pattern, and all that is added from them."""
    (h, _, d), hkv = o.query.shape[1:], o.key.shape[1]
    device = o.query.device
    here = [_on(x[w, i], device) for x in (o.facts.lo, o.facts.hi)]
    index = torch.arange(j.start, j.stop, device=device)
    visible = (here[0][:, None] <= index) & (index < here[1][:, None])  # (r, k)
    if o.facts.hidden.size:
        visible &= ~_on(o.facts.hidden[w % len(o.facts.hidden), i, j], device)
    query, about = o.query[w, :, i], o.about[w, :, j]  # (h, r, d), (hkv, k, d)
    product = (query.reshape(hkv, -1, d) @ about.transpose(1, 2)).view(h, -1, len(index))  # (h, r, k): q · (k - k̄)
    n = visible.sum(dim=1)  # (r,)
    if pattern:
        _pattern(o, w, i, j, product, visible, n)
    _neurons(o, w, i, j, product, visible, n)


def _pattern(o: Operands, w: int, i: slice, j: slice, product: Tensor, visible: Tensor, n: Tensor) -> None:
    """What is added from scores and pattern; ``product`` (h, r, k) is q · (k - k̄), ``n`` (r,) the visible keys."""
    shift, u = o.shift[w, :, i], o.call.scale * product
    if o.call.softcap is not None or o.call.bias is not None:
        shift, u = _transformed(o.call, w, i, j, shift, u, visible, n)
    _scores(o, w, u, shift, visible, n)
    rest = _rest(o.call, w, i, u, shift, visible).to(u.dtype)  # (h, r): shift - lse
    t = (u + rest[..., None]).masked_fill(~visible, -torch.inf)
    top = t.amax(dim=-1).masked_fill(n == 0, 0.0)  # (h, r)
    e = torch.exp(t - top[..., None])  # p without its row's common factor, which may underflow beside a sink
    _distribution(o, w, e, t, top, n)
    _attended(o, w, i, j, e)
    p_sink = _p_sink(o.call, shift, rest)  # (h, r)
    defect = ((e.sum(-1) * torch.exp(top)).double() + p_sink - 1).abs().masked_fill(n == 0, 0.0)
    o.named["learned_sink_mass"][w] += p_sink.masked_fill(n == 0, 0.0).sum(dim=-1)
    o.named["mass_defect_mean"][w] += defect.sum(dim=-1)
    o.named["mass_defect_max"][w] = torch.maximum(o.named["mass_defect_max"][w], defect.amax(dim=-1))
    _places(o, w, i, j, e, torch.exp(top), visible)


def _transformed(
    call: AttentionCall, w: int, i: slice, j: slice, shift: Tensor, u: Tensor, visible: Tensor, n: Tensor
) -> tuple[Tensor, Tensor]:
    """Soft-cap and bias applied; the row's mean score becomes its shift."""
    score = u.double() + shift[..., None]
    if call.softcap is not None:
        score = call.softcap * torch.tanh(score / call.softcap)
    if call.bias is not None:
        score = score + call.bias[w % call.bias.shape[0], :, i, j].double()
    mean = score.masked_fill(~visible, 0.0).sum(dim=-1) / n.clamp(min=1)  # (h, r)
    return mean, (score - mean[..., None]).masked_fill(~visible, 0.0).to(u.dtype)


def _rest(call: AttentionCall, w: int, i: slice, u: Tensor, shift: Tensor, visible: Tensor) -> Tensor:
    """The rows' shift - lse (h, r) fp64, with the call's own lse or one made here; 0 in rows that see nothing."""
    if call.lse is not None:
        rest = shift - call.lse[w, :, i].double()
    else:
        lse = torch.logsumexp(u.masked_fill(~visible, -torch.inf).double(), dim=-1)  # about the shift
        if call.sink is not None:
            lse = torch.logaddexp(lse, call.sink.double()[:, None] - shift)
        rest = -lse
    return rest.masked_fill(~visible.any(dim=1), 0.0)


def _p_sink(call: AttentionCall, shift: Tensor, rest: Tensor) -> Tensor:
    if call.sink is None:
        return torch.zeros_like(shift)
    return torch.exp(call.sink.double()[:, None] - shift + rest)


def _scores(o: Operands, w: int, u: Tensor, shift: Tensor, visible: Tensor, n: Tensor) -> None:
    inside = u.masked_fill(~visible, 0.0).double()
    total, count = inside.sum(dim=-1), n.clamp(min=1)
    mean = (shift + total / count).masked_fill(n == 0, 0.0)  # (h, r)
    o.named["score_mean"][w] += (n * mean).sum(dim=-1)
    o.named["score_m2_within"][w] += (inside.square().sum(dim=-1) - total.square() / count).sum(dim=-1)
    o.named["score_m2_between"][w] += (n * mean.square()).sum(dim=-1)
    low = shift + u.masked_fill(~visible, torch.inf).amin(dim=-1).double()
    high = shift + u.masked_fill(~visible, -torch.inf).amax(dim=-1).double()
    o.named["score_min"][w] = torch.minimum(o.named["score_min"][w], low.amin(dim=-1))
    o.named["score_max"][w] = torch.maximum(o.named["score_max"][w], high.amax(dim=-1))


def _distribution(o: Operands, w: int, e: Tensor, t: Tensor, top: Tensor, n: Tensor) -> None:
    total = e.sum(dim=-1)  # (h, r), at least 1 in rows that see a key
    surprise = (e * (t - top[..., None]).masked_fill(e == 0, 0.0)).sum(dim=-1)
    entropy = (torch.log(total) - surprise / total).double().clamp(min=0).masked_fill(n == 0, 0.0)
    o.named["entropy"][w] += entropy.sum(dim=-1)
    o.named["entropy_normalized"][w] += (entropy / n.clamp(min=2).log()).masked_fill(n < 2, 0.0).sum(dim=-1)
    o.named["p_max"][w] += (1 / total).double().masked_fill(n == 0, 0.0).sum(dim=-1)


def _attended(o: Operands, w: int, i: slice, j: slice, e: Tensor) -> None:
    (h, n_rows), d = e.shape[:2], o.query.shape[3]
    about = o.about[w, :, j]  # (hkv, k, d)
    both = torch.cat([about, about.square()], dim=-1)
    attended = (e.reshape(len(about), -1, e.shape[2]) @ both).view(h, n_rows, 2 * d)
    attended = attended / e.sum(dim=-1, keepdim=True).clamp(min=1)  # a row that sees a key sums to 1 or more
    ak, ak2, q = attended[..., :d].double(), attended[..., d:].double(), o.query[w, :, i].double()
    o.named["attended"][w] += torch.stack([(q * ak).sum(1), (q * q * ak2).sum(1), (q * q * ak).sum(1)], dim=1)


def _places(o: Operands, w: int, i: slice, j: slice, e: Tensor, factor: Tensor, visible: Tensor) -> None:
    """Everything about where p lies: keys, bins, offsets, groups, values. p = e · factor."""
    facts, device = o.facts, e.device
    p = e * factor[..., None]
    received = p.sum(dim=1).double()  # (h, k)
    o.named["received"][w, :, j] += received
    bins = torch.arange(PATTERN_BINS + 1, device=device)
    query_bin = (_on(facts.query_bin[w, i], device)[:, None] == bins).to(p.dtype)  # (r, 33)
    edges = _on(facts.key_edges[w], device)
    index = torch.arange(j.start, j.stop, device=device)
    key_bin = ((edges[:-1] <= index[:, None]) & (index[:, None] < edges[1:])).double()  # (k, 32)
    o.named["grid"][w] += (query_bin.T @ p).double() @ key_bin
    weighted = e * o.value_norm[w, :, None, j]  # (h, r, k)
    denominator = weighted.sum(dim=-1).double()
    used = ~(denominator <= 0)  # NaN stays in
    o.named["value_weighted_first_mass_n"][w] += used.sum(dim=-1)
    first = int(facts.first[w]) - j.start
    if 0 <= first < len(index):
        share = weighted[..., first].double() / denominator
        o.named["value_weighted_first_mass"][w] += share.masked_fill(~used, 0.0).sum(dim=-1)
    for name, members in _groups(o, w, i, j).items():
        o.named[name][w] += (p * (members & visible)).sum(dim=-1).double().sum(dim=-1)
    if not facts.cross:
        placed, offset, distance = _offsets(o, w, i, j, visible)
        near = e * placed
        total = near.sum(dim=-1).clamp(min=torch.finfo(e.dtype).tiny)
        o.named["offset_mean"][w] += ((near * offset).sum(dim=-1) / total).double().sum(dim=-1)
        o.named["distance_mean"][w] += ((near * distance).sum(dim=-1) / total).double().sum(dim=-1)
        _profile(o, w, i, j, p * placed)


def _groups(o: Operands, w: int, i: slice, j: slice) -> dict[str, Tensor]:
    """(r, k) bool: keys of the same token, after the same token, of the same sentence, as the definitions say."""
    queries, keys, cross, device = o.facts.queries, o.facts.keys, o.facts.cross, o.query.device
    real = keys.real[w].to(device)
    offset = queries.position[w, i].to(device)[:, None] - keys.position[w, j].to(device)
    has_place = (queries.position[w, i].to(device)[:, None] >= 0) & (keys.position[w, j].to(device) >= 0)
    own = has_place & (offset == 0) & (not cross)
    following = has_place & (offset == -1) & (not cross)
    groups = {}
    if queries.token_id is not None and keys.token_id is not None:
        mine, theirs = queries.token_id[w, i].to(device)[:, None], keys.token_id[w].to(device)
        before, follows = torch.roll(theirs, 1), real & torch.roll(real, 1)
        follows[0] = False
        groups["same_token_mass"] = (mine == theirs[j]) & real[j] & ~own
        groups["induction_mass"] = (mine == before[j]) & follows[j] & ~own & ~following
    if queries.sentence is not None and keys.sentence is not None and not cross:
        mine, theirs = queries.sentence[w, i].to(device)[:, None], keys.sentence[w, j].to(device)
        # To a row in no sentence no key is in another one.
        groups["same_sentence"] = ((mine == theirs) | (mine < 0)) & (theirs >= 0) & real[j]
    return groups


def _offsets(o: Operands, w: int, i: slice, j: slice, visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(r, k): pairs with an offset, i - j, distance; the last two in the working precision."""
    device, dtype = visible.device, o.query.dtype
    query, key = o.facts.queries.position[w, i].to(device), o.facts.keys.position[w, j].to(device)
    placed = visible & (query >= 0)[:, None] & (key >= 0)
    offset = (query[:, None] - key).to(dtype)
    distance = offset.abs()
    if o.facts.queries.patch is not None and o.facts.keys.patch is not None:
        step = o.facts.queries.patch[w, i].to(device)[:, None] - o.facts.keys.patch[w, j].to(device)
        distance = torch.linalg.vector_norm(step.to(dtype), dim=-1)
    return placed, offset, distance


def _profile(o: Operands, w: int, i: slice, j: slice, p: Tensor) -> None:
    """Diagonal sums by skewing: rows padded to width k + r and read back one element shorter line up diagonals."""
    h, r, k = p.shape
    width = k + r - 1
    skewed = torch.nn.functional.pad(p.flip(1), (0, r)).flatten(1)[:, : r * width].view(h, r, width)
    diagonal = skewed.sum(dim=1).double()  # (h, width): column x holds key - row = x - (r - 1), both in the block
    facts = o.facts
    placed = np.flatnonzero(facts.position[w, i] >= 0)
    if len(placed) == 0:
        return
    query_shift = int(facts.position[w, i][placed[0]]) - (i.start + int(placed[0]))  # position - index
    last = max(int(facts.position.max()), 0)
    x = np.arange(width) - (r - 1) - (i.start - j.start + query_shift + int(facts.key_shift[w])) + last
    bins = facts.offset_bin[np.clip(x, 0, len(facts.offset_bin) - 1)]  # beyond the ends nothing has a position
    one_hot = torch.nn.functional.one_hot(_on(bins, p.device), o.named["profile"].shape[2]).double()
    o.named["profile"][w] += diagonal @ one_hot  # a product, not scattered adds: those have no order on a GPU


def _neurons(o: Operands, w: int, i: slice, j: slice, product: Tensor, visible: Tensor, n: Tensor) -> None:
    """Moments of q_id k_jd by products of the 0/1 visibility with the keys; ``product`` (h, r, k) is q · (k - k̄)."""
    h, hkv = o.query.shape[1], o.key.shape[1]
    query, key, about = o.query[w, :, i].double(), o.key[w, :, j], o.about[w, :, j]  # (h, r, d), (hkv, k, d) twice
    see = visible.to(key.dtype)  # (r, k)

    def spread(x: Tensor) -> Tensor:  # (hkv, r, d) -> (h, r, d)
        return x.repeat_interleave(h // hkv, dim=0).double()

    out = o.named["neurons"][w]  # (h, sums, d)
    inside, count = product * see, n.clamp(min=1)[:, None]
    second = (inside.view(hkv, -1, len(key[0])) @ about).view(query.shape).double()  # Σ_j k (k · q), (h, r, d)
    mean_part = inside.sum(dim=-1, keepdim=True).double() / count * spread(see @ about) / count
    out[:, SHARE] += (query * (second / count - mean_part)).sum(dim=1)
    length = torch.linalg.vector_norm(query, dim=-1)
    cosine = (query * spread(see @ o.unit[w, :, j])).sum(dim=-1) / length.masked_fill(length == 0, 1.0)
    o.named["cosine"][w] += cosine.sum(dim=-1)
    centre = o.centre[w][:, None]  # (h, 1, d)

    def moments(weight: Tensor) -> tuple[Tensor, Tensor]:  # Σ w q k, Σ w (q k)², (h, d), k put together in fp64
        number = weight.sum(dim=1, dtype=torch.float64)[:, None]  # (r, 1)
        first, square = spread(weight @ about), spread(weight @ about.square())
        square = square + 2 * centre * first + number * centre.square()
        return (query * (first + number * centre)).sum(dim=1), (query.square() * square).sum(dim=1)

    if not o.facts.cross:
        placed, _, distance = _offsets(o, w, i, j, visible)
        near = placed.to(key.dtype)
        first, square = moments(near)
        out[:, NEAR] += first
        out[:, NEAR_SQUARE] += square
        far = (near * distance).sum(dim=1, dtype=torch.float64)[:, None]
        out[:, NEAR_DISTANCE] += (query * (spread((near * distance) @ about) + far * centre)).sum(dim=1)
    first, square = moments(see)
    out[:, QK] += first
    out[:, SQUARE] += square
    more, less = spread(see @ (key > 0).to(key.dtype)), spread(see @ (key < 0).to(key.dtype))
    out[:, POSITIVE] += (more * (query > 0) + less * (query < 0)).sum(dim=1)
    low, high = (spread(x) for x in _extremes(key, visible))
    a, b = query * low, query * high
    unseen = (n == 0)[:, None]
    below = torch.minimum(a, b).masked_fill(unseen, torch.inf).amin(dim=1)
    above = torch.maximum(a, b).masked_fill(unseen, -torch.inf).amax(dim=1)
    out[:, LOW], out[:, HIGH] = torch.minimum(out[:, LOW], below), torch.maximum(out[:, HIGH], above)


def _extremes(key: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest visible key per row, (hkv, r, d); a few keys at a time."""
    hkv, k, d = key.shape
    r = len(visible)
    low, high = (key.new_full((hkv, r, d), value) for value in (torch.inf, -torch.inf))
    step = max(EXTREME_ELEMENTS // (hkv * r * d), 1)
    for part in range(0, k, step):
        hidden = ~visible[None, :, part : part + step, None]  # (1, r, step, 1)
        some = key[:, None, part : part + step]  # (hkv, 1, step, d)
        low = torch.minimum(low, torch.where(hidden, torch.inf, some).amin(dim=2))
        high = torch.maximum(high, torch.where(hidden, -torch.inf, some).amax(dim=2))
    some_key = visible.any(dim=1)[:, None]  # rows that see none would give 0 · inf
    return low.where(some_key, 0.0), high.where(some_key, 0.0)
