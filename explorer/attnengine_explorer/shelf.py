"""The sentences of one page: asked for, waited for in a thread, shown when they are there, given up when it goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from attnengine.errors import AttnEngineError
from attnengine.model.sentence import Sentence
from attnengine_explorer.jobs import JOBS, Ticket
from attnengine_explorer.run_data import RunData
from attnengine_explorer.sentence.placed import Placed, placed
from attnengine_explorer.sentence.studio import Asked, Stored, Typed
from attnengine_explorer.state import ViewState

if TYPE_CHECKING:
    from attnengine_explorer.desk import Desk

T = TypeVar("T")
#: Milliseconds between two looks at how far a job is.
LOOK = 200


class Shelf:
    """One per session. Each kind of work (``slot``) has one job at most: a newer one gives the older one up.

    ``first`` and ``second`` are the sentences that were made last, None before any; ``asked`` is what they answer.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._open: dict[str, Ticket] = {}
        self._told: dict[str, tuple[str, float]] = {}
        self._watch: Any = None
        self.asked: tuple[Asked | None, Asked | None] = (None, None)
        self.first: Sentence | None = None
        self.second: Sentence | None = None
        if desk.document.session_context is not None:
            desk.document.on_session_destroyed(self._leave)

    def want(self, state: ViewState, done: Callable[[], None], failed: Callable[[str], None]) -> bool:
        """Have the sentences that ``state`` names; True if they are there now, else ``done`` is called once they are.

        ``failed`` is called with one sentence for the person where they cannot be had.
        """
        asked = asked_of(self._desk.run, state)
        if asked == self.asked:
            return True
        self.give_up("sentence")
        made = tuple(None if one is None else self._desk.run.studio.known(one) for one in asked)
        if all((one is None) == (found is None) for one, found in zip(asked, made, strict=True)):
            self.asked, (self.first, self.second) = asked, made
            return True

        def arrived(found: list[Sentence | None]) -> None:
            self.asked, (self.first, self.second) = asked, found
            done()

        def make(ticket: Ticket) -> list[Sentence | None]:
            return [None if one is None else self._desk.run.studio.make(one, ticket) for one in asked]

        self.work("sentence", make, arrived, failed)
        return False

    def place(self, state: ViewState, done: Callable[[Placed], None], failed: Callable[[str], None]) -> None:
        """Place the first sentence that ``state`` names in the cloud of its open head."""
        asked, selected = asked_of(self._desk.run, state)[0], state.selected
        if asked is None or selected is None:
            failed("type a sentence and open a head first")
            return

        def make(ticket: Ticket) -> Placed:
            sentence = self._desk.run.studio.make(asked, ticket)
            ticket.reach("placing its tokens in the cloud", 0.9)
            return placed(self._desk.run.run, sentence, *selected)

        self.work("place", make, done, failed)

    def work(
        self, slot: str, make: Callable[[Ticket], T], done: Callable[[T], None], failed: Callable[[str], None]
    ) -> None:
        """Do ``make`` in a thread in place of what the slot did before."""
        self.give_up(slot)

        def finish(ticket: Ticket) -> bool:
            mine = self._open.get(slot) is ticket
            if mine:
                self._close(slot)
            return mine

        def good(result: T) -> None:
            if finish(ticket):
                done(result)

        def bad(error: Exception) -> None:
            if finish(ticket):
                failed(_in_words(error))

        ticket = JOBS.start(self._desk.document, make, good, bad)
        self._open[slot] = ticket
        self._tell(slot, "", 0.0)
        if self._watch is None:
            self._watch = self._desk.document.add_periodic_callback(self._look, LOOK)

    def give_up(self, slot: str | None = None) -> None:
        """Stop the job of a slot, or all of them."""
        for name in [slot] if slot is not None else list(self._open):
            ticket = self._open.get(name)
            if ticket is not None:
                ticket.cancel()
                self._close(name)

    def is_busy(self, slot: str) -> bool:
        """Whether a job of this kind is under way."""
        return slot in self._open

    def _close(self, slot: str) -> None:
        del self._open[slot]
        self._tell(slot, "", 1.0)
        if not self._open and self._watch is not None:
            watch, self._watch = self._watch, None
            if watch in self._desk.document.session_callbacks:  # a page that is gone has let go of it
                self._desk.document.remove_periodic_callback(watch)

    def _leave(self, _context: Any) -> None:
        """The page is gone."""
        for ticket in self._open.values():
            ticket.cancel()

    def _tell(self, slot: str, text: str, share: float) -> None:
        """Say how far the job of a slot is, where that is news; a share of 1.0 is over."""
        news = (text, round(share, 2))
        if self._told.get(slot) != news:
            self._told[slot] = news
            self._desk.say("job", {"slot": slot, "text": text, "share": share})

    def _look(self) -> None:
        for slot, ticket in list(self._open.items()):
            self._tell(slot, ticket.text, ticket.share)


def asked_of(run: RunData, state: ViewState) -> tuple[Asked | None, Asked | None]:
    """What the state names: one sentence, or two to be compared side by side, or none."""
    if not state.text.strip():
        return (None if state.document is None else Stored(state.document, window_of(run, state)), None)
    if not state.text_b.strip():
        return Typed(state.text), None
    if state.second == "beside":
        return Typed(state.text), Typed(state.text_b)
    if state.second == "decoder":
        return Typed(state.text, None, state.text_b), None
    return Typed(state.text, state.text_b), None


def window_of(run: RunData, state: ViewState) -> int:
    """Which window of the document is shown: the chosen one, else that of the chosen token, else the first."""
    if state.doc_window is not None:
        return state.doc_window
    tokens, windows = run.table("tokens"), run.table("windows")
    if state.token is None or tokens is None or windows is None or state.token >= len(tokens):
        return 0
    row = tokens.iloc[state.token]
    if row["document"] != state.document:
        return 0
    return int(row["window"] - windows.loc[windows["document"] == state.document, "window"].min())


def _in_words(error: Exception) -> str:
    """What a person is told; what is no message of ours is a bug and is raised where the log sees it."""
    if isinstance(error, AttnEngineError | ValueError):
        return str(error)
    raise error
