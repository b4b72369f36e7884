"""What must hold of every call, whatever its numbers: the passes are each other's oracles.

Each pass reaches its sums in its own way (rows, columns, diagonals, chunk states, online or with a known lse), so an
identity between two of them fails if either is wrong, and needs no reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from attnengine_kernels.call import AttentionCall
from attnengine_kernels.gpu.band import band_pass
from attnengine_kernels.gpu.columns import column_pass
from attnengine_kernels.gpu.fused import FusedStats, fused_attention
from attnengine_kernels.gpu.places import PlaceFacts, places_pass
from attnengine_kernels.gpu.rows import RowStats, row_pass
from attnengine_kernels.gpu.scans import scan_pass
from attnengine_kernels.gpu.share import share_pass
from attnengine_kernels.sums import LIMIT_ATTENDED_BF16, LIMIT_ATTENDED_FP32, LIMIT_ENTROPY, LIMIT_MASS
from tests.kernels.calls import DEVICE, make_call

MASKS = ("full", "causal", "window", "wide window", "right padding", "left padding", "packed", "one key")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def with_values(call: AttentionCall, dv: int) -> AttentionCall:
    """The call with random values of width ``dv``."""
    b, hkv, n_keys, _ = call.key.shape
    v = torch.randn(b, n_keys, hkv, dv, generator=torch.Generator().manual_seed(11)).to(DEVICE, call.key.dtype)
    return replace(call, value=v.transpose(1, 2))


@st.composite
def calls(
    draw: st.DrawFn, *, most: int = 70, plain: bool = False, masks: tuple[str, ...] = MASKS, batch: int = 1,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
) -> AttentionCall:  # fmt: skip
    """A small call; ``plain`` ones have nothing but scaled dot products in their scores."""
    mask = draw(st.sampled_from(masks))
    n_query = draw(st.integers(10 if "padding" in mask else 1, most))
    square = mask in ("packed", "right padding", "left padding", "one key")
    n_key = n_query if square else draw(st.one_of(st.just(n_query), st.integers(1, most)))
    h, hkv = draw(st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 2)]))
    call = make_call(
        mask, n_query, n_key, batch=batch, h=h, hkv=hkv, d=draw(st.sampled_from([16, 24, 32, 72])),
        dtype=draw(st.sampled_from(dtypes)), seed=draw(st.integers(0, 9)), bias=not plain and draw(st.booleans()),
        sink=not plain and draw(st.booleans()), softcap=None if plain else draw(st.sampled_from([None, 2.0, 30.0])),
    )  # fmt: skip
    return with_values(call, draw(st.sampled_from([16, 40])))


def features_of(call: AttentionCall) -> Tensor:
    """(b, k, 3): ones, every third key, a digit of the position."""
    j = torch.arange(call.key.shape[2], device=DEVICE)
    return torch.stack([torch.ones_like(j), j % 3 == 0, j % 16], dim=1).float().expand(call.key.shape[0], -1, -1)


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


def passes_agree(call: AttentionCall, row: RowStats) -> None:
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


def holds(call: AttentionCall) -> None:
    """Every identity of every pass."""
    features = features_of(call)
    row = row_pass(call, features, want_ak2=True)
    rows_hold(call, row)
    fused_holds(call, fused_attention(call, features), row)
    passes_agree(call, row)


def _flat(result: Any) -> dict[str, Tensor]:
    named = result if isinstance(result, dict) else asdict(result)
    return {name: value for name, value in named.items() if value is not None}


#: Every pass with all of its outputs, by name; the first axis of each output is the window.
PASSES: dict[str, Callable[[AttentionCall], dict[str, Tensor]]] = {
    "rows": lambda call: _flat(row_pass(call, features_of(call), want_ak2=True)),
    "fused": lambda call: _flat(fused_attention(call, features_of(call))),
    "columns": lambda call: _flat(column_pass(call, want_aq=True)),
    "band": lambda call: _flat(band_pass(call)),
    "places": lambda call: _flat(places_pass(call)),
    "scans": lambda call: _flat(scan_pass(replace(call, bias=None))),
    "share": lambda call: _flat(share_pass(replace(call, bias=None))),
}
