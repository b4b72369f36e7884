"""What head types are estimated from: additive sums over the *sampled* query rows, whose whole pattern is rebuilt.

A type asks where the mass goes that a head does not leave on Z, the window's first real token and the special tokens.
That needs whole rows p_i·, which the fast passes never hold; so it is asked of the sampled rows (whole segments of 64
tokens, spread over all documents by the plan), an unbiased few thousand of them, and the error over document groups
covers what sampling adds. Rows that a window only repeats as context of an overlapping one are left out.

Per window w, head h and bin B of :func:`~attnengine_kernels.sums.profile_edges`, everything fp64:

    type_rows (w,)  type_outside (w, h)          rows with a visible key ∉ Z; Σ m_i over them, m_i = Σ_{j∉Z} p_ij
    type_<T> (w, h)  type_<T>_n (w, h)           Σ_{j∈T(i)∖Z} p_ij and Σ m_i over rows with a visible target ∉ Z
    type_<T>_null (w, h)                         Σ m_i |T(i)∖Z| / n_i: m_i spread evenly over its n_i keys ∉ Z
    type_<T>_pairs (w, B)                        targets ∉ Z by offset, for the types asked by token
    type_first_token, type_special_token (w, h)  Σ p on them, _n rows that see one, _null all p spread evenly
    type_broad (w, h)                            Σ normalised entropy over keys ∉ Z, _n rows, _null its threshold
    type_offset (w, h, B)  type_offset_pairs (w, B)  type_offset_even (w, h, B)
                                                 p, pairs and m_i / n_i by offset, over keys ∉ Z
    type_positional (w, h) and its _n, _null, _spread: see :mod:`attnengine.statistics.head_types`

Absent where a call does not define it: without a position (cross-attention) only first_token, special_token and broad
are left, without token ids or sentences (pictures) the types that ask for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attnengine.statistics.targets import token_targets
from attnengine_kernels import PatternRows, TokenFacts
from attnengine_kernels.sums import EXACT_OFFSETS, profile_edges

Sums = dict[str, Tensor]

BY_OFFSET = ("previous_token", "next_token", "local")
BY_TOKEN = ("duplicate_token", "induction", "punctuation", "cross_sentence")
IN_Z = ("first_token", "special_token")
LOCAL = 5  # keys at most this far away
LEAST_BROAD = 0.95  # normalised entropy from which a head counts as broad: 0.1, the least effect, above its null
NO_LOG = -1e4  # log p of a hidden key, whose p is 0: finite, so that p log p is 0 and not NaN


def type_sums(
    part: PatternRows,
    queries: TokenFacts,
    keys: TokenFacts,
    windows: Tensor,
    runs: Sequence[Run],
    *,
    cross: bool,
    max_length: int,
) -> Sums:
    """The sums of this module's names over some sampled rows, a row for each of ``windows`` (w,) int64, ascending.

    fp64; everything is on one device, and nothing waits for it. ``runs`` are :func:`runs_of` the same rows,
    ``max_length`` fixes the offset bins.
    """
    counted = queries.counted[part.window, part.position]
    part = part._replace(visible=part.visible & counted[:, None])  # a row that only repeats sees nothing here
    position = queries.position[part.window, part.position]  # (n,)
    offset = position[:, None] - keys.position[part.window]  # (n, k); meaningless where a side has no position
    outside = part.visible & _outside(keys)[part.window]  # (n, k): visible, ∉ Z
    masks = {"all": part.visible, "outside": outside}
    masks |= {f"{name}_token": part.visible & _class(keys, name)[part.window] for name in ("first", "special")}
    near = None
    if not cross:
        placed = outside & (position >= 0)[:, None] & (keys.position[part.window] >= 0)
        masks |= _targets(part, queries, keys, placed, offset)
        near = placed & (offset.abs() < EXACT_OFFSETS)
    found = _row_sums(part, masks, near)
    mine = (windows[:, None] == part.window[None, :]).double()  # (w, n): a product adds in a fixed order
    sums = {name: _per_window(mine, value) for name, value in found.items()}
    if not cross:
        spread = (found["_m"] / found["_n"].clamp(min=1)[:, None]).to(part.p.dtype)  # (n, h)
        sums |= _by_offset(part, masks | {"outside": placed}, spread, runs, len(windows), max_length)
    return {name: value for name, value in sums.items() if not name.startswith("_")}


def _per_window(mine: Tensor, value: Tensor) -> Tensor:
    """(w, ...) sums of (n, ...) rows; ``mine`` (w, n) says which rows are whose."""
    return (mine @ value.reshape(len(value), -1)).reshape(-1, *value.shape[1:])


def _class(keys: TokenFacts, name: str) -> Tensor:
    flags = keys.classes.get(name)
    return torch.zeros_like(keys.real) if flags is None else flags & keys.real


def _outside(keys: TokenFacts) -> Tensor:
    """(b, k) bool: real keys ∉ Z."""
    return keys.real & ~_class(keys, "first") & ~_class(keys, "special")


def _targets(
    part: PatternRows, queries: TokenFacts, keys: TokenFacts, placed: Tensor, offset: Tensor
) -> dict[str, Tensor]:
    """Type -> (n, k) bool: visible targets ∉ Z. ``placed`` are the visible keys ∉ Z that have an offset."""
    out = {
        "previous_token": placed & (offset == 1),
        "next_token": placed & (offset == -1),
        "local": placed & (offset != 0) & (offset.abs() <= LOCAL),
    }
    named = {"same_token": "duplicate_token"}
    found = token_targets(part, queries, keys, placed, offset == 0, offset == -1)
    out |= {named.get(name, name): target for name, target in found.items()}
    if "punctuation" in keys.classes:
        out["punctuation"] = placed & _class(keys, "punctuation")[part.window]
    return out


def _row_sums(part: PatternRows, masks: dict[str, Tensor], near: Tensor | None) -> Sums:
    """(n, h) or (n,) contributions of every row, fp64; names with an underscore are for this module."""
    p = part.p
    stacked = torch.stack(list(masks.values()), dim=1).to(p.dtype)  # (n, c, k)
    mass = (p @ stacked.mT).double()  # (n, h, c)
    count = stacked.sum(dim=-1).double()  # (n, c)
    at = {name: c for c, name in enumerate(masks)}
    m, n = mass[..., at["outside"]], count[:, at["outside"]]  # (n, h), (n,)
    seen = n > 0
    out: Sums = {"_m": m, "_n": n, "type_rows": seen.double(), "type_outside": m}
    for name in IN_Z:
        k = count[:, at[name]]
        even = mass[..., at["all"]] * (k / count[:, at["all"]].clamp(min=1))[:, None]
        out |= {f"type_{name}": mass[..., at[name]], f"type_{name}_n": (k > 0).double(), f"type_{name}_null": even}
    for name in (name for name in (*BY_OFFSET, *BY_TOKEN) if name in at):
        k = count[:, at[name]]
        out |= {f"type_{name}": mass[..., at[name]], f"type_{name}_n": m * (k > 0)[:, None]}
        if name in BY_OFFSET:
            out[f"type_{name}_null"] = m * (k / n.clamp(min=1))[:, None]
    return (
        out
        | _broad(part, masks["outside"], m, n)
        | (_squares(p, masks["outside"], near, m, n) if near is not None else {})
    )


def _broad(part: PatternRows, outside: Tensor, m: Tensor, n: Tensor) -> Sums:
    """Entropy of p over the keys ∉ Z, as a share of log n, of rows with two such keys and some mass on them."""
    surprise = part.log_p.clamp(min=NO_LOG).mul_(part.p)
    p_log_p = (surprise @ outside[..., None].to(part.p.dtype))[..., 0].double()  # (n, h)
    used = (n >= 2)[:, None] & ~(m <= 0)  # written so that NaN stays in
    safe, most = torch.where(used, m, 1.0), torch.log(n.clamp(min=2))[:, None]
    share = (torch.log(safe) - p_log_p / safe) / most
    at_random = (torch.digamma(n.clamp(min=2) + 1) - torch.digamma(torch.full_like(n, 2.0)))[:, None] / most
    null = torch.clamp(at_random, min=LEAST_BROAD) - 0.1
    return {
        "type_broad": torch.where(used, share, 0.0),
        "type_broad_n": used.double(),
        "type_broad_null": torch.where(used, null.expand_as(m), 0.0),
    }


def _squares(p: Tensor, outside: Tensor, near: Tensor, m: Tensor, n: Tensor) -> Sums:
    """Σ p² within 128 tokens, what shuffling a row's keys ∉ Z makes of it, and the variance that shuffling leaves."""
    squares = (p * p @ torch.stack([outside, near], dim=1).to(p.dtype).mT).double()  # (n, h, 2)
    b, keys = near.sum(dim=1).double()[:, None], n.clamp(min=1)[:, None]
    placed = (b > 0).double()
    mean_square = squares[..., 0] / keys
    return {
        "type_positional": squares[..., 1],
        "type_positional_n": placed[:, 0],
        "type_positional_null": b * mean_square,
        "type_positional_spread": b * (mean_square - (m / keys) ** 2),
    }


