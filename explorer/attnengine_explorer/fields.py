"""The kinds of values that a field of the state may hold: each is checked, written into a link and read from one.

``check`` gets what the page or a caller offers (JSON values) and returns it in its one canonical form. ``write`` and
``read`` are the same for a link's text; ``read`` may return anything that ``check`` then judges. All raise ValueError
for what the field cannot hold: acts and links come from anybody.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

COLUMN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")
MAX_INDEX = 100_000
MAX_HEADS = 20_000
MAX_FILTERS = 16

Head = tuple[int, int]


class Kind(Protocol):
    """How one field is checked, written and read."""

    def check(self, value: Any) -> Any:
        """``value`` in its canonical form."""

    def write(self, value: Any) -> str:
        """A checked value as the text of a link."""

    def read(self, text: str) -> Any:
        """What a link's text stands for, still to be checked."""


class Plain:
    """A string that is its own text in a link."""

    def write(self, value: Any) -> str:
        """As it is."""
        return str(value)

    def read(self, text: str) -> Any:
        """As it is."""
        return text


@dataclass(frozen=True)
class Choice(Plain):
    """One of a closed list of names."""

    values: tuple[str, ...]

    def check(self, value: Any) -> str:
        """One of ``values``."""
        if value not in self.values:
            raise ValueError(f"expected one of {', '.join(self.values)}, got {value!r}")
        return str(value)


class Column(Plain):
    """The name of a table's column. Which columns exist is known only with a run (``RunData.fitted``)."""

    def check(self, value: Any) -> str:
        """An identifier of at most 64 characters."""
        if not isinstance(value, str) or not COLUMN_NAME.match(value):
            raise ValueError(f"expected the name of a column, got {value!r}")
        return value


@dataclass(frozen=True)
class Text(Plain):
    """What a person typed, at most ``longest`` characters. Lone surrogates, which no link can hold, become U+FFFD."""

    longest: int

    def check(self, value: Any) -> str:
        """A string that UTF-8 can hold."""
        if not isinstance(value, str) or len(value) > self.longest:
            raise ValueError(f"expected a text of at most {self.longest} characters")
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@dataclass(frozen=True)
class Index:
    """A number from 0 to :data:`MAX_INDEX`, or None where ``optional``."""

    optional: bool = False
    highest: int = MAX_INDEX

    def check(self, value: Any) -> int | None:
        """A whole number within the limits."""
        if value is None and self.optional:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= self.highest:
            raise ValueError(f"expected a whole number from 0 to {self.highest}, got {value!r}")
        return value

    def write(self, value: Any) -> str:
        """Digits."""
        return str(value)

    def read(self, text: str) -> int:
        """Only ASCII digits: int() also takes signs, spaces and other scripts."""
        if not (text.isascii() and text.isdecimal() and len(text) < 11):
            raise ValueError(f"expected digits, got {text!r}")
        return int(text)


