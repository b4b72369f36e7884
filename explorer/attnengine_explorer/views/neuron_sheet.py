"""The neuron view on the page: one query of the open head, neuron by neuron; a click on a token expands it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnengine.model.sentence import Sentence
from attnengine_explorer.desk import Desk
from attnengine_explorer.neuron_data import Sheet as Numbers
from attnengine_explorer.neuron_data import corpus_facts, of_query, whole
from attnengine_explorer.state import ViewState
from attnengine_explorer.views import changed
from attnengine_explorer.views.neuron_figure import NeuronFigure, sheet_columns, stream_columns
from attnengine_explorer.views.sheets import Sheet, head_of

#: Numbers that one click may send, of both texts together; of larger ones only the expanded query's own keys come.
MAX_BYTES = 350_000


class NeuronSheet(Sheet):
    """The open head on one text, or on two, one below the other; js/neurons.js draws and follows the mouse."""

    PLACES = ("neuron-strip", "neuron-view", "neuron-strip-b", "neuron-view-b")

    def __init__(self, desk: Desk, notes: dict[str, str]) -> None:
        super().__init__(desk, notes)
        self.texts = [NeuronText(desk, notes, name, half, self._tell) for name, half in (("qk", ""), ("qk-b", "-b"))]
        self.roots = {place: root for text in self.texts for place, root in text.roots.items()}
        self._shown: list[dict[str, Any]] = []

    def update(self, old: ViewState | None, new: ViewState, first: Sentence, second: Sentence | None) -> None:
        """Send another head, or another query of a long text; else only what the script has to know."""
        room = MAX_BYTES if second is None else MAX_BYTES // 2
        titles = ("", "") if second is None else ("first text", "second text, neurons in the first one's order")
        self._shown = []
        for text, sentence, title in zip(self.texts, (first, second), titles, strict=True):
            if sentence is None:
                text.leave()
                continue
            query = query_of(new, first, sentence)
            self._shown.append({"figure": text.figure.name, "query": query})
            text.update(old, new, sentence, query, title, room)
        self._tell()

    def _tell(self) -> None:
        """What the script has to know: which query of each text, and what is left of its rows and columns."""
        state = self.desk.state
        span = None if state.key_span is None else list(state.key_span)
        choice = {"order": state.neurons_by, "side": state.between, "only": state.only_key, "span": span}
        self.desk.tell("neurons", {"texts": self._shown, **choice})

    def restyle(self, dark: bool) -> None:
        """Take on the colours of the light or dark theme."""
        for text in self.texts:
            text.figure.restyle(dark)


class NeuronText:
    """One text: asks for the numbers of the open head, gives them to its figure, and says so by ``tell``."""

    def __init__(self, desk: Desk, notes: dict[str, str], name: str, half: str, tell: Callable[[], None]) -> None:
        self.desk = desk
        self.notes = notes
        self.figure = NeuronFigure(name)
        self.note = f"neuron-view{half}"
        self.roots = {f"neuron-strip{half}": self.figure.strip, self.note: self.figure.root}
        self._tell = tell
        self._whole = False
        notes[self.note] = ""

    def leave(self) -> None:
        """There is no such text: what was asked for it is not wanted any more."""
        self.desk.shelf.give_up(self.note)

    def update(
        self, old: ViewState | None, new: ViewState, sentence: Sentence, query: int, title: str, room: int
    ) -> None:
        """Ask, unless what is there serves ``new`` too. ``room`` is how many bytes may be sent."""
        self.notes[self.note] = title
        site, head = head_of(new, sentence)
        same = old is not None and head_of(old, sentence) == (site, head)
        if same and (self._whole or not changed(old, new, "pin", "pin_side", "key_span")):
            return
        window = new.key_span

        def send(found: Numbers) -> None:
            with self.desk.batch():
                self._send(found, sentence)
                self._tell()

        def fail(problem: str) -> None:
            with self.desk.batch():
                self.notes[self.note] = problem

        self.desk.shelf.work(self.note, lambda _ticket: numbers(sentence, site, head, query, window, room), send, fail)

    def _send(self, found: Numbers, sentence: Sentence) -> None:
        queries, keys = sentence.query_tokens(found.site), sentence.key_tokens(found.site)
        streams = [queries] if queries is keys else [queries, keys]
        facts = corpus_facts(self.desk.run.head_rows("neurons", found.site, found.head), found.q.shape[1])
        self.figure.streams.data = stream_columns(streams)
        self.figure.sheets.data = sheet_columns([(found, 0, len(streams) - 1, facts)])
        self._whole = found.row_pattern is None


def query_of(state: ViewState, first: Sentence, sentence: Sentence) -> int:
    """The query of a text that is expanded: the token that was clicked, else the middle one of the first text."""
    site, _ = head_of(state, first)
    pinned = None if state.pin_side != "query" else state.pin
    query = first.attentions[site].shape[0] // 2 if pinned is None else pinned
    return min(query, sentence.attentions[site].shape[0] - 1)


def numbers(
    sentence: Sentence, site: int, head: int, query: int, window: tuple[int, int] | None, room: int = MAX_BYTES
) -> Numbers:
    """All queries and keys of a head if ``room`` bytes hold them, else what one query of them needs."""
    call = sentence.attentions[site]
    n, m, width = *call.shape, call.query.shape[2]
    bias = 8 * n * m if call.bias is not None else 0
    if (8 * n + 4 * m) * width + bias + 28 * n <= room:
        return whole(call, head)
    return of_query(call, head, query, window)
