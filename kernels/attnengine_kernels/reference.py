"""The specification: every statistic in plain fp64 PyTorch, written from its definition, O(L² D).

One head of one window at a time, every L×L matrix and every element-wise product x_ijd = q_id k_jd spelled out.
Nothing here is fast; the other paths are tested against it. Names and shapes of the result: :mod:`.sums`.
Statistics of attention heads follow Clark et al. 2019 (arXiv 1906.04341), Vig & Belinkov 2019 (1906.04284) and
Elhage et al. 2021; learned sinks as in GPT-OSS.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from attnengine_kernels._check import check_call, check_facts, check_length, hidden_pairs
from attnengine_kernels.call import AttentionCall, HeadSums, TokenFacts
from attnengine_kernels.sums import PATTERN_BINS, RECEIVED_MIN_ROWS, profile_edges


class Pattern(NamedTuple):
    """What attention does, in fp64: p = exp(score - lse) over the visible keys."""

    p: Tensor  # (b, h, q, k); 0 where hidden
    score: Tensor  # (b, h, q, k); -inf where hidden
    visible: Tensor  # (b, q, k) bool
    lse: Tensor  # (b, h, q); the call's own where it has one, else with the sink; -inf where a row sees nothing


class _Window(NamedTuple):
    """What the token facts say about the pairs of one window; the same for all heads."""

    rows: Tensor  # (q,) bool: counted rows that see a key
    visible: Tensor  # (q, k) bool, False outside ``rows``
    placed: Tensor  # (q, k) bool: visible, and both sides have a position
    offset: Tensor  # (q, k) fp64, i - j
    distance: Tensor  # (q, k) fp64
    targets: dict[str, Tensor]  # mass name -> (q, k) bool, visible targets
    real_keys: Tensor  # (k,) bool
    counted_keys: Tensor  # (k,) bool
    query_bin: Tensor  # (q,) int64 in 0..31, -1 without position
    key_bin: Tensor  # (k,) int64
    cross: bool


def pattern(call: AttentionCall) -> Pattern:
    """Scores, pattern, visibility and lse of a call, dense and in fp64 on the CPU.

    Raises ValueError for tensors that do not fit together.
    """
    check_call(call)
    group = call.query.shape[1] // call.key.shape[1]
    query = call.query.detach().cpu().double()  # (b, h, q, d)
    key = call.key.detach().cpu().double().repeat_interleave(group, dim=1)  # (b, h, k, d)
    score = call.scale * query @ key.transpose(-1, -2)  # (b, h, q, k)
    if call.softcap is not None:
        score = call.softcap * torch.tanh(score / call.softcap)
    j = torch.arange(key.shape[2])
    visible = (call.lo.cpu()[:, :, None] <= j) & (j < call.hi.cpu()[:, :, None])  # (b, q, k)
    if call.bias is not None:
        score = score + call.bias.detach().cpu().double()
        hidden = hidden_pairs(call.bias.detach().cpu())
        visible = visible if hidden is None else visible & ~hidden
    score = score.masked_fill(~visible[:, None], -torch.inf)
    lse = _lse(score, call) if call.lse is None else call.lse.detach().cpu().double()
    p = torch.exp(score - lse[..., None]).masked_fill(~visible[:, None], 0.0)
    return Pattern(p, score, visible, lse)


def _lse(score: Tensor, call: AttentionCall) -> Tensor:
    if call.sink is None:
        return torch.logsumexp(score, dim=-1)  # (b, h, q)
    sink = call.sink.detach().cpu().double()[None, :, None].expand(score.shape[:3])
    return torch.logaddexp(torch.logsumexp(score, dim=-1), sink)


def head_sums(
    call: AttentionCall,
    queries: TokenFacts,
    keys: TokenFacts,
    *,
    cross: bool = False,
    max_length: int | None = None,
) -> HeadSums:
    """Every sum of :mod:`.sums` for one attention call.

    ``queries`` and ``keys`` are the facts of the tokens on either side (the same object in self-attention), ``cross``
    says that they are two different streams, ``max_length`` fixes the profile's bins (default: the longer side).
    Returns name -> fp64 CPU tensor, one row per window. Raises ValueError for shapes that do not fit.
    """
    b, h, n_query, _ = call.query.shape
    n_key = call.key.shape[2]
    check_call(call)
    check_facts(queries, "queries", b, n_query)
    check_facts(keys, "keys", b, n_key)
    edges = profile_edges(max_length or max(n_query, n_key))
    if not cross:
        check_length(queries, keys, max_length or max(n_query, n_key))
    dense = pattern(call)
    group = h // call.key.shape[1]
    windows = []
    for w in range(b):
        facts = _window(queries, keys, w, dense.visible[w], cross)
        heads = []
        for head in range(h):
            seen = facts.visible.any(dim=0)[:, None]  # poison in keys that nobody sees must not turn 0 · NaN into NaN
            k = call.key[w, head // group].detach().cpu().double()
            v = call.value[w, head // group].detach().cpu().double().masked_fill(~seen, 0.0)
            q = call.query[w, head].detach().cpu().double().masked_fill(~facts.rows[:, None], 0.0)
            p = dense.p[w, head].masked_fill(~facts.visible, 0.0)
            score = dense.score[w, head]
            sums = _distribution(p, facts)
            sums |= _masses(p, v, facts)
            sums |= _sink(p, None if call.sink is None else call.sink[head], dense.lse[w, head], facts)
            sums |= _scores(score, q, k, facts)
            sums |= _neurons(p, q, k.masked_fill(~seen, 0.0), call.scale, facts)
            sums |= _profiles(p, facts, edges)
            heads.append(sums)
        counts = _counts(queries, w, facts, edges)
        windows.append({name: torch.stack([one[name] for one in heads]) for name in heads[0]} | counts)
    return {name: torch.stack([one[name] for one in windows]) for name in windows[0]}


def _window(queries: TokenFacts, keys: TokenFacts, w: int, visible: Tensor, cross: bool) -> _Window:
    counted = queries.counted[w].cpu()
    visible = visible & counted[:, None]
    i, j = queries.position[w].cpu().double(), keys.position[w].cpu().double()
    offset = i[:, None] - j[None, :]
    distance = offset.abs()
    if queries.patch is not None and keys.patch is not None:
        step = queries.patch[w].cpu().double()[:, None] - keys.patch[w].cpu().double()[None, :]  # (q, k, 2)
        distance = step.square().sum(dim=-1).sqrt()
    placed = visible & (i >= 0)[:, None] & (j >= 0)[None, :]
    return _Window(
        rows=visible.any(dim=1),
        visible=visible,
        placed=placed,
        offset=offset,
        distance=distance,
        targets=_targets(queries, keys, w, visible, placed, offset, cross),
        real_keys=keys.real[w].cpu(),
        counted_keys=keys.counted[w].cpu(),
        query_bin=_relative_bin(queries.position[w].cpu()),
        key_bin=_relative_bin(keys.position[w].cpu()),
        cross=cross,
    )


def _targets(
    queries: TokenFacts, keys: TokenFacts, w: int, visible: Tensor, placed: Tensor, offset: Tensor, cross: bool
) -> dict[str, Tensor]:
    """The visible target keys of every row, for each mass (q, k)."""
    real = keys.real[w].cpu()
    targets = {f"{name}_mass": visible & (flags[w].cpu() & real)[None, :] for name, flags in keys.classes.items()}
    if not cross:
        targets["self_mass"] = placed & (offset == 0)
        targets["previous_mass"] = placed & (offset == 1)
        targets["next_mass"] = placed & (offset == -1)
    if queries.token_id is not None and keys.token_id is not None:
        mine, theirs = queries.token_id[w].cpu(), keys.token_id[w].cpu()
        before = torch.roll(theirs, 1)  # token[j - 1]
        has_before = real & torch.roll(real, 1)
        has_before[:1] = False
        # In cross-attention i and j count different tokens, so no key is left out for being the query itself.
        itself = placed & (offset == 0) & (not cross)
        following = placed & (offset == -1) & (not cross)
        targets["same_token_mass"] = visible & real & (mine[:, None] == theirs) & ~itself
        targets["induction_mass"] = visible & has_before & (mine[:, None] == before) & ~itself & ~following
    if queries.sentence is not None and keys.sentence is not None and not cross:
        mine, theirs = queries.sentence[w].cpu()[:, None], keys.sentence[w].cpu()
        targets["cross_sentence_mass"] = visible & real & (mine != theirs) & (mine >= 0) & (theirs >= 0)
    return targets


def _relative_bin(position: Tensor) -> Tensor:
    """floor(32 i / n), n the number of positions of the window (its last position + 1); -1 without a position."""
    n = max(int(position.max()) + 1, 1) if len(position) else 1
    return torch.where(position >= 0, PATTERN_BINS * position.long() // n, -1)


def _number(count: Tensor) -> Tensor:
    return count.sum().double()


def _distribution(p: Tensor, facts: _Window) -> HeadSums:
    """Entropy, p_max and mean offsets, all of p renormalised over the keys."""
    rows = facts.rows
    p_hat = p[rows] / p[rows].sum(dim=-1, keepdim=True)  # (rows, k)
    seen = facts.visible[rows].sum(dim=-1).double()  # (rows,)
    surprise = torch.where(p_hat == 0, 0.0, -p_hat * torch.log(p_hat))
    entropy = surprise.sum(dim=-1)
    many = seen >= 2
    sums = {
        "entropy": entropy.sum(),
        "entropy_n": _number(rows),
        "entropy_normalized": (entropy[many] / torch.log(seen[many])).sum(),
        "entropy_normalized_n": _number(many),
        "p_max": p_hat.amax(dim=-1).sum() if p_hat.numel() else p.sum(),
        "p_max_n": _number(rows),
    }
    if not facts.cross:
        somewhere = facts.placed.any(dim=-1)
        p_placed = torch.where(facts.placed, p, 0.0)[somewhere]
        total = p_placed.sum(dim=-1, keepdim=True)
        p_placed = torch.where(total == 0, 0.0, p_placed / total)  # all of it may underflow onto prefix tokens
        for name, value in (("offset_mean", facts.offset), ("distance_mean", facts.distance)):
            sums[name] = (p_placed * value[somewhere]).sum()
            sums[f"{name}_n"] = _number(somewhere)
    return sums


def _masses(p: Tensor, v: Tensor, facts: _Window) -> HeadSums:
    """Masses on targets, attention received and its Gini coefficient, the first key's share of |value|."""
    sums = {}
    for name, target in facts.targets.items():
        sums[name] = p[target].sum() + 0.0 * p.sum()  # 0 · NaN: a poisoned head has no valid mass
        sums[f"{name}_n"] = _number(target.any(dim=-1))
    fair = _fair(facts)
    enough = facts.real_keys & (facts.visible.sum(dim=0) >= RECEIVED_MIN_ROWS)
    sums["received"] = p.sum(dim=0)  # (k,)
    relative = sums["received"][enough] / fair.sum(dim=0)[enough]
    sums["received_gini"] = _gini(relative) * len(relative)
    sums["received_gini_n"] = _number(enough)
    norm = v.norm(dim=-1)  # (k,)
    total = (p * norm).sum(dim=-1)  # (q,)
    used = facts.rows & ~(total <= 0)  # written so that NaN stays in
    first = int(facts.real_keys.to(torch.int8).argmax()) if facts.real_keys.any() else 0
    share = p[:, first] * norm[first] / total if p.shape[1] else total
    sums["value_weighted_first_mass"] = share[used].sum()
    sums["value_weighted_first_mass_n"] = _number(used)
    return sums