@dataclass(frozen=True)
class Number:
    """A finite number from ``low`` to ``high``."""

    low: float
    high: float

    def check(self, value: Any) -> float:
        """A float within the limits."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            raise ValueError(f"expected a number from {self.low} to {self.high}, got {value!r}")
        return float(value) + 0.0  # −0 is 0

    def write(self, value: Any) -> str:
        """The shortest text that reads back as the same number."""
        return repr(value)

    def read(self, text: str) -> float:
        """A decimal number."""
        return _number(text)


Span = tuple[int, int]


class Spans:
    """A stretch of places (first, last + 1), or None; in a link ``10-40``."""

    def check(self, value: Any) -> Span | None:
        """Two whole numbers, the first less than the second."""
        if value is None:
            return None
        first, last = map(Index().check, _listed(value, 2))
        if first is None or last is None or not first < last:
            raise ValueError(f"expected a first place and a later one, got {value!r}")
        return first, last

    def write(self, value: Any) -> str:
        """With a dash between them."""
        return "-".join(map(str, value))

    def read(self, text: str) -> list[int]:
        """Two numbers."""
        return [Index().read(part) for part in text.split("-", 1)]


class Heads:
    """A set of (site, head), sorted; in a link ``0:1.3.5-8~2:0``."""

    def check(self, value: Any) -> tuple[Head, ...]:
        """Each head once, in order."""
        index = Index()
        pairs = {(index.check(site), index.check(head)) for site, head in map(tuple, _listed(value, MAX_HEADS))}
        return tuple(sorted(pairs))  # type: ignore[arg-type]  # an Index that is not optional gives no None

    def write(self, value: Any) -> str:
        """Heads of a site as numbers and ranges."""
        sites = groupby(value, key=lambda pair: pair[0])
        return "~".join(f"{site}:{_ranges([head for _, head in pairs])}" for site, pairs in sites)

    def read(self, text: str) -> list[Head]:
        """The heads of all ranges."""
        found: list[Head] = []
        for part in filter(None, text.split("~")):
            site, _, heads = part.partition(":")
            for run in heads.split("."):
                first, _, last = run.partition("-")
                low, high = Index().read(first), Index().read(last or first)
                if high - low + len(found) >= MAX_HEADS:
                    raise ValueError(f"expected at most {MAX_HEADS} heads")
                found += [(Index().read(site), head) for head in range(low, high + 1)]
        return found


def _ranges(numbers: list[int]) -> str:
    """``1.3.5-8``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ".".join("-".join(map(str, run)) for run in runs)


@dataclass(frozen=True)
class OfType:
    """Keeps heads of a type (``previous_token``) of the table ``head_types``."""

    type: str


@dataclass(frozen=True)
class Between:
    """Keeps heads whose interval of ``statistic`` lies within ``low`` and ``high``; None is an open end."""

    statistic: str
    low: float | None
    high: float | None


class Filters:
    """Filters of heads; in a link ``type:induction,entropy:0.5:1``."""

    def check(self, value: Any) -> tuple[OfType | Between, ...]:
        """Each filter once, in the order given."""
        return tuple(dict.fromkeys(_filter(entry) for entry in _listed(value, MAX_FILTERS)))

    def write(self, value: Any) -> str:
        """Filters with commas between them."""
        return ",".join(_filter_text(entry) for entry in value)

    def read(self, text: str) -> list[Any]:
        """The parts of each filter, as lists."""
        parts = [entry.split(":") for entry in text.split(",") if entry]
        return [
            entry if entry[0] == "type" else [entry[0], *(_number(end) if end else None for end in entry[1:])]
            for entry in parts
        ]


def _filter(entry: Any) -> OfType | Between:
    """A filter from itself, ``["type", NAME]`` or ``[STATISTIC, LOW, HIGH]``."""
    parts = list(vars(entry).values()) if isinstance(entry, OfType | Between) else list(_listed(entry, 3))
    if isinstance(entry, OfType) or (len(parts) == 2 and parts[0] == "type"):
        return OfType(Column().check(parts[-1]))
    if len(parts) != 3:
        raise ValueError(f"expected a filter of a type or of a statistic with two ends, got {entry!r}")
    ends = [None if end is None else Number(-math.inf, math.inf).check(end) for end in parts[1:]]
    if any(end is not None and math.isinf(end) for end in ends):
        raise ValueError("an open end is None")
    return Between(Column().check(parts[0]), *ends)


def _filter_text(entry: OfType | Between) -> str:
    if isinstance(entry, OfType):
        return f"type:{entry.type}"
    low, high = ("" if end is None else repr(end) for end in (entry.low, entry.high))
    return f"{entry.statistic}:{low}:{high}"


def _listed(value: Any, longest: int) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple) or len(value) > longest:
        raise ValueError(f"expected a list of at most {longest} entries")
    return value


def _number(text: str) -> float:
    if not text.isascii() or len(text) > 32 or "_" in text:
        raise ValueError(f"expected a number, got {text[:40]!r}")
    return float(text)
