"""The one state of the explorer and the pure function that changes it.

Everything a person can do is an action; ``reduce(state, action)`` gives the next state. The state fits in a link
(:mod:`attnengine_explorer.url`), so that a page can be sent to a colleague, reloaded and walked back.

A later view adds its fields to :class:`ViewState`, their allowed values to :data:`CHOICES` and needs no other change
here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

THEMES = ("auto", "light", "dark")

#: Fields with a closed list of values.
CHOICES: dict[str, tuple[str, ...]] = {
    "view": ("overview",),
    "show": ("statistic", "pattern"),
    "order": ("head", "value"),
    "neuron_order": ("neuron", "value"),
    "color_by": ("side", "position", "entropy"),
    "theme": THEMES,
}
#: Fields that name a column of a table. Which columns exist is known only with a run (:meth:`ViewState.fitted`).
COLUMNS = ("statistic", "neuron_statistic")
COLUMN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")
MAX_INDEX = 100_000


@dataclass(frozen=True)
class ViewState:
    """What is on the screen. ``site`` and ``head`` are both None or both set."""

    run: int = 0
    view: str = "overview"
    statistic: str = "entropy_normalized"
    show: str = "statistic"
    order: str = "head"
    site: int | None = None
    head: int | None = None
    neuron_statistic: str = "score_variance_share"
    neuron_order: str = "value"
    color_by: str = "side"
    theme: str = "auto"

    @property
    def selected(self) -> tuple[int, int] | None:
        """The (site, head) that is open, if one is."""
        return None if self.site is None or self.head is None else (self.site, self.head)


@dataclass(frozen=True)
class Choose:
    """A control was set: one of :data:`CHOICES` or :data:`COLUMNS`."""

    name: str
    value: str


@dataclass(frozen=True)
class SelectHead:
    """A head was clicked, or reached with the arrow keys."""

    site: int
    head: int


@dataclass(frozen=True)
class Clear:
    """Esc: close the head."""


@dataclass(frozen=True)
class Visit:
    """A link was followed: the back button, or a reload."""

    state: ViewState


Action = Choose | SelectHead | Clear | Visit


def reduce(state: ViewState, action: Action) -> ViewState:
    """The next state. ValueError if the action asks for something that does not exist."""
    match action:
        case Choose(name, value):
            changes: dict[str, Any] = {name: checked(name, value)}
            return replace(state, **changes)
        case SelectHead(site, head):
            if not (0 <= site <= MAX_INDEX and 0 <= head <= MAX_INDEX):
                raise ValueError(f"expected a site and a head from 0 to {MAX_INDEX}, got {site} and {head}")
            return replace(state, site=site, head=head)
        case Clear():
            return replace(state, site=None, head=None)
        case Visit(other):
            return other
    raise ValueError(f"unknown action {action!r}")


def checked(name: str, value: str) -> str:
    """``value`` if the field ``name`` may hold it, else ValueError."""
    if name in COLUMNS and COLUMN_NAME.match(value):
        return value
    if value in CHOICES.get(name, ()):
        return value
    raise ValueError(f"{name!r} cannot be {value!r}")


@dataclass
class History:
    """Undo and redo over states. A step back keeps what was undone until something new is done."""

    past: list[ViewState] = field(default_factory=list)
    future: list[ViewState] = field(default_factory=list)
    limit: int = 100

    def record(self, before: ViewState) -> None:
        """``before`` was left for something new."""
        self.past = [*self.past, before][-self.limit :]
        self.future.clear()

    def undo(self, now: ViewState) -> ViewState:
        """The state before ``now``, or ``now`` where there is none."""
        if not self.past:
            return now
        self.future.append(now)
        return self.past.pop()

    def redo(self, now: ViewState) -> ViewState:
        """The state that was undone last, or ``now`` where there is none."""
        if not self.future:
            return now
        self.past.append(now)
        return self.future.pop()
