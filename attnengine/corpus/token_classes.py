"""Classes of tokens that a user names by a regular expression: each becomes a column ``<name>_mass``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import regex

from attnengine.errors import PlanError

MOST = 24  # classes: they are bits of one 32-bit word, beside our own
PATIENCE = 1.0  # seconds a pattern may take on one token
#: Names whose ``<name>_mass``, or type of head, means something else already.
TAKEN = {
    "first", "special", "punctuation", "self", "previous", "next", "same_token", "induction", "cross_sentence",
    "learned_sink", "value_weighted_first", "previous_token", "next_token", "first_token", "duplicate_token", "local",
    "broad", "positional",
}  # fmt: skip


def check_classes(classes: Mapping[str, str]) -> None:
    """ValueError for a name that cannot be a column or is taken, and for an expression that does not compile."""
    if len(classes) > MOST:
        raise ValueError(f"at most {MOST} token classes, got {len(classes)}; make them in several runs")
    for name, pattern in classes.items():
        if not regex.fullmatch(r"[a-z][a-z0-9_]{0,39}", str(name)):
            raise ValueError(f"a token class is named by lower-case letters, digits and _, got {name!r}")
        if name in TAKEN or name.endswith(("_n", "_se", "_mass")):
            raise ValueError(f"the token class name {name!r} is taken by a column of its own; choose another")
        try:
            regex.compile(pattern)
        except (regex.error, TypeError) as error:
            raise ValueError(f"token class {name}: {pattern!r} is no regular expression ({error})") from error


def parse_classes(options: list[str] | None) -> dict[str, str]:
    """{name: expression} of command-line options NAME=REGEX; ValueError for one without = or named twice."""
    found: dict[str, str] = {}
    for option in options or []:
        name, equals, pattern = option.partition("=")
        if not equals:
            raise ValueError(f"--token-class must be NAME=REGEX, as in digit='[0-9]+'; got {option!r}")
        if name in found:
            raise ValueError(f"--token-class {name} is given twice; join them as {name}='(…|…)'")
        found[name] = pattern
    return found


class TokenClasses:
    """Which classes a token belongs to: those whose expression matches all of its source text.

    White space at the ends of the token's text does not count (some tokenizers have it in their tokens). Each
    distinct token text is matched once.
    """

    def __init__(self, classes: Mapping[str, str] | None = None) -> None:
        check_classes(classes or {})
        self.names = tuple(classes or {})
        self._patterns = [regex.compile(pattern) for pattern in (classes or {}).values()]
        self._known: dict[str, int] = {}

    def bits(self, text: str, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """(n,) uint32: bit c is set where the token text[start:end] is of class c.

        PlanError for an expression that takes more than a second on one token.
        """
        if not self.names:
            return np.zeros(len(start), dtype=np.uint32)
        words = [text[a:b] for a, b in zip(start.tolist(), end.tolist(), strict=True)]
        found = [bits if (bits := self._known.get(word)) is not None else self._learn(word) for word in words]
        return np.asarray(found, dtype=np.uint32)

    def _learn(self, word: str) -> int:
        bits = 0
        for index, (name, pattern) in enumerate(zip(self.names, self._patterns, strict=True)):
            try:
                bits |= bool(pattern.fullmatch(word.strip(), timeout=PATIENCE)) << index
            except TimeoutError as error:
                raise PlanError(
                    f"token class {name}: the expression {pattern.pattern!r} takes more than {PATIENCE:g} s on the "
                    f"token {word[:40]!r}; repetitions within repetitions, as (a+)+, are the usual reason"
                ) from error
        self._known[word] = bits
        return bits
