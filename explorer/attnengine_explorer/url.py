"""State ↔ query string. Only what differs from the default is written, so links stay short and readable.

Whatever does not parse falls back to the default of its field: a link comes from anybody.
"""

from __future__ import annotations

from dataclasses import fields
from urllib.parse import parse_qsl, urlencode

from attnengine_explorer.state import CHOICES, COLUMNS, MAX_INDEX, ViewState, checked

MAX_QUERY = 4096
_INTEGERS = ("run", "site", "head")
#: What a field is called in a link, where that is shorter than its name.
_KEYS = {"statistic": "stat", "neuron_statistic": "neurons", "neuron_order": "sort", "color_by": "color"}
_FIELDS = {_KEYS.get(f.name, f.name): f.name for f in fields(ViewState)}


def encode(state: ViewState) -> str:
    """The query string of a state, without the question mark; empty for the default state."""
    default = ViewState()
    pairs = [
        (key, str(getattr(state, name)))
        for key, name in _FIELDS.items()
        if getattr(state, name) != getattr(default, name)
    ]
    return urlencode(pairs)


def decode(query: str) -> ViewState:
    """The state of a query string; unknown keys are ignored, impossible values become defaults."""
    if len(query) > MAX_QUERY:
        return ViewState()
    try:
        pairs = parse_qsl(query.removeprefix("?"), max_num_fields=100, errors="replace")
    except ValueError:
        return ViewState()
    values: dict[str, str | int] = {}
    for key, text in pairs:
        name = _FIELDS.get(key)
        value = None if name is None else _parse(name, text)
        if name is not None and value is not None:
            values[name] = value
    if ("site" in values) != ("head" in values):  # half a head is none
        values.pop("site", None)
        values.pop("head", None)
    return ViewState(**values)  # type: ignore[arg-type]  # each value was parsed for its own field


def _parse(name: str, text: str) -> str | int | None:
    if name in _INTEGERS:
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 7 else -1
        return number if 0 <= number <= MAX_INDEX else None
    assert name in CHOICES or name in COLUMNS
    try:
        return checked(name, text)
    except ValueError:
        return None
