"""The head view on the page: the layer of the open head, one sentence or two side by side, and a map of long texts."""

from __future__ import annotations

from typing import Any

from bokeh.models import Column

from attnengine.model.sentence import Sentence
from attnengine_explorer.desk import Desk
from attnengine_explorer.jobs import Ticket
from attnengine_explorer.sentence.heatmap import heatmap
from attnengine_explorer.sentence.tokens import windows
from attnengine_explorer.state import Change, ViewState
from attnengine_explorer.views import changed
from attnengine_explorer.views.head_view import HeadFigure, Shown, shown
from attnengine_explorer.views.heatmap_view import HeatmapFigure
from attnengine_explorer.views.sheets import Sheet, head_of

#: Tokens a side whose lines are drawn at once; of longer texts the map chooses which.
MOST_TOKENS = 128
NOTES = ("head-lines", "head-lines-b")
_OPTIONS = ("between", "special", "threshold", "picks", "pin", "pin_side")


class HeadSheet(Sheet):
    """``lines`` of the first sentence, ``lines-b`` of the second, ``map`` the whole pattern of a long first one."""

    PLACES = ("head-lines", "head-lines-b", "head-map")

    def __init__(self, desk: Desk, notes: dict[str, str]) -> None:
        super().__init__(desk, notes)
        notes.update(dict.fromkeys(NOTES, ""))
        self.figures = [HeadFigure("head-view"), HeadFigure("head-view-b")]
        self.map = HeatmapFigure("head-map", brush=True)
        columns = [Column(one.heads, one.figure, sizing_mode="stretch_width") for one in self.figures]
        self.roots = {"head-lines": columns[0], "head-lines-b": columns[1], "head-map": self.map.figure}
        self._mapped: tuple[Sentence, int, int] | None = None
        for one in self.figures:
            one.squares.on_change("data", lambda _attr, _old, _new, one=one: self._on_heads(one))
            one.options.on_change("data", lambda _attr, _old, _new, one=one: self._on_pin(one))
        assert self.map.window is not None
        self.map.window.on_change("data", self._on_brush)

    def update(self, old: ViewState | None, new: ViewState, first: Sentence, second: Sentence | None) -> None:
        """Draw the lines of the open head's layer, or only what this step changed."""
        site, head = head_of(new, first)
        was = None if old is None else head_of(old, first)
        if was is None or was[0] != site or changed(old, new, "query_span", "key_span"):
            for figure, note, sentence in zip(self.figures, NOTES, (first, second), strict=True):
                self._ask(figure, note, sentence, site, new)
        if changed(old, new, "site", "head", "heads"):
            self._light(new, first)
        if changed(old, new, *_OPTIONS):
            self._option(new)
        if was != (site, head) or changed(old, new, "query_span", "key_span"):
            self._map(first, site, head, new)

    def _ask(self, figure: HeadFigure, note: str, sentence: Sentence | None, site: int, new: ViewState) -> None:
        """The lines of a layer; in a thread where they take longer than a frame."""
        slot = figure.name
        if sentence is None:
            self.desk.shelf.give_up(slot)
            return
        call = sentence.attentions[site]
        spans = spans_of(new, call.shape)
        rows = spans[0].stop - spans[0].start
        cost = len(call.query) * rows * call.shape[1]

        def draw(found: Shown) -> None:
            with self.desk.batch():
                self.notes[note] = said(found)
                figure.show(found)
                self._light(self.desk.state, sentence)

        if cost < CHEAP:
            draw(shown(sentence, site, *spans))
        else:
            self.desk.shelf.work(slot, lambda ticket: _shown(ticket, sentence, site, spans), draw, self._failed(note))

    def _failed(self, note: str) -> Any:
        def say(problem: str) -> None:
            with self.desk.batch():
                self.notes[note] = problem

        return say

    def _light(self, new: ViewState, sentence: Sentence) -> None:
        """The heads of this layer that are chosen, else the open one, else all."""
        site, _ = head_of(new, sentence)
        chosen = {head for where, head in new.heads if where == site}
        lit = chosen or ({new.head} if new.head is not None else set(range(len(sentence.attentions[site].query))))
        for figure in self.figures:
            figure.light(lit)

    def _option(self, new: ViewState) -> None:
        for figure in self.figures:
            figure.option(
                between=new.between, hide=int(new.special == "hidden"), threshold=new.threshold,
                many=int(new.picks == "many"), pin=-1 if new.pin is None else new.pin, pin_side=new.pin_side,
            )  # fmt: skip

    def _map(self, first: Sentence, site: int, head: int, new: ViewState) -> None:
        """The whole pattern of a head whose text is too long for lines, with the window that is drawn."""
        call = first.attentions[site]
        self.desk.tell("sentence-map", max(call.shape) > MOST_TOKENS)
        if max(call.shape) <= MOST_TOKENS:
            return
        self.map.frame(*spans_of(new, call.shape))
        queries, keys = first.query_tokens(site), first.key_tokens(site)
        if self._mapped is not None and self._mapped[0] is first and self._mapped[1:] == (site, head):
            return
        self._mapped = (first, site, head)

        def draw(found: Any) -> None:
            with self.desk.batch():
                self.map.show(found, queries, keys)

        self.desk.shelf.work(
            "head-map", lambda _ticket: heatmap(call, head, MAP_PIXELS), draw, self._failed("head-lines")
        )

    def _on_heads(self, figure: HeadFigure) -> None:
        """Squares were clicked."""
        if self.desk.drawing:
            return
        state = self.desk.state
        first = self.desk.shelf.first
        if first is None:
            return
        site, head = head_of(state, first)
        lit = figure.lit
        if not lit:
            return
        if head not in lit:
            head = min(lit)
        heads = tuple((site, one) for one in sorted(lit)) if len(lit) > 1 else ()
        self.desk.dispatch(Change({"site": site, "head": head, "heads": heads}))

    def _on_pin(self, figure: HeadFigure) -> None:
        """A token was clicked, or let go of."""
        if not self.desk.drawing:
            pin, side = figure.options.data["pin"][0], figure.options.data["pin_side"][0]
            self.desk.dispatch(Change({"pin": None if pin < 0 else int(pin), "pin_side": side}))

    def _on_brush(self, _attr: str, _old: Any, new: dict[str, Any]) -> None:
        """A part of the map was chosen."""
        first = self.desk.shelf.first
        if self.desk.drawing or first is None or not new["x0"]:
            return
        shape = first.attentions[head_of(self.desk.state, first)[0]].shape
        rows = around(float(new["y0"][0]), float(new["y1"][0]), shape[0])
        columns = around(float(new["x0"][0]), float(new["x1"][0]), shape[1])
        self.desk.dispatch(Change({"query_span": rows, "key_span": columns, "pin": None}))

    def restyle(self, dark: bool) -> None:
        """Take on the colours of the light or dark theme."""
        for figure in self.figures:
            figure.restyle(dark)
        self.map.restyle(dark)


