"""Jobs: told to their page, given up with it, and never in each other's way."""

from __future__ import annotations

import threading
import time

import pytest
from bokeh.document import Document

from attnengine_explorer.jobs import CancelledError, Jobs, Ticket


def run_callbacks(document: Document) -> None:
    """What the server's event loop does with the callbacks that are due."""
    for callback in list(document.session_callbacks):
        callback.callback()


def wait(document: Document, until, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        run_callbacks(document)
        time.sleep(0.005)


def test_a_result_and_an_error_come_back_in_the_event_loop_and_not_from_the_thread():
    document, jobs, got = Document(), Jobs(), []
    where: list[str] = []

    def work(ticket: Ticket) -> int:
        where.append(threading.current_thread().name)
        return 7

    def fail(ticket: Ticket) -> int:
        raise ValueError("no")

    jobs.start(document, work, lambda n: got.append((n, threading.current_thread().name)), got.append)
    wait(document, lambda: got)
    assert got == [(7, "MainThread")]
    assert where[0].startswith("attnengine-job")
    jobs.start(document, fail, got.append, lambda error: got.append(str(error)))
    wait(document, lambda: len(got) == 2)
    assert got[1] == "no"


def test_a_job_that_is_given_up_stops_at_its_next_step_and_says_nothing():
    document, jobs, got, steps = Document(), Jobs(), [], []
    ended = threading.Event()

    def work(ticket: Ticket) -> None:
        try:
            while True:
                ticket.reach("counting", 0.5)
                steps.append(1)
                time.sleep(0.002)
        except CancelledError:
            ended.set()
            raise

    ticket = jobs.start(document, work, got.append, got.append)
    wait(document, lambda: steps)
    assert (ticket.text, ticket.share) == ("counting", 0.5)
    ticket.cancel()
    assert ended.wait(5)
    time.sleep(0.02)
    run_callbacks(document)
    assert got == []
    assert document.session_callbacks == []


def test_an_answer_that_is_under_way_when_its_job_is_given_up_is_not_told():
    document, jobs, got = Document(), Jobs(), []
    ticket = jobs.start(document, lambda _: 1, got.append, got.append)
    end = time.monotonic() + 5
    while not document.session_callbacks:
        assert time.monotonic() < end
        time.sleep(0.002)
    ticket.cancel()
    run_callbacks(document)
    assert got == []


def test_waiting_for_a_turn_ends_when_the_job_is_given_up():
    lock, ticket = threading.Lock(), Ticket(Document())
    lock.acquire()
    threading.Timer(0.1, ticket.cancel).start()
    with pytest.raises(CancelledError), ticket.turn(lock):
        raise AssertionError("the lock was never free")
    lock.release()
    with Ticket(Document()).turn(lock):
        assert lock.locked()
    assert not lock.locked()