def _fair(facts: _Window) -> Tensor:
    """1[j visible to i] / n_i (q, k): the pattern of a head that does not choose."""
    return facts.visible.double() / facts.visible.sum(dim=-1, keepdim=True).clamp(min=1)


def _gini(values: Tensor) -> Tensor:
    """Σ_ij |a_i - a_j| / (2 n Σ a): 0 if all are equal (or zero), towards 1 if one has everything."""
    total = values.sum()
    if len(values) == 0 or total == 0:
        return total
    return (values[:, None] - values[None, :]).abs().sum() / (2 * len(values) * total)


def _sink(p: Tensor, sink: Tensor | None, lse: Tensor, facts: _Window) -> HeadSums:
    total = p.sum(dim=-1)[facts.rows]
    sums = {}
    if sink is not None:
        p_sink = torch.exp(sink.detach().cpu().double() - lse[facts.rows])
        sums = {"learned_sink_mass": p_sink.sum(), "learned_sink_mass_n": _number(facts.rows)}
        total = total + p_sink
    defect = (total - 1).abs()
    sums["mass_defect_mean"] = defect.sum()
    sums["mass_defect_mean_n"] = _number(facts.rows)
    sums["mass_defect_max"] = defect.amax() if len(defect) else defect.sum()
    return sums


