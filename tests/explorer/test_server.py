"""The server: what it binds, whom it lets in, how it starts and ends."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

from attnengine.errors import AttnEngineError, RunFormatError
from attnengine_explorer import handlers
from attnengine_explorer.auth import COOKIE, TokenAuth, without_token
from attnengine_explorer.server import Explorer, PortError
from tests.explorer.conftest import REPOSITORY, Served

TOKEN = "a-token-long-enough-1234"


def get(url: str, **headers: str):
    """Status, headers and body, redirects not followed."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args):
            return None

    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=10) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


@pytest.fixture(scope="module")
def guarded(runs):
    server = Served(runs["hostile"], host="0.0.0.0", token=TOKEN)
    yield server
    server.stop()


def test_health_answers_and_says_nothing_else(served):
    status, _, body = get(served("bert_like").url + "health")
    assert status == 200
    assert json.loads(body) == {"status": "ok"}


def test_by_default_only_this_machine_is_listened_to(runs):
    explorer = Explorer([str(runs["hostile"])], port=0, host="127.0.0.1", token=None)  # type: ignore[list-item]
    assert explorer.address == "127.0.0.1"
    assert explorer.url == f"http://127.0.0.1:{explorer.port}/"
    explorer.close()


def test_the_page_and_its_scripts_are_compressed_and_small(served):
    import re

    url = served("bert_like").url
    _, _, page = get(url)
    scripts = re.findall(r'src="([^"]+\.js[^"]*)"', page.decode())
    assert len(scripts) == 3
    sizes = []
    for script in scripts:
        status, headers, body = get(url + script.lstrip("/"), **{"Accept-Encoding": "gzip"})
        assert status == 200
        assert headers["Content-Encoding"] == "gzip"
        sizes.append(len(body))
    assert sum(sizes) < 800_000
    assert not any("mathjax" in script for script in scripts)


def test_text_of_a_run_is_escaped_in_the_page(served):
    _, _, page = get(served("hostile").url)
    text = page.decode()
    assert "&lt;img src=x onerror=" in text
    assert "<img src=x" not in text
    assert text.count("<script") == text.count("<script nonce=")  # an inline script without a nonce does not run


@pytest.mark.parametrize("path", ["", "metadata", "autoload.js?bokeh-autoload-element=1"])
def test_a_stranger_is_sent_away_and_told_how_to_get_in(guarded, path):
    base = guarded.url.split("?")[0].replace("0.0.0.0", "127.0.0.1")
    status, headers, body = get(base + path)
    assert status == 302
    assert headers["Location"].startswith("/login")
    assert b"img" not in body
    status, _, body = get(base + "login")
    assert status == 403
    assert b"?token=" in body


def test_the_token_becomes_a_cookie_that_scripts_cannot_read_and_leaves_the_address(guarded):
    base = guarded.url.split("?")[0].replace("0.0.0.0", "127.0.0.1")
    status, headers, _ = get(base + f"?token={TOKEN}&stat=entropy")
    assert status == 302
    assert headers["Location"] == "/?stat=entropy"
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    status, _, page = get(base, Cookie=cookie.split(";")[0])
    assert status == 200
    assert TOKEN not in page.decode()
    assert get(base, Cookie=f"{COOKIE}={TOKEN[:-1]}")[0] == 302
    assert get(base + "?token=wrong")[0] == 302


@pytest.mark.parametrize(("origin", "cookie", "status"), [
    ("http://127.0.0.1:{port}", TOKEN, 101), ("http://127.0.0.1:1", TOKEN, 403), ("http://evil.example", TOKEN, 403),
    ("http://127.0.0.1:{port}", "wrong", 403), ("http://127.0.0.1:{port}", "", 403),
])  # fmt: skip
def test_a_web_socket_opens_for_our_own_page_with_the_cookie_only(guarded, origin, cookie, status):
    port = int(guarded.url.split("?")[0].rsplit(":", 1)[1].strip("/"))
    lines = [
        "GET /ws HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + "x" * 22 + "==", "Origin: " + origin.format(port=port),
        f"Cookie: {COOKIE}={cookie}", "", "",
    ]  # fmt: skip
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall("\r\n".join(lines).encode())
        assert connection.recv(100).split()[1] == str(status).encode()


