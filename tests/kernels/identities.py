"""What must hold of every call, whatever its numbers: the passes are each other's oracles.

Each pass reaches its sums in its own way (rows, columns, diagonals, chunk states, online or with a known lse), so an
identity between two of them fails if either is wrong, and needs no reference. The product pass spells out every product
of some rows, from which fp64 makes what the other passes say of these rows.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu.band import band_pass
from attnengine_kernels.gpu.columns import column_pass
from attnengine_kernels.gpu.distances import distance_pass
from attnengine_kernels.gpu.fused import FusedStats, fused_attention
from attnengine_kernels.gpu.histograms import ScoreHistogram, joint_histograms, score_histograms
from attnengine_kernels.gpu.pairs import cosine_sums
from attnengine_kernels.gpu.places import PlaceFacts, places_pass
from attnengine_kernels.gpu.product import Products, product_pass
from attnengine_kernels.gpu.rows import RowStats, row_pass
from attnengine_kernels.gpu.scans import scan_pass
from attnengine_kernels.gpu.share import share_pass
from attnengine_kernels.gpu.top_keys import top_keys
from attnengine_kernels.sums import LIMIT_ATTENDED_BF16, LIMIT_ATTENDED_FP32, LIMIT_ENTROPY, LIMIT_MASS
from tests.kernels.calls import DEVICE
from tests.kernels.properties import DIMS, JOINT_DIMS, by_window, chosen_rows, features_of, last_dims

TOP = 12  # all the keys of early rows and of short windows, and less than those of late rows


def per_query_head(call: AttentionCall, x: Tensor) -> Tensor:
    """(b, hkv, …) repeated to (b, h, …), fp64."""
    return x.double().repeat_interleave(call.query.shape[1] // call.key.shape[1], 1)


def seen_values(call: AttentionCall, x: Tensor) -> Tensor:
    """``x`` (b, hkv, k, …) fp64 per query head, zeros at keys that no row sees."""
    j = torch.arange(call.key.shape[2], device=call.lo.device)
    seen = ((call.lo[..., None] <= j) & (j < call.hi[..., None])).any(dim=1)[:, None, :, None]
    return torch.where(seen, per_query_head(call, x), 0.0)


def attended_limit(call: AttentionCall) -> float:
    """What A K and the output may be off by, relative to the largest key or value."""
    return LIMIT_ATTENDED_FP32 if call.query.dtype == torch.float32 else LIMIT_ATTENDED_BF16


def near(name: str, got: Tensor, expected: Tensor, limit: float | Tensor) -> None:
    """Assert that two tensors agree; NaN agrees with nothing."""
    off = (got.double() - expected.double()).abs()
    assert bool((off <= limit).all()), f"{name}: off by {float(off.max()):.2e}, limit {limit}"


def rows_hold(call: AttentionCall, row: RowStats) -> None:
    """Identities within the row pass."""
    some, n = row.visible > 0, row.visible.double().clamp(min=1)
    near("Σ p + p_sink = 1", row.mass_defect, torch.zeros_like(row.mass_defect), LIMIT_MASS)
    assert row.masses is not None
    near("the ones column is the row sum", row.masses[..., 0], row.row_sum, LIMIT_MASS)
    assert bool((row.entropy >= -LIMIT_ENTROPY).all())
    assert bool((row.entropy <= n.log() + LIMIT_ENTROPY).all()), "no distribution over n keys has more than log n nats"
    assert bool((row.p_max[some] >= 1 / n[some] - LIMIT_MASS).all())
    assert bool((row.entropy[some] >= -row.p_max[some].double().log() - LIMIT_ENTROPY).all()), "H >= -log p_max"
    if call.sink is None:
        expected = torch.where(some, torch.exp(row.score_max.double() - row.lse.double()), 0.0)
        near("p_max = exp(s_max - lse)", row.p_max, expected, LIMIT_MASS)
    if call.sink is None and call.bias is None and call.softcap is None and row.ak is not None:
        dot = call.scale * (call.query.double() * row.ak.double()).sum(-1)
        # of A K's error, what the query makes of it
        spread = attended_limit(call) * call.key.abs().max() * call.query.abs().sum(-1).double() * call.scale
        near("H = lse - c q·AK", row.entropy, torch.where(some, row.lse.double() - dot, 0.0), LIMIT_ENTROPY + spread)


def fused_holds(call: AttentionCall, fused: FusedStats, row: RowStats) -> None:
    """The online forward and the known-lse pass are two ways to the same sums."""
    some = row.visible > 0
    for name, limit in (("entropy", LIMIT_ENTROPY), ("p_max", LIMIT_MASS), ("row_sum", LIMIT_MASS)):
        near(name, getattr(fused, name), getattr(row, name), limit)
    assert torch.equal(fused.visible, row.visible)
    near("lse", fused.lse[some], row.lse[some], LIMIT_MASS)
    near("mass defect", fused.mass_defect, torch.zeros_like(fused.mass_defect), LIMIT_MASS)
    assert fused.masses is not None
    assert row.masses is not None
    near("masses", fused.masses, row.masses, 16 * 2 * LIMIT_MASS)
    bound = seen_values(call, call.value).abs().amax(2, keepdim=True) * (1 + 2.0**-7)  # of a rounded output
    assert bool((fused.output.double().abs() <= bound + 1e-6).all()), "an average lies among what it averages"


def passes_agree(call: AttentionCall, row: RowStats, some_rows: bool) -> None:
    """Sums that two passes reach on different ways: columns, diagonals, chunks."""
    n_rows, d = call.query.shape[2:]
    known = replace(call, lse=row.lse)
    column = column_pass(known, want_aq=True)
    near("Σ received = Σ row sums", column.received.double().sum(-1), row.row_sum.double().sum(-1), n_rows * LIMIT_MASS)
    assert column.aq is not None
    assert row.ak is not None
    k, q = seen_values(call, call.key), torch.where((call.hi > call.lo)[:, None, :, None], call.query.double(), 0.0)
    by_key = (column.aq.double() * k).sum(2)
    by_row = (row.row_sum.double()[..., None] * row.ak.double() * q).sum(2)  # (b, h, d)
    size = attended_limit(call) * 2 * n_rows * q.abs().amax() * k.abs().amax()
    near("Σ_j (AᵀQ)_j k_j = Σ_i q_i (AK)_i", by_key, by_row, size)
    band = band_pass(known)
    within = band.previous + band.itself + band.next
    assert bool((within <= row.row_sum + 3 * LIMIT_MASS).all()), "three keys have no more than all"
    near("the band's three offsets", band.profile[..., [128, 127, 126]].sum(-1), within.double().sum(-1), 3e-5 * n_rows)
    place = places_pass(known, PlaceFacts())
    total = band.profile.sum(-1)
    assert place.behind is not None
    assert place.ahead is not None
    total = total + place.behind.sum(-1) + place.ahead.sum(-1)
    near("near and far offsets are all", total, row.row_sum.double().sum(-1), 2 * n_rows * LIMIT_MASS)
    assert bool((place.value_weight_first <= place.value_weight * (1 + 1e-5) + 1e-6).all())
    if call.bias is None or bool(call.bias.isfinite().all()):
        scan, share = scan_pass(call), share_pass(call)
        assert torch.equal(scan["n_pairs"].long(), row.visible[:, 0].long().sum(-1))
        if call.softcap is None and call.bias is None:
            n = row.visible.double()
            scores = (n * row.score_mean.double()).sum(-1)
            size = 1e-5 * (scan["n_pairs"] * call.scale * d * call.query.abs().max() * call.key.abs().max())[:, None]
            near("c Σ_d Σ q k = Σ s", call.scale * scan["qk"].sum(-1), scores, size + 1e-6)
            within_rows = (row.score_m2.double() / n.clamp(min=1)).sum(-1)
            near("share_n = Σ Var s", share.share_n, within_rows, 1e-4 * within_rows + 1e-4)
        histograms_agree(call, row, scan["qk_positive"])
        rows = chosen_rows(call)
        product = product_pass(call, rows)
        products_agree(call, row, rows, product)
        if some_rows:
            lists_agree(call, row, rows, product)
            pairs_agree(known, rows, product)


def margin(x: Tensor, times: Tensor, edges: Tensor) -> Tensor:
    """(b, h, d, g): how often each bin has an element of ``x`` (b, h, n, d) that counts ``times`` (b, h, n) over."""
    bins = torch.nn.functional.one_hot(torch.bucketize(x.float().contiguous(), edges, right=True), len(edges) + 1)
    return (bins * times[..., None, None].long()).sum(2)


def histograms_agree(call: AttentionCall, row: RowStats, positive: Tensor) -> None:
    """All visible pairs are counted, by the signs that the scan pass finds and the scores that the row pass adds."""
    n_pairs = row.visible.long().sum(-1)  # (b, h)
    few = last_dims(call, JOINT_DIMS)
    joint = joint_histograms(few)
    j, half = torch.arange(call.key.shape[2], device=DEVICE), joint.counts.shape[-1] // 2  # the edge before it is 0
    seen = ((call.lo[..., None] <= j) & (j < call.hi[..., None])).sum(1)[:, None]  # (b, 1, k) rows that see the key
    of_keys = margin(few.key, seen, joint.edges).repeat_interleave(call.query.shape[1] // call.key.shape[1], 1)
    assert not joint.not_numbers.any(), "no pair has a NaN"
    assert torch.equal(joint.counts.sum(-1), margin(few.query, row.visible, joint.edges)), "a query counts for its keys"
    assert torch.equal(joint.counts.sum(-2), of_keys), "a key counts for the rows that see it"
    same_sign = joint.counts[..., :half, :half].sum((-1, -2)) + joint.counts[..., half:, half:].sum((-1, -2))
    assert torch.equal(same_sign, positive[..., -JOINT_DIMS:].long()), "two of one sign have a product > 0"
    scores = score_histograms(call)
    assert torch.equal(scores.counts.sum(-1), n_pairs), "every pair has a score"
    assert not scores.not_numbers.any(), "no score is NaN"
    middle = scores.low + scores.width * (torch.arange(scores.counts.shape[-1], device=DEVICE) + 0.5)
    total = (row.visible * row.score_mean.double()).sum(-1)
    size = n_pairs * scores.width / 2  # so far may a pair's score lie from the middle of its bin
    near("Σ counts times middle = Σ s", (scores.counts * middle).sum(-1), total, size + 1e-5 * n_pairs)


def products_agree(call: AttentionCall, row: RowStats, rows: Tensor, got: Products) -> None:
    """Products make the scores, the scores the log-sum-exp, and both together A K."""
    (w, i), product, p = rows.unbind(1), got.product.double(), got.p.double()  # (n, h, k, d), (n, h, k)
    score = call.scale * product.sum(-1)
    # a sum of d terms in fp32, in any order; then what the cap makes of its tanh
    size = call.query.shape[3] * 2.0**-24 * call.scale * product.abs().sum(-1) + 2.0**-22 * (call.softcap or 1.0)
    if call.softcap is not None:
        score = call.softcap * torch.tanh(score / call.softcap)
    if call.bias is not None:
        score = score + call.bias.expand(*row.visible.shape, -1)[w, :, i].double()
    seen = got.visible[:, None].expand_as(score)
    near("s = c Σ_d x, capped, plus bias", got.score[seen], score[seen], size[seen])
    assert bool(got.score[~seen].isneginf().all()), "a hidden pair has score -inf"
    assert torch.equal(got.visible.sum(-1)[:, None].expand(p.shape[:2]), row.visible[w, :, i].long())
    lse = torch.logsumexp(got.score.double(), -1)
    lse = lse if call.sink is None else torch.logaddexp(lse, call.sink.double())
    some = seen.any(-1)
    near("lse of the scores", lse[some], row.lse[w, :, i][some], LIMIT_MASS)
    near("Σ p = the row sum", p.sum(-1), row.row_sum[w, :, i], LIMIT_MASS)
    assert row.ak is not None
    expected = row.row_sum[w, :, i, None] * call.query[w, :, i].double() * row.ak[w, :, i]
    size_ak = attended_limit(call) * call.query.double().abs().amax() * seen_values(call, call.key).abs().amax()
    near("Σ p x = q AK", (p[..., None] * product).sum(2), expected, size_ak)


def lists_agree(call: AttentionCall, row: RowStats, rows: Tensor, product: Products) -> None:
    """The heaviest keys are those of the spelled out pattern, with the row pass's p_max and entropy."""
    pick = torch.tensor([1 % len(rows), len(rows) - 1], device=DEVICE)  # an early row and the last: a list takes long
    (w, i), p = rows[pick].unbind(1), product.p[pick]
    got = top_keys(call, rows[pick], top=TOP)
    visible, row_sum = row.visible[w, :, i], row.row_sum[w, :, i]
    here = got.keys >= 0
    best = p.topk(min(TOP, p.shape[-1])).values
    near("the greatest p", got.weights[..., : best.shape[-1]], best, LIMIT_MASS)
    listed = torch.where(here, p.gather(-1, got.keys.clamp(min=0).long()), 0.0)
    near("the weight of a listed key is its p", got.weights, listed, LIMIT_MASS)
    assert torch.equal(here.sum(-1), visible.long().clamp(max=TOP))
    key = got.keys.sort(-1).values
    assert bool(((key.diff() > 0) | (key[..., 1:] < 0)).all()), "a key is listed once"
    near("the first weight = p_max Σ p", got.weights[..., 0], row.p_max[w, :, i] * row_sum, LIMIT_MASS)
    near("entropy", got.entropy, row.entropy[w, :, i], LIMIT_ENTROPY)
    whole = visible <= TOP
    near("a list of all keys has the row's mass", got.weights.sum(-1)[whole], row_sum[whole], LIMIT_MASS)