def _scores(score: Tensor, q: Tensor, k: Tensor, facts: _Window) -> HeadSums:
    """Scores over the visible pairs; norms; cosines."""
    s = score[facts.visible]  # (pairs,)
    pairs, rows = facts.visible.sum().double(), _number(facts.rows)
    seen = facts.visible.any(dim=0)
    clean = k.masked_fill(~seen[:, None], 0.0)
    lengths = q.norm(dim=-1)[:, None] * clean.norm(dim=-1)[None, :]  # (q, k)
    cosine = torch.where(lengths == 0, 0.0, q @ clean.T / lengths)
    return {
        "score_mean": s.sum(),
        "score_mean_n": pairs,
        "score_m2": _m2(s),
        "score_min": s.amin() if len(s) else torch.tensor(torch.inf, dtype=torch.float64),
        "score_max": s.amax() if len(s) else torch.tensor(-torch.inf, dtype=torch.float64),
        "query_norm": q.norm(dim=-1)[facts.rows].sum(),
        "query_norm_n": rows,
        "key_norm": k.norm(dim=-1)[facts.counted_keys].sum(),
        "key_norm_n": _number(facts.counted_keys),
        "qk_cosine": cosine[facts.visible].sum(),
        "qk_cosine_n": pairs,
    }


def _m2(x: Tensor) -> Tensor:
    """Σ (x - mean x)² over the first axis."""
    return (x - x.mean(dim=0)).square().sum(dim=0) if len(x) else x.sum(dim=0)


