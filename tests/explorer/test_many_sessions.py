"""Many people come and go: what a page costs, and that nothing of it stays."""

from __future__ import annotations

import gc
import re
import socket
import weakref

import psutil
import pytest
from bokeh.document import Document

from attnengine_explorer.run_data import RunData
from attnengine_explorer.session import Session
from attnengine_explorer.state import PAGE_VIEWS, Change, ViewState
from tests.explorer.conftest import Served
from tests.explorer.test_server import get

MEGABYTE = 1024 * 1024


@pytest.mark.parametrize("pages", [8, pytest.param(50, marks=pytest.mark.acceptance)])
def test_pages_opened_and_closed_cost_less_than_ten_megabytes_each_and_leave_no_thread(runs, pages):
    server = Served(runs["full"])
    try:
        process = psutil.Process(server.process.pid)
        open_and_close(server.url, 3)  # what the first page loads once for all
        before, threads = process.memory_info().rss, process.num_threads()
        open_and_close(server.url, pages)
        assert process.memory_info().rss - before < pages * 10 * MEGABYTE
        assert process.num_threads() <= threads
    finally:
        server.stop()


def open_and_close(url: str, n: int) -> None:
    """As a browser does: the page, then a web socket with the token that the page holds."""
    port = int(url.rsplit(":", 1)[1].strip("/"))
    for _ in range(n):
        _, _, page = get(url)
        token = re.search(r'"token":"([^"]+)"', page.decode())
        assert token is not None
        lines = [
            "GET /ws HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade",
            "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + "x" * 22 + "==", f"Origin: http://127.0.0.1:{port}",
            f"Sec-WebSocket-Protocol: bokeh, {token[1]}", "", "",
        ]  # fmt: skip
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall("\r\n".join(lines).encode())
            assert connection.recv(100).split()[1] == b"101"


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
