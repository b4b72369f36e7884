"""``attnengine explore``: opens runs, binds a port, serves pages until Ctrl-C.

One process, one event loop. Runs are opened before the port is bound: where none can be shown, that is an error in
the terminal; where some can, the others have a page that says what is wrong with them.
"""

from __future__ import annotations

import logging
import secrets
import signal
import socket
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.server.auth_provider import AuthProvider, NullAuth
from bokeh.server.server import BaseServer
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.platform.asyncio import BaseAsyncIOLoop

from attnengine.errors import AttnEngineError
from attnengine_explorer import url
from attnengine_explorer.auth import TokenAuth, is_loopback, may_look
from attnengine_explorer.exports import Download, Exports
from attnengine_explorer.growing import waiting
from attnengine_explorer.handlers import Health, Tornado
from attnengine_explorer.jobs import JOBS
from attnengine_explorer.library import Library
from attnengine_explorer.page import template
from attnengine_explorer.session import Session

log = logging.getLogger("attnengine.explorer")

DEFAULT_PORT = 5006
MINUTE = 60_000
MIN_TOKEN = 16


class PortError(AttnEngineError):
    """The address or port cannot be used."""


class Explorer:
    """A bound, not yet running server over a library of runs. ``url`` is what to open in a browser."""

    def __init__(self, run_paths: Sequence[Path], *, port: int, host: str, token: str | None) -> None:
        if not run_paths:
            raise ValueError("expected at least one run to explore")
        if token is not None and len(token) < MIN_TOKEN:
            raise ValueError(f"expected a token of at least {MIN_TOKEN} characters, got {len(token)}")
        if token is None and not is_loopback(host):
            token = secrets.token_urlsafe(32)
        self.library = Library(run_paths)
        self.exports = Exports()
        self._socket = _bind(host, port)
        self.port = self._socket.getsockname()[1]
        shown_host = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown_host}:{self.port}/" + (f"?{urlencode({'token': token})}" if token else "")
        self._server = self._make(token)

    def _make(self, token: str | None) -> BaseServer:
        auth: AuthProvider = NullAuth() if token is None else TokenAuth(token)
        # With a token the auth hook compares Origin and Host itself, whatever name the machine is reached by.
        origins = ["*"] if token else [f"{name}:{self.port}" for name in ("127.0.0.1", "localhost", "[::1]")]
        application = Tornado(
            {"/": Application(FunctionHandler(self._modify))},
            extra_websocket_origins=origins,
            extra_patterns=[
                (r"/health", Health),
                (r"/export/([\w-]+)/[^/]*", Download, {"exports": self.exports, "may_look": partial(may_look, auth)}),
            ],
            auth_provider=auth,
            secret_key=secrets.token_bytes(32),
            sign_sessions=True,
            unused_session_lifetime_milliseconds=10 * MINUTE,  # a laptop that slept finds its page alive
            websocket_max_message_size_bytes=1024 * 1024,  # from the browser; acts are small
            compress_response=True,
            cookie_secret=secrets.token_bytes(32),
        )
        http = HTTPServer(application)
        http.add_socket(self._socket)
        return BaseServer(IOLoop.current(), application, http)

    def close(self) -> None:
        """Give the port back without having served."""
        self._server.unlisten()

    @property
    def address(self) -> str | None:
        """The address that is listened to."""
        return self._server.address

    def _modify(self, document: Document) -> None:
        """Fill a new page: with the state its link asks for, or with the reason why that is impossible."""
        context = document.session_context
        arguments = context.request.arguments if context is not None and context.request is not None else {}
        state = url.of_request(arguments)
        state = state if state.run < len(self.library.paths) else replace(state, run=0)
        path = self.library.paths[state.run]
        try:
            Session(document, self.library.open(state.run), state, self.library.names, self.exports)
        except AttnEngineError as error:
            log.warning("cannot show %s: %s", path, error)
            document.clear()
            document.title = "attnengine"
            document.template = template("error.html")
            runs = {"runs": self.library.names, "current": state.run, "name": self.library.names[state.run]}
            document.template_variables.update({"error": str(error), "waiting": waiting(path)} | runs)

    def run(self, on_ready: Callable[[str], None] | None = None) -> None:
        """Serve until Ctrl-C or SIGTERM."""
        loop = IOLoop.current()
        self._server.start()
        if on_ready is not None:
            loop.add_callback(on_ready, self.url)
        # Thread-safe although there is one thread: only that wakes a loop that sleeps until its next event.
        assert isinstance(loop, BaseAsyncIOLoop)
        wake = loop.asyncio_loop.call_soon_threadsafe
        before = signal.signal(signal.SIGTERM, lambda *_: wake(loop.stop))
        try:
            loop.start()
        except KeyboardInterrupt:
            log.info("stopped by Ctrl-C")
        finally:
            signal.signal(signal.SIGTERM, before)
            JOBS.give_up()
            self._server.stop()


def _bind(host: str, port: int) -> socket.socket:
    try:
        bound = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128
        )
        bound.setblocking(False)
        return bound
    except OSError as error:
        raise PortError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); "
            "close the other explorer, or take another port with --port (0 picks a free one)"
        ) from error


def serve(
    run_paths: Sequence[Path],
    *,
    port: int = DEFAULT_PORT,
    host: str = "127.0.0.1",
    token: str | None = None,
    open_browser: bool = True,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the explorer over these runs until Ctrl-C.

    ``port`` 0 takes any free port. An address other than this machine's own gets a random token unless one is given;
    ``on_ready`` receives the link, with the token, once the port answers.

    Raises RunFormatError if no folder is a run that can be shown, and PortError for an address that is taken.
    """

    def ready(link: str) -> None:
        if on_ready is not None:
            on_ready(link)
        if open_browser:
            webbrowser.open(link)

    Explorer(run_paths, port=port, host=host, token=token).run(ready)
