"""The exact pattern of the open head as a heatmap, of one sentence or two side by side."""

from __future__ import annotations

from attnengine.model.sentence import Sentence
from attnengine_explorer.desk import Desk
from attnengine_explorer.sentence.heatmap import Heatmap, heatmap
from attnengine_explorer.state import ViewState
from attnengine_explorer.views.heatmap_view import HeatmapFigure
from attnengine_explorer.views.sheets import Sheet, head_of


class HeatmapSheet(Sheet):
    """A row is a query, a column a key; of a long text a pixel is the largest weight of its block."""

    PLACES = ("heatmap", "heatmap-b")

    def __init__(self, desk: Desk, notes: dict[str, str]) -> None:
        super().__init__(desk, notes)
        notes.update({"heatmap": "", "heatmap-b": ""})
        self.figures = [HeatmapFigure("heatmap"), HeatmapFigure("heatmap-b")]
        self.roots = {name: one.figure for name, one in zip(self.PLACES, self.figures, strict=True)}

    def update(self, old: ViewState | None, new: ViewState, first: Sentence, second: Sentence | None) -> None:
        """Draw the open head's pattern."""
        site, head = head_of(new, first)
        if old is not None and head_of(old, first) == (site, head):
            return
        for name, figure, sentence in zip(self.PLACES, self.figures, (first, second), strict=True):
            if sentence is not None:
                self._draw(name, figure, sentence, site, head)

    def _draw(self, name: str, figure: HeatmapFigure, sentence: Sentence, site: int, head: int) -> None:
        call = sentence.attentions[site]

        def show(found: Heatmap) -> None:
            with self.desk.batch():
                figure.show(found, sentence.query_tokens(site), sentence.key_tokens(site))
                self.notes[name] = "" if found.exact else "a pixel is the largest weight of its block"

        def fail(problem: str) -> None:
            with self.desk.batch():
                self.notes[name] = problem

        self.desk.shelf.work(name, lambda _ticket: heatmap(call, head), show, fail)

    def restyle(self, dark: bool) -> None:
        """Take on the colours of the light or dark theme."""
        for figure in self.figures:
            figure.restyle(dark)
