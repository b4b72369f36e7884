"""Work that takes longer than a frame: done by threads, told to a page as it goes, and given up with its page.

Nothing here knows what is worked on. A job's function gets a :class:`Ticket` and calls ``ticket.reach(…)`` wherever it
can stop; its result comes back to the page's document in the event loop, never from the thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from bokeh.document import Document

T = TypeVar("T")
log = logging.getLogger("attnengine.explorer")

#: A model serves one forward at a time and uses every core; a second thread keeps other runs from waiting.
WORKERS = 2
#: Seconds between two looks at whether a waiting job was given up.
PATIENCE = 0.05


class CancelledError(Exception):
    """The job was given up: its page asked for something else, or is gone."""


class Ticket:
    """One job of one page. ``text`` says what it does, ``share`` how much of it is done, from 0 to 1."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._given_up = threading.Event()
        self.text = ""
        self.share = 0.0

    @property
    def given_up(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._given_up.is_set()

    def cancel(self) -> None:
        """Give the job up; it stops at its next ``reach``."""
        self._given_up.set()

    def reach(self, text: str, share: float) -> None:
        """Say how far the job is; raises CancelledError if it was given up."""
        if self.given_up:
            raise CancelledError
        self.text, self.share = text, share

    @contextmanager
    def turn(self, lock: threading.Lock) -> Iterator[None]:
        """Wait for ``lock`` and hold it; CancelledError if the job is given up meanwhile."""
        while not lock.acquire(timeout=PATIENCE):
            self.reach(self.text, self.share)
        try:
            yield
        finally:
            lock.release()

    def answer(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called in the event loop of the page, unless the job is given up before."""

        def told() -> None:
            if not self.given_up:
                tell()

        if not self.given_up:
            self._document.add_next_tick_callback(told)


class Jobs:
    """The threads of one server."""

    def __init__(self, workers: int = WORKERS) -> None:
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="attnengine-job")
        self._open: set[Ticket] = set()

    def start(
        self,
        document: Document,
        work: Callable[[Ticket], T],
        done: Callable[[T], None],
        failed: Callable[[Exception], None],
    ) -> Ticket:
        """Do ``work`` in a thread, then ``done`` with its result or ``failed`` with what it raised, in the page.

        It is given up when the page closes. Neither is called for a job that was given up.
        """
        ticket = Ticket(document)
        self._open.add(ticket)
        self._threads.submit(_do, ticket, work, done, failed).add_done_callback(lambda _: self._open.discard(ticket))
        return ticket

    def give_up(self) -> None:
        """Give up all jobs of all pages: the server stops."""
        for ticket in tuple(self._open):
            ticket.cancel()


def _do(
    ticket: Ticket, work: Callable[[Ticket], Any], done: Callable[[Any], None], failed: Callable[[Exception], None]
) -> None:
    try:
        ticket.reach("", 0.0)
        result = work(ticket)
    except CancelledError:
        return
    except Exception as error:
        problem = error  # Python forgets ``error`` where this block ends, before the page is told
        ticket.answer(lambda: failed(problem))
        return
    ticket.answer(lambda: done(result))


#: Shared by all sessions of a server's process.
JOBS = Jobs()