def _neurons(p: Tensor, q: Tensor, k: Tensor, scale: float, facts: _Window) -> HeadSums:
    """Moments of x_ijd = q_id k_jd over visible pairs, over the pattern, with the score, with distance."""
    x = q[:, None, :] * k[None, :, :]  # (q, k, d)
    pairs = x[facts.visible]  # (pairs, d)
    d = q.shape[1]
    rows = _number(facts.rows)
    p_hat = torch.where(facts.rows[:, None], p / p.sum(dim=-1, keepdim=True), 0.0)[..., None]  # (q, k, 1)
    attended = (p_hat * x).sum(dim=(0, 1))
    centre = attended / rows.clamp(min=1)
    visible = facts.visible[..., None]  # (q, k, 1)
    n = visible.sum(dim=1, keepdim=True).clamp(min=1)  # (q, 1, 1)
    x_row = torch.where(visible, x - (x * visible).sum(dim=1, keepdim=True) / n, 0.0)  # about the row's mean
    s_row = scale * x_row.sum(dim=-1, keepdim=True)  # the score without bias and cap, about the row's mean
    sums = {
        "qk": pairs.sum(dim=0),
        "qk_m2": _m2(pairs),
        "qk_min": pairs.amin(dim=0) if len(pairs) else torch.full((d,), torch.inf, dtype=torch.float64),
        "qk_max": pairs.amax(dim=0) if len(pairs) else torch.full((d,), -torch.inf, dtype=torch.float64),
        "qk_positive": torch.where(pairs.isnan(), pairs, (pairs > 0).double()).sum(dim=0),
        "qk_attended": attended,
        "qk_attended_m2": (p_hat * (x - centre).square()).sum(dim=(0, 1)),
        "share": scale * (x_row * s_row / n).sum(dim=(0, 1)),
        "share_n": (s_row.square() / n).sum(),
    }
    if not facts.cross:
        near, delta = x[facts.placed], facts.distance[facts.placed]
        centred = delta - delta.mean() if len(delta) else delta
        sums["distance_qk"] = near.sum(dim=0)
        sums["distance_qk_m2"] = _m2(near)
        sums["distance_qk_co"] = (near * centred[:, None]).sum(dim=0)  # Σ (x - x̄)(δ - δ̄) = Σ x (δ - δ̄)
    return sums


def _profiles(p: Tensor, facts: _Window, edges: list[tuple[int, int]]) -> HeadSums:
    """Mass by signed offset and by relative position bins."""
    grid = torch.zeros(PATTERN_BINS, PATTERN_BINS, dtype=torch.float64)
    i, j = torch.nonzero(facts.visible & (facts.query_bin >= 0)[:, None] & (facts.key_bin >= 0), as_tuple=True)
    grid.index_put_((facts.query_bin[i], facts.key_bin[j]), p[i, j], accumulate=True)
    if facts.cross:
        return {"pattern": grid}
    bins = [p[facts.placed & (lo <= facts.offset) & (facts.offset < hi)].sum() for lo, hi in edges]
    return {"pattern": grid, "profile": torch.stack(bins)}


def _counts(queries: TokenFacts, w: int, facts: _Window, edges: list[tuple[int, int]]) -> HeadSums:
    bins = [_number(facts.rows & (facts.query_bin == one)) for one in range(PATTERN_BINS)]
    counts = {
        "n_queries": _number(facts.rows),
        "n_pairs": facts.visible.sum().double(),
        "n_empty_rows": _number(queries.counted[w].cpu() & ~facts.rows),
        "n_keys": _number(facts.counted_keys),
        "pattern_n": torch.stack(bins),
        "received_fair": _fair(facts).sum(dim=0),
    }
    if not facts.cross:
        delta = facts.distance[facts.placed]
        counts["distance_pairs"] = _number(facts.placed)
        counts["distance_sum"] = delta.sum()
        counts["distance_m2"] = _m2(delta)
        in_bin = [facts.placed & (lo <= facts.offset) & (facts.offset < hi) for lo, hi in edges]
        counts["profile_n"] = torch.stack([_number(one.any(dim=-1)) for one in in_bin])
    return counts
