"""Fifty people come and go: what a page costs, and that nothing of it stays."""

from __future__ import annotations

import gc
import weakref

import psutil
from bokeh.client import pull_session
from bokeh.document import Document

from attnengine_explorer.run_data import RunData
from attnengine_explorer.session import Session
from attnengine_explorer.state import PAGE_VIEWS, Change, ViewState
from tests.explorer.conftest import Served

SESSIONS = 50
MEGABYTE = 1024 * 1024


def test_fifty_pages_opened_and_closed_cost_less_than_ten_megabytes_each_and_leave_no_thread(runs):
    server = Served(runs["full"])
    try:
        process = psutil.Process(server.process.pid)
        open_and_close(server.url, 5)  # what the first page loads once for all
        before, threads = process.memory_info().rss, process.num_threads()
        open_and_close(server.url, SESSIONS)
        assert process.memory_info().rss - before < SESSIONS * 10 * MEGABYTE
        assert process.num_threads() <= threads
    finally:
        server.stop()


def open_and_close(url: str, n: int) -> None:
    for _ in range(n):
        session = pull_session(url=url.rstrip("/"))
        assert session.document.get_model_by_name("wire") is not None
        session.close()


def test_a_page_that_was_left_is_forgotten_with_all_it_drew(runs):
    run = RunData(runs["full"])
    document = Document()
    session = Session(document, run, ViewState(site=1, head=2), ["full"])
    for view in PAGE_VIEWS:
        session.dispatch(Change({"view": view}))
    left = [weakref.ref(one) for one in (session, session.desk, session.atlas, session.desk.heads.source, document)]
    document.clear()
    del session, document
    gc.collect()
    assert [one() for one in left] == [None] * len(left)