#: A side of the map: 160 kB beside the lines.
MAP_PIXELS = 200
#: Weights of one step that are computed at once, without a thread: a few milliseconds.
CHEAP = 400_000


def _shown(ticket: Ticket, sentence: Sentence, site: int, spans: tuple[slice, slice]) -> Shown:
    ticket.reach("computing patterns", 0.1)
    return shown(sentence, site, *spans)


def spans_of(state: ViewState, shape: tuple[int, int]) -> tuple[slice, slice]:
    """The queries and keys whose lines are drawn: what was brushed, at most :data:`MOST_TOKENS` of each."""
    both = []
    for span, n in zip((state.query_span, state.key_span), shape, strict=True):
        first, last = span or (0, n)
        both.append(windows(n, first, max(1, min(last - first, MOST_TOKENS, n))))
    return both[0], both[1]


def around(one: float, other: float, n: int) -> tuple[int, int]:
    """The places between two of an axis, or where they are (nearly) the same a full window around them."""
    low, high = sorted((round(one), round(other)))
    if high - low < 2:
        found = windows(n, low - MOST_TOKENS // 2, MOST_TOKENS)
        return found.start, found.stop
    low = min(max(low, 0), n - 2)
    return low, min(max(high + 1, low + 1), low + MOST_TOKENS, n)


def said(found: Shown) -> str:
    """What the picture leaves out, if it does."""
    parts = []
    queries, keys = len(found.queries), len(found.keys)
    if max(queries, keys) > MOST_TOKENS:
        rows, columns = found.query_span, found.key_span
        parts.append(f"queries {rows.start}–{rows.stop - 1} of {queries:,}, keys {columns.start}–{columns.stop - 1}")
    if found.lines.floor > 0:
        parts.append(f"lines below {found.lines.floor:.2g} are left out")
    return " · ".join(parts)