def counts_hold(call: AttentionCall, name: str, got: ScoreHistogram, value: Tensor) -> None:
    """Assert that below every edge lie as many of ``value`` (b m, h, k), inf where hidden, as the histogram has."""
    edges = got.low + got.width * torch.arange(1, got.counts.shape[-1], device=DEVICE).double()
    below, slack = got.counts.cumsum(-1)[..., :-1], 2 * LIMIT_MASS  # fp32's rounding of a score and of its lse
    at_least, at_most = (by_window(call, (value[..., None] < edges + off).sum(2)).sum(1) for off in (-slack, slack))
    assert bool(((at_least <= below) & (below <= at_most)).all()), f"{name}: counts below an edge"
    assert torch.equal(got.counts.sum(-1), by_window(call, value.isfinite().sum(2)).sum(1)), f"{name}: every pair"


def pairs_agree(call: AttentionCall, rows: Tensor, got: Products) -> None:
    """Sums over the pairs of some rows: of the products spelled out, and of a call in which no other row sees a key."""
    (w, i), product = rows.unbind(1), got.product.double()  # (n, h, k, d), 0 where hidden
    chosen = torch.zeros_like(call.lo, dtype=torch.bool)
    chosen[w, i] = True
    cut = replace(call, hi=torch.where(chosen, call.hi, call.lo))

    def add(x: Tensor) -> Tensor:  # (n, h, k, …) to (b, h, …)
        return by_window(call, x.sum(2)).sum(1)

    n_rows, n_keys = call.query.shape[2], call.key.shape[2]
    apart = (i[:, None] + n_keys - n_rows - torch.arange(n_keys, device=DEVICE)).abs() * got.visible  # (n, k)
    distance = distance_pass(cut)
    terms = apart[:, None, :, None] * (product - distance.pilot.double()[w][:, :, None])
    near("Σ δ (x - pilot)", distance.distance_qk, add(terms), 1e-5 * add(terms.abs()) + 1e-12)

    few, x = last_dims(cut, DIMS), product[..., -DIMS:]
    scan, seen = scan_pass(few), got.visible[:, None, :, None]
    near("Σ x", scan["qk"], add(x), 1e-5 * add(x.abs()) + 1e-12)
    assert torch.equal(scan["qk_positive"], add((x > 0).double())), "pairs with x > 0"
    for extreme, none, best in (("qk_max", -torch.inf, torch.amax), ("qk_min", torch.inf, torch.amin)):
        expected = best(by_window(call, torch.where(seen, x, none)), (1, 3))
        assert torch.equal(scan[extreme], expected), extreme
    length = few.query[w, :, i].double().norm(dim=-1)[..., None] * seen_values(cut, few.key)[w].norm(dim=-1)
    cosine = torch.where(seen[..., 0], x.sum(-1) / length, 0.0)
    near("Σ cos", cosine_sums(few), add(cosine), 1e-6 * scan["n_pairs"][:, None])

    hidden = ~got.visible[:, None]
    counts_hold(call, "scores", score_histograms(cut), got.score.double().masked_fill(hidden, torch.inf))
    assert call.lse is not None
    log_p = got.score.double() - call.lse[w, :, i, None].double()
    counts_hold(call, "log p", score_histograms(cut, log_p=True), log_p.masked_fill(hidden, torch.inf))


def holds(call: AttentionCall, *, some_rows: bool = True) -> None:
    """Every identity of every pass, or without ``some_rows`` all but the slow ones over the pairs of some rows."""
    features = features_of(call)
    row = row_pass(call, features, want_ak2=True)
    rows_hold(call, row)
    fused_holds(call, fused_attention(call, features), row)
    passes_agree(call, row, some_rows)