def _by_offset(
    part: PatternRows, masks: dict[str, Tensor], spread: Tensor, runs: Sequence[Run], n_windows: int, max_length: int
) -> Sums:
    """Sums over pairs by signed offset, run by run of consecutive rows: a run's rows are shifted against each other."""
    names = ["outside", *(name for name in BY_TOKEN if name in masks)]
    flags = torch.stack([masks[name] for name in names], dim=1).to(part.p.dtype)  # (n, c, k)
    h, span = part.p.shape[1], max(max_length, EXACT_OFFSETS)
    full = part.p.new_zeros(n_windows, 2 * h + len(names), 2 * span - 1, dtype=torch.float64)
    for run in runs:
        kept = flags[run.rows]
        counts = _skewed(kept, kept[:, :1])  # (r, c, k + r − 1); targets are ∉ Z anyway
        even = spread[run.rows].T @ counts[:, 0]  # (h, k + r − 1)
        line = torch.cat([_skewed(part.p[run.rows], kept[:, :1]).sum(0), even, counts.sum(0)]).double()
        _add_offsets(full[run.slot], line.flip(1), run.lowest)
    return _binned(full, h, names, max_length)


class Run(NamedTuple):
    """Consecutive queries of one window that have positions."""

    rows: slice  # of the part
    slot: int  # of the window among the windows with sampled rows
    lowest: int  # offset of the last key from the first row


