"""What is drawn with Bokeh: each view is its sources, a ``root`` and ``update(old, new)``.

A view reads its numbers from the modules that know no Bokeh and changes only what a step of the state changed.
"""

from __future__ import annotations

from typing import Protocol

from bokeh.models import LayoutDOM

from attnengine_explorer.state import ViewState


class View(Protocol):
    """One panel of the page. ``notes`` are short texts the frame shows beside it, by the id of their place."""

    root: LayoutDOM
    notes: dict[str, str]

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Draw ``new``; ``old`` is what is drawn now, None the first time."""

    def restyle(self, dark: bool) -> None:
        """Take on the colours of the light or dark theme."""


def changed(old: ViewState | None, new: ViewState, *names: str) -> bool:
    """Whether one of these fields differs, or nothing was drawn before."""
    return old is None or any(getattr(old, name) != getattr(new, name) for name in names)
