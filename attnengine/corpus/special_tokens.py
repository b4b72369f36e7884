"""The special tokens that a tokenizer puts around a text, or around and between the texts of a pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attnengine.errors import PlanError

BOS = ("auto", "always", "never")
Ids = tuple[int, ...]


@dataclass(frozen=True)
class SpecialTokens:
    """What opens and closes a window, and what stands between the texts of a pair.

    ``types`` are the token-type ids of the five stretches prefix, A, middle, B, suffix; for a single text of prefix,
    text and suffix, with the others empty.
    """

    prefix: Ids
    suffix: Ids
    ids: frozenset[int]  # every special id but unk: the targets of special_mass
    names: dict[int, str]  # how they are written: [CLS], <s>
    middle: Ids = ()
    types: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)

    @property
    def count(self) -> int:
        """Special tokens of a window."""
        return len(self.prefix) + len(self.middle) + len(self.suffix)

    @classmethod
    def of(cls, tokenizer: Any, bos: str = "auto", *, pair: bool = False) -> SpecialTokens:
        """What ``tokenizer`` puts around one text or a pair; ``bos`` "always" adds its BOS, "never" adds nothing."""
        if bos not in BOS:
            raise ValueError(f"bos must be one of {', '.join(BOS)}; got {bos!r}")
        prefix: Ids = ()
        middle: Ids = ()
        suffix: Ids = ()
        types = (0, 0, 0, 0, 0)
        if pair:
            prefix, middle, suffix, types = _pair_template(tokenizer)
        elif bos != "never":
            prefix, suffix = _single_template(tokenizer)
        if bos == "never":
            prefix, middle, suffix = (), (), ()
        if bos == "always" and tokenizer.bos_token_id is None:
            raise PlanError("--bos always: this tokenizer has no BOS token; use --bos auto")
        if bos == "always" and tokenizer.bos_token_id not in prefix:
            prefix = (tokenizer.bos_token_id, *prefix)
        unk = tokenizer.unk_token_id
        ids = frozenset(i for i in tokenizer.all_special_ids if i != unk)
        around = sorted(ids | set(prefix) | set(middle) | set(suffix))
        names = dict(zip(around, tokenizer.convert_ids_to_tokens(around), strict=True))
        return cls(prefix, suffix, ids, names, middle, types)


def _single_template(tokenizer: Any) -> tuple[Ids, Ids]:
    """(prefix, suffix)."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    at = _find(bare, full, 0)
    return tuple(full[:at]), tuple(full[at + len(bare) :])


def _pair_template(tokenizer: Any) -> tuple[Ids, Ids, Ids, tuple[int, int, int, int, int]]:
    """(prefix, middle, suffix, types) of a pair."""
    first = tokenizer("a", add_special_tokens=False)["input_ids"]
    second = tokenizer("b", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", "b", add_special_tokens=True, return_token_type_ids=True)
    ids, kinds = full["input_ids"], full.get("token_type_ids") or [0] * len(full["input_ids"])
    at = _find(first, ids, 0)
    after = at + len(first)
    then = _find(second, ids, after)
    cuts = [(0, at), (at, after), (after, then), (then, then + len(second)), (then + len(second), len(ids))]
    types = [kinds[begin:end] for begin, end in cuts]
    if any(len(set(found)) > 1 for found in types):
        raise PlanError("the tokenizer changes the token type within a text or a separator; pairs cannot be laid out")
    prefix, middle, suffix = (tuple(ids[begin:end]) for begin, end in cuts[::2])
    a, b, c, d, e = (found[0] if found else 0 for found in types)
    return prefix, middle, suffix, (a, b, c, d, e)


def _find(bare: Sequence[int], full: Sequence[int], start: int) -> int:
    for at in range(start, len(full)):
        if list(full[at : at + len(bare)]) == list(bare):
            return at
    raise PlanError("the tokenizer does not put its special tokens around the text; use --bos never")
