"""State ↔ query string. Only what differs from the default is written, so links stay short and readable.

A link holds at most :data:`MAX_QUERY` characters: typed texts and sets that do not fit are left out whole, and
:func:`left_out` names them, so that a link is never cut in the middle. Whatever does not parse falls back to the
default of its field: a link comes from anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from attnengine_explorer.state import KINDS, LINK_NAMES, ViewState, checked

MAX_QUERY = 4095
#: A text longer than this stays out of links.
MAX_LINKED_TEXT = 2_000
#: What may be left out, and what the page calls it.
_LONG = {
    "text_b": "the second text", "text": "the text", "search": "the search", "heads": "the chosen heads",
    "filters": "the filters", "lasso": "the lasso",
}  # fmt: skip
_FIELDS = {link: name for name, link in LINK_NAMES.items()}


def encode(state: ViewState) -> str:
    """The query string of a state, without the question mark; empty for the default state."""
    return _written(_kept_pairs(state))


def left_out(state: ViewState) -> list[str]:
    """What the link of a state does not hold, in words."""
    written = _kept_pairs(state)
    return [words for name, words in _LONG.items() if getattr(state, name) and name not in written]


def _kept_pairs(state: ViewState) -> dict[str, str]:
    """Field → text, for all that differs from the default and fits; the longest goes first if it does not."""
    default = ViewState()
    pairs = {
        name: kind.write(getattr(state, name))
        for name, kind in KINDS.items()
        if getattr(state, name) != getattr(default, name)
    }
    for name in ("text", "text_b"):
        if len(pairs.get(name, "")) > MAX_LINKED_TEXT:
            del pairs[name]
    while len(_written(pairs)) > MAX_QUERY:
        del pairs[max(set(_LONG) & set(pairs), key=lambda name: (len(_written({name: pairs[name]})), name))]
    return pairs


def _written(pairs: dict[str, str]) -> str:
    return urlencode([(LINK_NAMES[name], text) for name, text in pairs.items()], safe=":,~")


def decode(query: str) -> ViewState:
    """The state of a query string; unknown keys are ignored, impossible values become defaults."""
    if len(query) > MAX_QUERY + 1:
        return ViewState()
    try:
        return _state(parse_qsl(query.removeprefix("?"), max_num_fields=100, errors="replace"))
    except ValueError:
        return ViewState()


def of_request(arguments: Mapping[str, list[bytes]]) -> ViewState:
    """The state of a page's address, as a web server splits it."""
    pairs = [(key, values[-1].decode("utf-8", "replace")) for key, values in arguments.items() if values]
    return _state(pairs) if sum(len(key) + len(text) for key, text in pairs) <= MAX_QUERY else ViewState()


def _state(pairs: list[tuple[str, str]]) -> ViewState:
    values: dict[str, Any] = {}
    for key, text in pairs:
        name = _FIELDS.get(key)
        if name is None:
            continue
        try:
            values[name] = checked(name, KINDS[name].read(text))
        except ValueError:
            continue
    if ("site" in values) != ("head" in values):  # half a head is none
        values.pop("site", None)
        values.pop("head", None)
    return ViewState(**values)
