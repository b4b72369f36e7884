"""The model view on the page: every head of a sentence, or the chosen ones; a click opens the head in the head view."""

from __future__ import annotations

from attnengine.model.sentence import Sentence
from attnengine_explorer.atlas import lay_out
from attnengine_explorer.desk import Desk
from attnengine_explorer.jobs import Ticket
from attnengine_explorer.sentence.thumbnails import ROWS, Head, Thumbnails, thumbnails
from attnengine_explorer.state import Change, ViewState
from attnengine_explorer.views import changed
from attnengine_explorer.views.model_view import ModelFigure
from attnengine_explorer.views.sheets import Sheet, head_of


class ModelSheet(Sheet):
    """One figure for all heads; of two sentences side by side a figure each."""

    PLACES = ("model-view", "model-view-b")

    def __init__(self, desk: Desk, notes: dict[str, str]) -> None:
        super().__init__(desk, notes)
        notes.update({"model-view": "", "model-view-b": ""})
        self.figures = [ModelFigure("model-view"), ModelFigure("model-view-b")]
        self.roots = {name: one.figure for name, one in zip(self.PLACES, self.figures, strict=True)}
        for one in self.figures:
            one.cells.selected.on_change("indices", lambda _attr, _old, _new, one=one: self._on_click(one))

    def update(self, old: ViewState | None, new: ViewState, first: Sentence, second: Sentence | None) -> None:
        """Draw the heads that are asked for, and outline the open one."""
        if changed(old, new, "part", "between") or (new.part == "chosen" and changed(old, new, "heads")):
            for name, figure, sentence in zip(self.PLACES, self.figures, (first, second), strict=True):
                if sentence is not None:
                    self._draw(name, figure, sentence, new)
        self._mark(head_of(new, first))

    def _mark(self, head: Head) -> None:
        for figure in self.figures:
            figure.mark(head)

    def _draw(self, name: str, figure: ModelFigure, sentence: Sentence, new: ViewState) -> None:
        heads = heads_of(sentence, new)
        names = {(site, head): sentence.attentions[site].name(head) for site, head in heads}
        sites = {site: sentence.attentions[site].site for site, _ in heads}
        rows = [(row.site.site, row.label) for row in lay_out(list(sites.values())).rows]
        between = new.between

        def show(found: Thumbnails) -> None:
            with self.desk.batch():
                figure.show(found, rows, names)
                self.notes[name] = _said(sentence)
                self._mark(head_of(self.desk.state, sentence))

        def fail(problem: str) -> None:
            with self.desk.batch():
                self.notes[name] = problem

        self.desk.shelf.work(name, lambda ticket: _work(sentence, heads, between, ticket), show, fail)

    def _on_click(self, figure: ModelFigure) -> None:
        head = figure.clicked()
        if self.desk.drawing or head is None:
            return
        with self.desk.batch():
            figure.cells.selected.indices = []  # so that the same head can be clicked again
        self.desk.dispatch(Change({"site": head[0], "head": head[1], "sheet": "head"}))

    def restyle(self, dark: bool) -> None:
        """Take on the colours of the light or dark theme."""
        for figure in self.figures:
            figure.restyle(dark)


def heads_of(sentence: Sentence, state: ViewState) -> list[Head]:
    """All heads, or those of the chosen set that the sentence has."""
    every = [(call.site.site, head) for call in sentence.attentions for head in range(len(call.query))]
    chosen = [head for head in every if head in set(state.heads)]
    return chosen if state.part == "chosen" and chosen else every


def _work(sentence: Sentence, heads: list[Head], between: str, ticket: Ticket) -> Thumbnails:
    n = len(heads)
    return thumbnails(sentence, heads, between, lambda done: ticket.reach(f"head {done + 1} of {n}", done / n))


def _said(sentence: Sentence) -> str:
    longest = max(call.shape[0] for call in sentence.attentions)
    return f"{ROWS} of {longest:,} queries, evenly spread" if longest > ROWS else ""
