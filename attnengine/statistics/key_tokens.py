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
from attnengine.statistics.adding import add_at
from attnengine_kernels import TokenFacts

KEPT = 50  # tokens a head keeps in the table
FIELDS = ("token_id", "n_keys", "expected", "mass")


@dataclass(frozen=True)
class TokenRows:
    """Which tokens the keys of a batch are: worked out once for all its layers."""

    token_id: Tensor  # (t,) int64 on the host, ascending
    row: Tensor  # (b k,) int64 on the device of the sums: which of them each key is

    @classmethod
    def of(cls, keys: TokenFacts, device: torch.device | str) -> TokenRows | None:
        """From facts on the host; None without token ids (patches have no vocabulary)."""
        if keys.token_id is None:
            return None
        token_id, row = torch.unique(keys.token_id.reshape(-1), return_inverse=True)
        return cls(token_id, row.to(device, non_blocking=True))


@dataclass
class KeyTokens:
    """Attention received by token, for one site; rows ascend by token id. Ids on the host, sums on one device."""

    token_id: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))  # (t,)
    n_keys: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))  # (t,) keys that some row sees
    expected: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))  # (t,)
    mass: Tensor | None = None  # (t, h) fp64

    def add(self, sums: Mapping[str, Tensor], tokens: TokenRows | None) -> None:
        """Add one batch: ``received`` (b, h, k) and ``received_fair`` (b, k) of :mod:`attnengine_kernels.sums`."""
        if tokens is None or "received" not in sums:  # core runs do not ask
            return
        fair = sums["received_fair"].reshape(-1)  # (b k,)
        received = sums["received"].transpose(1, 2).reshape(len(fair), -1)  # (b k, h)
        n = len(tokens.token_id)
        found = KeyTokens(
            tokens.token_id,
            torch.zeros(n, dtype=torch.int64, device=fair.device),
            fair.new_zeros(n),
            received.new_zeros(n, received.shape[1]),
        )
        assert found.mass is not None
        add_at(found.n_keys, tokens.row, (fair > 0).long())
        add_at(found.expected, tokens.row, fair)
        add_at(found.mass, tokens.row, received)
        self.merge(found)

    def merge(self, other: KeyTokens) -> None:
        """Add what another batch or shard has of the same site."""
        if other.mass is None:
            return
        device = other.mass.device
        if self.mass is None:
            self.mass = other.mass.new_zeros(0, other.mass.shape[1])
            self.n_keys, self.expected = self.n_keys.to(device), self.expected.to(device)
        known = torch.unique(torch.cat([self.token_id, other.token_id]))
        mine, theirs = (torch.searchsorted(known, one.token_id).to(device) for one in (self, other))
        for name in FIELDS[1:]:
            before, added = getattr(self, name), getattr(other, name)
            total = before.new_zeros(len(known), *before.shape[1:])
            total[mine] = before
            total[theirs] += added  # token ids are unique on either side
            setattr(self, name, total)
        self.token_id = known

    def on_host(self) -> KeyTokens:
        """The same on the host, without tokens that no row saw (padding)."""
        if self.mass is None:
            return self
        n_keys, expected, mass = (value.cpu() for value in (self.n_keys, self.expected, self.mass))
        seen = n_keys > 0
        return KeyTokens(self.token_id[seen], n_keys[seen], expected[seen], mass[seen])

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
