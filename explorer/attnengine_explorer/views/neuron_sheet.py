"""The neuron view on the page: one query of the open head, neuron by neuron; a click on a token expands it."""

from __future__ import annotations

from attnengine.model.sentence import Sentence
from attnengine_explorer.desk import Desk
from attnengine_explorer.neuron_data import Sheet as Numbers
from attnengine_explorer.neuron_data import corpus_facts, of_query, whole
from attnengine_explorer.state import ViewState
from attnengine_explorer.views import changed
from attnengine_explorer.views.neuron_figure import NeuronFigure, sheet_columns, stream_columns
from attnengine_explorer.views.sheets import Sheet, head_of

#: Numbers that one click may send; of a larger text only the expanded query's own keys come.
MAX_BYTES = 350_000
NOTE = "neuron-view"


class NeuronSheet(Sheet):
    """Asks for the numbers of the open head; js/neurons.js draws them and follows the mouse."""

    PLACES = ("neuron-strip", "neuron-view")

    def __init__(self, desk: Desk, notes: dict[str, str]) -> None:
        super().__init__(desk, notes)
        notes[NOTE] = ""
        self.figure = NeuronFigure()
        self.roots = {"neuron-strip": self.figure.strip, "neuron-view": self.figure.root}
        self._whole = False

    def update(self, old: ViewState | None, new: ViewState, first: Sentence, second: Sentence | None) -> None:
        """Send another head, or another query of a long text; else only what the script has to know."""
        site, head = head_of(new, first)
        same = old is not None and head_of(old, first) == (site, head)
        if same and (self._whole or not changed(old, new, "pin", "pin_side", "key_span")):
            self._tell(new, first)
            return
        query = query_of(new, first)
        window = new.key_span

        def send(found: Numbers) -> None:
            with self.desk.batch():
                self._send(found, first)
                self.notes[NOTE] = "of the first sentence" if second is not None else ""
                self._tell(self.desk.state, first)

        def fail(problem: str) -> None:
            with self.desk.batch():
                self.notes[NOTE] = problem

        self.desk.shelf.work(NOTE, lambda _ticket: numbers(first, site, head, query, window), send, fail)

    def _send(self, found: Numbers, sentence: Sentence) -> None:
        queries, keys = sentence.query_tokens(found.site), sentence.key_tokens(found.site)
        streams = [queries] if queries is keys else [queries, keys]
        facts = corpus_facts(self.desk.run.head_rows("neurons", found.site, found.head), found.q.shape[1])
        self.figure.streams.data = stream_columns(streams)
        self.figure.sheets.data = sheet_columns([(found, 0, len(streams) - 1, facts)])
        self._whole = found.row_pattern is None

    def _tell(self, new: ViewState, sentence: Sentence) -> None:
        span = new.key_span
        self.desk.tell(
            "neurons",
            {
                "query": query_of(new, sentence), "order": new.neurons_by, "side": new.between, "only": new.only_key,
                "span": None if span is None else list(span),
            },
        )  # fmt: skip

    def restyle(self, dark: bool) -> None:
        """Take on the colours of the light or dark theme."""
        self.figure.restyle(dark)


def query_of(state: ViewState, sentence: Sentence) -> int:
    """The query that is expanded: the token that was clicked, else the middle one."""
    site, _ = head_of(state, sentence)
    n_queries = sentence.attentions[site].shape[0]
    if state.pin is None or state.pin_side != "query":
        return n_queries // 2
    return min(state.pin, n_queries - 1)


def numbers(sentence: Sentence, site: int, head: int, query: int, window: tuple[int, int] | None) -> Numbers:
    """All queries and keys of a head if one click may send them, else what one query of them needs."""
    call = sentence.attentions[site]
    n, m, width = *call.shape, call.query.shape[2]
    bias = 8 * n * m if call.bias is not None else 0
    if (8 * n + 4 * m) * width + bias + 28 * n <= MAX_BYTES:
        return whole(call, head)
    return of_query(call, head, query, window)
