"""Which keys a query row finds by what their tokens are: the same token, what follows it, another sentence."""

from __future__ import annotations

from torch import Tensor

from attnengine_kernels import PatternRows, TokenFacts


def token_targets(
    part: PatternRows, queries: TokenFacts, keys: TokenFacts, visible: Tensor, itself: Tensor, following: Tensor
) -> dict[str, Tensor]:
    """same_token, induction and cross_sentence among the ``visible`` keys, (n, k) bool as all masks here.

    ``itself`` is the key at the query's own place and ``following`` the one behind it: neither is its own duplicate or
    continuation. Absent without token ids or sentences (pictures).
    """
    out, where, visible = {}, part.window, visible & keys.real[part.window]
    if queries.token_id is not None and keys.token_id is not None:
        mine, theirs = queries.token_id[where, part.position][:, None], keys.token_id
        followed = keys.real & keys.real.roll(1, dims=1)
        followed[:, 0] = False
        out["same_token"] = visible & (theirs[where] == mine) & ~itself
        before = theirs.roll(1, dims=1)[where]  # token[j − 1]
        out["induction"] = visible & followed[where] & (before == mine) & ~itself & ~following
    if queries.sentence is not None and keys.sentence is not None:
        sentence, others = queries.sentence[where, part.position][:, None], keys.sentence[where]
        out["cross_sentence"] = visible & (others != sentence) & (others >= 0) & (sentence >= 0)
    return out