def test_messages_of_a_web_socket_do_not_wait_for_one_another(runs, monkeypatch):
    """The option of the real socket, after the handshake: tornado takes back there what it was told before."""
    opened, plain = [], handlers.Socket.open

    def noted(self):
        plain(self)
        opened.append(self.ws_connection.stream.socket)

    monkeypatch.setattr(handlers.Socket, "open", noted)

    async def connect():
        explorer = Explorer([runs["bert_like"]], port=0, host="127.0.0.1", token=None)
        explorer._server.start()
        page = (await AsyncHTTPClient().fetch(explorer.url)).body.decode()
        token = re.search(r'"token":\s*"([^"]+)"', page)[1]
        found = await websocket_connect(explorer.url.replace("http", "ws") + "ws", subprotocols=["bokeh", token])
        option = opened[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        found.close()
        explorer._server.stop()
        explorer.close()
        return option

    with ThreadPoolExecutor(1) as thread:  # where a browser is open, its driver's event loop runs in this one
        assert thread.submit(lambda: asyncio.run(connect())).result() != 0


def test_another_address_gets_a_random_token():
    auth = TokenAuth(TOKEN)
    assert auth.holds(TOKEN)
    assert not auth.holds(None)
    assert not auth.holds("é")
    assert without_token("//evil", "token=x&a=1") == "/evil?a=1"


def test_without_a_token_another_address_makes_its_own(runs):
    first, second = Served(runs["hostile"], host="0.0.0.0"), Served(runs["hostile"], host="0.0.0.0")
    try:
        tokens = {server.url.split("token=")[1] for server in (first, second)}
        assert len(tokens) == 2
        assert min(map(len, tokens)) >= 40
    finally:
        first.stop()
        second.stop()


def test_a_port_in_use_is_one_clear_error(runs):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortError, match="another port with --port"):
            Explorer([runs["hostile"]], port=taken.getsockname()[1], host="127.0.0.1", token=None)
    assert issubclass(PortError, AttnEngineError)


def test_a_folder_that_is_no_run_is_an_error_before_the_port_is_bound(tmp_path):
    with pytest.raises(RunFormatError, match=r"no manifest\.json"):
        Explorer([tmp_path], port=1, host="127.0.0.1", token=None)


@pytest.mark.parametrize(("paths", "token"), [([], None), (None, "short")])
def test_argument_mistakes_are_value_errors(runs, paths, token):
    with pytest.raises(ValueError, match="expected"):
        Explorer([runs["hostile"]] if paths is None else paths, port=0, host="127.0.0.1", token=token)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_without_a_traceback(runs, how):
    server = Served(runs["hostile"])
    assert get(server.url + "health")[0] == 200
    assert server.stop(how) == 0
    assert "Traceback" not in "".join(server.errors)


def test_a_run_that_breaks_later_shows_an_error_page(tmp_path, runs):
    import shutil

    copy = shutil.copytree(runs["hostile"], tmp_path / "<b>copy</b>".replace("/", "_"))
    code = (
        "import sys; from pathlib import Path; import attnengine_explorer.server as s\n"
        "from attnengine.errors import RunFormatError\n"
        "def broken(*_): raise RunFormatError('cannot read <b>heads</b>')\n"
        "s.Session = broken\n"
        "s.serve([Path(sys.argv[1])], port=0, open_browser=False, on_ready=lambda url: print(url, flush=True))"
    )
    env = {"PYTHONPATH": f"{REPOSITORY / 'explorer'}:{REPOSITORY}"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(copy)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
    )
    try:
        assert process.stdout is not None
        status, _, page = get(process.stdout.readline().strip())
        assert status == 200
        assert b"This run cannot be shown" in page
        assert b"cannot read &lt;b&gt;heads&lt;/b&gt;" in page
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()
