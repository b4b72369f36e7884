"""Which tokens are attended: attention received by every entry of the vocabulary, exact over the whole corpus.

    mass_t = Σ_i Σ_{j: token[j] = t} p_ij        expected_t = Σ_i Σ_{j: token[j] = t} 1[j visible to i] / n_i

``expected`` is what a head that spreads its rows evenly over the n_i keys they see would give the same tokens, so
mass / expected is the lift over the base rate at the very places where the token stands. Sums are additive: they are
kept per shard for the tokens that occur in it, and merged in shard order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from attnengine.records import Site
from attnengine_kernels import TokenFacts

KEPT = 50  # tokens a head keeps in the table
FIELDS = ("token_id", "n_keys", "expected", "mass")


@dataclass
class KeyTokens:
    """Attention received by token, for one site; rows ascend by token id."""

    token_id: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))  # (t,)
    n_keys: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))  # (t,) keys that some row sees
    expected: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))  # (t,)
    mass: Tensor | None = None  # (t, h) fp64

    def add(self, sums: Mapping[str, Tensor], keys: TokenFacts) -> None:
        """Add one batch: ``received`` (b, h, k) and ``received_fair`` (b, k) of :mod:`attnengine_kernels.sums`."""
        if keys.token_id is None or "received" not in sums:  # patches have no vocabulary; core runs do not ask
            return
        fair = sums["received_fair"].reshape(-1)  # (b k,)
        seen = torch.nonzero(fair > 0).squeeze(1)
        token_id, row = torch.unique(keys.token_id.cpu().reshape(-1)[seen], return_inverse=True)
        received = sums["received"].transpose(1, 2).reshape(len(fair), -1)[seen]  # (seen, h)
        mass = received.new_zeros(len(token_id), received.shape[1]).index_add_(0, row, received)
        expected = fair.new_zeros(len(token_id)).index_add_(0, row, fair[seen])
        self.merge(KeyTokens(token_id, torch.bincount(row, minlength=len(token_id)), expected, mass))

    def merge(self, other: KeyTokens) -> None:
        """Add what another batch or shard has of the same site."""
        if other.mass is None:
            return
        if self.mass is None:
            self.mass = other.mass.new_zeros(0, other.mass.shape[1])
        known = torch.unique(torch.cat([self.token_id, other.token_id]))
        for name in FIELDS[1:]:
            mine, theirs = getattr(self, name), getattr(other, name)
            total = mine.new_zeros(len(known), *mine.shape[1:])
            total[torch.searchsorted(known, self.token_id)] = mine
            total[torch.searchsorted(known, other.token_id)] += theirs  # token ids are unique on either side
            setattr(self, name, total)
        self.token_id = known

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Flat names for the disk: ``<prefix>.<field>``; nothing where nothing was added."""
        if self.mass is None:
            return {}
        return {f"{prefix}.{name}": getattr(self, name) for name in FIELDS}


def key_tokens_table(
    sites: Sequence[Site], counted: Sequence[KeyTokens], vocabulary: pd.DataFrame, kept: int = KEPT
) -> pd.DataFrame:
    """The table ``key_tokens``: of every head the ``kept`` tokens with most attention above expectation, by rank.

    ``share`` and ``expected_share`` are parts of all attention on keys, ``lift`` their ratio. ``vocabulary``
    (token_id, text) says how tokens are written. Heads whose sums are not finite have no rows.
    """
    frames = [_head_rows(site, head, one, kept) for site, one in zip(sites, counted, strict=True)
              for head in _finite_heads(one)]  # fmt: skip
    columns = ["site", "layer", "kind", "stack", "head", "rank", "token_id", "text", "n_keys", "mass", "share",
               "expected_share", "lift"]  # fmt: skip
    if not frames:
        return pd.DataFrame(columns=columns)
    table = pd.concat(frames, ignore_index=True)
    return table.merge(vocabulary, on="token_id", how="left")[columns]


def _finite_heads(one: KeyTokens) -> list[int]:
    return [] if one.mass is None else torch.nonzero(one.mass.sum(0).isfinite()).squeeze(1).tolist()


def _head_rows(site: Site, head: int, one: KeyTokens, kept: int) -> pd.DataFrame:
    assert one.mass is not None
    mass, expected = one.mass[:, head].numpy(), one.expected.numpy()
    total, even = max(mass.sum(), np.finfo(float).tiny), expected.sum()
    share, fair = mass / total, expected / even
    best = np.lexsort((one.token_id.numpy(), fair - share))[:kept]  # ties by token id
    return pd.DataFrame(
        {
            "site": np.int32(site.site),
            "layer": np.int32(site.layer),
            "kind": site.kind,
            "stack": site.stack,
            "head": np.int32(head),
            "rank": np.arange(len(best), dtype=np.int32),
            "token_id": one.token_id.numpy()[best],
            "n_keys": one.n_keys.numpy()[best],
            "mass": mass[best],
            "share": share[best],
            "expected_share": fair[best],
            "lift": share[best] / fair[best],
        }
    )
