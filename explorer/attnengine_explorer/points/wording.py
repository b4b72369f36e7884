"""A token's text as it is shown: its spaces, line breaks and control characters visible, and never long."""

from __future__ import annotations

import unicodedata

SPACE, NEWLINE, TAB = "␣", "↵", "⇥"
MAX_TOKEN = 40
_SHOWN = str.maketrans({" ": SPACE, "\n": NEWLINE, "\r": NEWLINE, "\t": TAB})


def visible(text: object, longest: int = MAX_TOKEN) -> str:
    """The text, or a note that it was not kept. Marks that would turn the line's direction are shown as ◌."""
    if not isinstance(text, str):
        return "(text not kept)"
    shown = text[: 4 * longest].translate(_SHOWN)
    shown = "".join("◌" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co") else c for c in shown)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"