def runs_of(rows: Tensor, queries: TokenFacts, keys: TokenFacts, windows: Tensor) -> list[Run]:
    """The runs of ``rows`` (n, 2), (window, query), all on the host; ``windows`` (w,): all that have sampled rows."""
    window, index = rows.unbind(1)
    position = queries.position[window, index]
    first_key = (keys.position >= 0).int().argmax(dim=1)[window]  # (n,) index of the key at position 0
    slot, last_key = torch.searchsorted(windows, window.contiguous()), keys.position.shape[1] - 1
    facts = torch.stack([slot, index, position, position + first_key - last_key], dim=1).tolist()
    found, begin = [], 0
    for end in range(1, len(facts) + 1):
        which, first, at, lowest = facts[begin]
        if end < len(facts) and facts[end][:2] == [which, first + end - begin] and (facts[end][2] >= 0) == (at >= 0):
            continue
        if at >= 0:
            found.append(Run(slice(begin, end), which, lowest))
        begin = end
    return found


def _skewed(x: Tensor, keep: Tensor) -> Tensor:
    """(r, c, k) times keep (r, 1, k) -> (r, c, k + r − 1): row t moved right by r − 1 − t: a column an offset."""
    r, c, k = x.shape
    out = x.new_zeros(r, c, k + r - 1)
    torch.mul(x, keep, out=out.as_strided((r, c, k), (out.stride(0) - 1, out.stride(1), 1), r - 1))
    return out


def _add_offsets(full: Tensor, line: Tensor, lowest: int) -> None:
    """Add ``line`` (c, offsets ascending from ``lowest``) to ``full`` (c, 2 · span − 1); what hangs over is zeros."""
    begin = lowest + full.shape[1] // 2
    left, right = max(-begin, 0), max(begin + line.shape[1] - full.shape[1], 0)
    full[:, begin + left : begin + line.shape[1] - right] += line[:, left : line.shape[1] - right]


def _binned(full: Tensor, h: int, names: list[str], max_length: int) -> Sums:
    """Sums by bin from sums by offset (w, 2 h + c, 2 · span − 1), span = max(max_length, 128)."""
    zero = full.shape[-1] // 2
    far = [(lo + zero, hi + zero) for lo, hi in profile_edges(max_length) if hi - lo > 1]
    sums = [full[..., max(lo, 0) : hi].sum(-1, keepdim=True) for lo, hi in far]
    exact = full[..., zero - EXACT_OFFSETS + 1 : zero + EXACT_OFFSETS]
    bins = torch.cat([*sums[: len(far) // 2], exact, *sums[len(far) // 2 :]], dim=-1)  # (w, 2 h + c, B)
    out = {"type_offset": bins[:, :h], "type_offset_even": bins[:, h : 2 * h], "type_offset_pairs": bins[:, 2 * h]}
    return out | {f"type_{name}_pairs": bins[:, 2 * h + 1 + c] for c, name in enumerate(names[1:])}
