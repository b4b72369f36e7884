"""How the page is answered: its head before its session, its scripts compressed once, its document encoded early."""

from __future__ import annotations

import asyncio
import gzip
import re
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bokeh.document import Document
from bokeh.models import ColumnDataSource
from bokeh.settings import settings

from attnengine_explorer import handlers
from attnengine_explorer.handlers import COOKIE, SCRIPTS, encode_early
from attnengine_explorer.server import Explorer
from tests.explorer.test_server import get


def serving(run: Path, ask: Callable[[str, int], Awaitable[Any]]) -> Any:
    """What ``ask`` (url, port) returns, asked of a server in this process."""

    async def asked() -> Any:
        explorer = Explorer([run], port=0, host="127.0.0.1", token=None)
        explorer._server.start()
        try:
            return await ask(explorer.url, explorer.port)
        finally:
            explorer._server.stop()
            explorer.close()

    with ThreadPoolExecutor(1) as thread:  # where a browser is open, its driver's event loop runs in this one
        return thread.submit(lambda: asyncio.run(asked())).result()


async def sent(port: int, *headers: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A page asked for, and its answer as it comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\r\n".join(["GET / HTTP/1.1", f"Host: 127.0.0.1:{port}", *headers, "", ""]).encode())
    return reader, writer


def test_the_head_comes_before_the_session_is_begun_and_names_every_script(runs, monkeypatch):
    begun, go_on, plain = asyncio.Event(), asyncio.Event(), handlers.Page.get_session

    async def held(self: handlers.Page) -> Any:
        begun.set()
        await go_on.wait()
        return await plain(self)

    monkeypatch.setattr(handlers.Page, "get_session", held)

    async def ask(_url: str, port: int) -> tuple[bytes, bytes]:
        reader, writer = await sent(port, f"Cookie: {COOKIE}=another", "Connection: close")
        head = await reader.readuntil(b"bokeh-tables.min.js")
        await asyncio.wait_for(begun.wait(), 5)
        go_on.set()
        rest = await reader.read()
        writer.close()
        return head, rest

    head, rest = serving(runs["bert_like"], ask)
    assert b"HTTP/1.1 200" in head
    assert b"Content-Security-Policy: default-src 'self'" in head
    assert [script.encode() in head for script in SCRIPTS] == [True] * 3
    assert b"<body>" not in head
    assert b"<title>" in rest
    assert rest.count(b"<body>") == 1
    assert b'"token"' in rest


def test_a_browser_that_has_the_scripts_is_not_kept_waiting(runs, monkeypatch):
    """Both wait for their session; one of them first for scripts that nobody fetches."""
    monkeypatch.setattr(handlers, "PATIENCE", 1.5)

    async def ask(_url: str, port: int) -> tuple[str, list[float]]:
        version, taken = "none", []
        for _ in range(3):  # the first one opens the run
            begin = time.perf_counter()
            reader, writer = await sent(port, f"Cookie: {COOKIE}={version}", "Connection: close")
            page = (await reader.read()).decode()
            writer.close()
            taken.append(time.perf_counter() - begin)
            version = re.search(rf"Set-Cookie: {COOKIE}=([^;]+);", page)[1] if len(taken) == 2 else "none"
        return page, taken

    page, taken = serving(runs["bert_like"], ask)
    assert taken[0] > 1.5
    assert taken[1] > 1.5
    assert taken[2] < 1.5
    assert re.search(rf"Set-Cookie: {COOKIE}=[^\r]*HttpOnly[^\r]*SameSite=Strict", page)


def test_a_fetched_script_ends_the_wait(runs, monkeypatch):
    monkeypatch.setattr(handlers, "PATIENCE", 60)

    async def ask(_url: str, port: int) -> float:
        begin = time.perf_counter()
        reader, writer = await sent(port, "Connection: close")
        await reader.readuntil(b"bokeh-tables.min.js")
        script, other = await asyncio.open_connection("127.0.0.1", port)
        other.write(f"GET /static/{SCRIPTS[-1]} HTTP/1.0\r\n\r\n".encode())
        await script.read()
        await reader.read()
        writer.close()
        other.close()
        return time.perf_counter() - begin

    assert serving(runs["bert_like"], ask) < 30


def test_for_whoever_has_gone_no_session_is_made_and_nothing_is_logged(runs, monkeypatch, caplog):
    made: list[object] = []
    monkeypatch.setattr(handlers.Page, "get_session", lambda self: made.append(self))
    plain = handlers.Page.flush

    def gone(self: handlers.Page, include_footers: bool = False) -> Awaitable[None]:
        self.request.connection.stream.close()
        return plain(self, include_footers)

    monkeypatch.setattr(handlers.Page, "flush", gone)

    async def ask(_url: str, port: int) -> bytes:
        reader, writer = await sent(port)
        answer = await reader.read()
        writer.close()
        return answer

    assert serving(runs["bert_like"], ask) == b""
    assert made == []
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_session_that_is_asked_for_by_a_wrong_name_is_refused_with_a_status(served):
    assert get(served("bert_like").url + "?bokeh-session-id=mine")[0] == 403
    assert get(served("bert_like").url, **{"Bokeh-Session-Id": "mine"})[0] == 403


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_bokehs_own_compressed_or_not_and_fetched_once(served, script):
    url = served("bert_like").url + "static/" + script
    wanted = Path(settings.bokehjs_path(), script).read_bytes()
    status, headers, body = get(url, **{"Accept-Encoding": "gzip"})
    assert (status, headers["Content-Encoding"]) == (200, "gzip")
    assert gzip.decompress(body) == wanted
    assert "Accept-Encoding" in headers["Vary"]
    assert "immutable" in headers["Cache-Control"]
    assert get(url, **{"Accept-Encoding": "gzip", "If-None-Match": headers["ETag"]})[0] == 304
    status, headers, body = get(url)
    assert (status, headers["Content-Encoding"], body) == (200, None, wanted)


def test_files_beside_the_scripts_stay_where_they_are(served):
    base = served("bert_like").url + "static/"
    assert get(base + "js/no.min.js", **{"Accept-Encoding": "gzip"})[0] == 404
    assert get(base + "..%2f..%2fresources.py", **{"Accept-Encoding": "gzip"})[0] in (403, 404)


def test_a_document_encoded_early_is_given_once_and_never_after_a_change():
    def made() -> tuple[Document, ColumnDataSource]:
        document, source = Document(), ColumnDataSource({"x": [1, 2]}, name="data")
        document.add_root(source)
        encode_early(document)
        return document, source

    document, source = made()
    early = document.to_json()
    source.data = {"x": [3]}
    assert "[1, 2]" in str(early.content["roots"])
    assert early.content["roots"] != document.to_json().content["roots"]
    assert Document.to_json(document).content == document.to_json().content
    document, source = made()
    source.data = {"x": [3]}
    assert document.to_json().content == Document.to_json(document).content
    assert "[3]" in str(document.to_json().content["roots"])
    assert not document.callbacks._change_callbacks
