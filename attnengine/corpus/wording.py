"""Words of others in our messages and tables: one line, nothing that a terminal would act on."""

from __future__ import annotations

from typing import Any


def said(error: Exception) -> str:
    """What a library's error says, as one short line: some repeat lines of the damaged file."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    line = " ".join("".join(c if c.isprintable() or c.isspace() else "�" for c in words).split())
    return line if len(line) <= 300 else f"{line[:300]}…"


def printable(name: Any) -> str:
    """A file's name as it can be stored and shown: bytes that are not UTF-8 and control characters as escapes."""
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
