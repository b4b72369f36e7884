"""The one source of all heads: every figure and table of heads draws it, so that a choice in one is seen in all.

Rows are those of ``run.heads``. What is selected is what the state says: the chosen set of heads, else the open one.
``marked`` repeats the rows of those heads with the colour each has in every view, ``hovered`` that of the head under
the mouse.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from bokeh.models import ColumnDataSource, LinearColorMapper

from attnengine_explorer.fields import Head
from attnengine_explorer.filtering import passing
from attnengine_explorer.run_data import RunData
from attnengine_explorer.state import Action, Change, ChooseHeads, SelectHead, ViewState, changed
from attnengine_explorer.theme.colours import HEAD_COLOURS, SEQUENTIAL, head_colours, look

FADED = 0.13


def shown_together(state: ViewState) -> tuple[Head, ...]:
    """The heads that are drawn in colours of their own: the first of the chosen set, else the open one."""
    opened = () if state.selected is None else (state.selected,)
    return state.heads[: len(HEAD_COLOURS[False])] or opened


class HeadsSource:
    """``source`` has a row per head: name, site, head, alpha (faint if a filter leaves it out), and what views add."""

    def __init__(self, run: RunData, dispatch: Callable[[Action], None]) -> None:
        self.run = run
        self.notes = {"passing": ""}
        self._dispatch = dispatch
        self._dark = False
        self._state = ViewState()
        self.heads: list[Head] = list(run.index)
        self.passing = np.ones(len(self.heads), dtype=bool)
        columns = {
            "name": np.array([run.name(*head) for head in self.heads], dtype=object),
            "site": np.array([site for site, _ in self.heads], dtype=np.int32),
            "head": np.array([head for _, head in self.heads], dtype=np.int32),
            "alpha": np.ones(len(self.heads)),
        }
        #: The colours of the atlas, for whoever draws ``value``.
        self.mapper = LinearColorMapper(palette=list(SEQUENTIAL), low=0, high=1)
        self.source = ColumnDataSource(data=columns, name="heads")
        self.source.selected.on_change("indices", self._on_select)
        self.marked = ColumnDataSource(data={}, name="marked")
        self.hovered = ColumnDataSource(data={}, name="heads-hovered")  # js/hovered.js fills it

    def add(self, *columns: str) -> None:
        """Columns of numbers that a view will fill.

        ``marked`` and ``hovered`` get them at once too, unfilled: a figure that is made after the page reaches the
        browser before what :meth:`finish` says last.
        """
        self.source.data.update({name: np.full(len(self.heads), np.nan) for name in columns})
        # Set as a whole, so that it is sent as it is at the end of the batch: all its columns of one length.
        n = len(self.marked.data.get("ring", []))
        self.marked.data = dict(self.marked.data) | {name: np.full(n, np.nan) for name in columns}
        self.hovered.data = dict(self.hovered.data) | {name: np.array([]) for name in columns}

    def update(self, old: ViewState | None, new: ViewState) -> None:
        """Other filters let other heads pass."""
        self._state = new
        if changed(old, new, "filters"):
            self.passing = passing(self.run, new.filters)
            self.source.data["alpha"] = np.where(self.passing, 1.0, FADED)
            n = int(self.passing.sum())
            self.notes["passing"] = f"{n:,} of {len(self.heads):,} heads pass the filters" if new.filters else ""

    def finish(self) -> None:
        """Mark the chosen and the open head, after every view has put its columns in place."""
        self.source.selected.indices = self._indices()
        places = {head: row for row, head in enumerate(self.heads)}
        colours = head_colours(self._state.heads, self._dark)
        chosen = [head for head in self._state.heads if head != self._state.selected]
        marked = chosen if self._state.selected is None else [*chosen, self._state.selected]
        rows = np.array([places[head] for head in marked], dtype=np.int64)
        columns = {name: np.asarray(column) for name, column in self.source.data.items()}
        data = {name: column[rows] for name, column in columns.items() if column.dtype != object}
        rings = colours | ({} if self._state.selected is None else {self._state.selected: look(self._dark).selected})
        data["color"] = np.array([colours.get(head, rings[head]) for head in marked], dtype=object)
        data["ring"] = np.array([rings[head] for head in marked], dtype=object)
        self.marked.data = data

    def restyle(self, dark: bool) -> None:
        """Other colours for marked heads; they are drawn by :meth:`finish`."""
        self._dark = dark

    def _indices(self) -> list[int]:
        chosen, opened = set(self._state.heads), self._state.selected
        return [row for row, head in enumerate(self.heads) if (head in chosen if chosen else head == opened)]

    def _on_select(self, _attr: str, _old: list[int], new: list[int]) -> None:
        """One head was clicked, several were lassoed or shift-clicked, or nothing was."""
        if new == self._indices():
            return
        picked = [self.heads[row] for row in new if 0 <= row < len(self.heads)]  # numbers come from the browser
        if len(picked) > 1:
            self._dispatch(ChooseHeads(tuple(picked)))
        elif picked:
            self._dispatch(SelectHead(*picked[0]))
        elif not new:
            nothing = {"heads": ()} if self._state.heads else {"site": None, "head": None}
            self._dispatch(Change(nothing))
        self.source.selected.indices = self._indices()
