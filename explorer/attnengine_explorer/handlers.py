"""How the server answers: the page in two parts, Bokeh's scripts compressed once, the web socket without delay.

A page is on the screen when two things are done that need not wait for each other: this process makes the session, and
the browser fetches and runs Bokeh's scripts. So the head of the page, which names the scripts, goes out before the
session is begun.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import secrets
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from bokeh.core.serialization import Serialized
from bokeh.document import Document
from bokeh.document.json import DocJson
from bokeh.embed.bundle import bundle_for_objs_and_resources
from bokeh.embed.server import server_html_page_for_session
from bokeh.resources import Resources
from bokeh.server.tornado import BokehTornado
from bokeh.server.views.doc_handler import DocHandler
from bokeh.server.views.static_handler import StaticHandler
from bokeh.server.views.ws import WSHandler
from bokeh.settings import settings
from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler, authenticated

from attnengine_explorer import url
from attnengine_explorer.page import template

#: MathJax (1.8 MB) and WebGL are left out: nothing here is typeset, and software WebGL is slower than canvas.
COMPONENTS = ("bokeh", "bokeh-widgets", "bokeh-tables")
SCRIPTS = tuple(f"js/{name}.min.js" for name in COMPONENTS)
#: How long a browser may take to fetch the scripts before the session is begun, and this process is deaf.
PATIENCE = 0.1  # seconds
#: Says which scripts a browser has fetched before: then nobody waits for that.
COOKIE = "attnengine_scripts"
YEAR = 365 * 24 * 3600
POLICY = (
    "default-src 'self'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'none'"
)


class Health(RequestHandler):
    """``/health``: says that the server answers, and nothing about what it serves."""

    def get(self) -> None:
        """Answer."""
        self.set_header("Content-Type", "application/json")
        self.write(json.dumps({"status": "ok"}))


class Page(DocHandler):
    """The page of a new session. Its policy is a header: behind one in the page a browser looks for no script early."""

    application: Tornado

    @authenticated
    async def get(self, *_arguments: Any, **_named: Any) -> None:
        """Send the head, make the session while the browser is busy with it, and send the rest."""
        session = await self.get_session() if self._names_one() else None  # a wrong one is refused, with a status
        nonce, resources = secrets.token_urlsafe(16), self.application.resources()
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", POLICY.format(nonce=nonce))
        bokeh_js, bokeh_css = bundle_for_objs_and_resources(None, resources)
        head = template("head.html").render(
            state=url.of_request(self.request.arguments), nonce=nonce, bokeh_js=bokeh_js, bokeh_css=bokeh_css
        )
        version = urlsplit(resources.js_files[-1]).query
        has_scripts = self.get_cookie(COOKIE) == version
        self.set_cookie(COOKIE, version, httponly=True, samesite="Strict", expires_days=30)
        self.write(head)
        if session is None:
            self.application.fetched.clear()
            try:
                await self.flush()
            except StreamClosedError:  # whoever asked has gone: no session is made
                return
            if not has_scripts:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.application.fetched.wait(), PATIENCE)
            session = await self.get_session()
        document = session.document
        variables = document.template_variables | {"nonce": nonce}
        page = server_html_page_for_session(session, resources, document.title, document.template, variables)
        await self.finish(page)
        encode_early(document)

    def _names_one(self) -> bool:
        """Whether the request asks for a certain session, not for a new one."""
        named = {"bokeh-session-id", "bokeh-token"} & self.request.arguments.keys()
        return bool(named) or "Bokeh-Session-Id" in self.request.headers


def encode_early(document: Document) -> None:
    """Make the document's JSON now, while the browser reads the page, not 100 ms later when its script asks for it.

    It is given out once, and forgotten as soon as anything changes.
    """
    encoded = document.to_json()

    def forget(event: object) -> None:  # noqa: ARG001  Bokeh asks for this name
        document.callbacks.remove_on_change(forget)
        del document.to_json

    def once() -> Serialized[DocJson]:
        forget(None)
        return encoded

    document.on_change(forget)
    document.to_json = once


class Script(StaticHandler):
    """Bokeh's files. The page's scripts are compressed once: each time anew took 80 ms that every page waited for."""

    application: Tornado

    async def get(self, path: str, include_body: bool = True) -> None:
        """Answer; a file that is no script of the page, or a client that takes no gzip, in tornado's own way."""
        if path not in SCRIPTS or "gzip" not in self.request.headers.get("Accept-Encoding", ""):
            await super().get(path, include_body)
            return
        self.absolute_path = str(Path(settings.bokehjs_path(), path))  # of which tornado makes the ETag
        self.set_header("Content-Type", "text/javascript; charset=utf-8")
        self.set_header("Content-Encoding", "gzip")
        self.set_header("Cache-Control", f"max-age={YEAR}, immutable")  # the address holds a hash of the file
        await self.finish(_compressed(path))

    def on_finish(self) -> None:
        """A page that waits for the last of its scripts to be fetched need not wait any longer."""
        if self.request.path.endswith(SCRIPTS[-1]):
            self.application.fetched.set()


@lru_cache(maxsize=len(SCRIPTS))
def _compressed(path: str) -> bytes:
    return gzip.compress(Path(settings.bokehjs_path(), path).read_bytes(), mtime=0)


class Socket(WSHandler):
    """The web socket of a page."""

    def open(self) -> None:
        """Open the connection, then send each message at once: Nagle's algorithm costs 40 ms on every small one.

        Only here: tornado turns it on again at the end of the handshake, whatever the stream was told before.
        """
        super().open()
        self.set_nodelay(True)


class Tornado(BokehTornado):
    """Bokeh's application with these handlers in place of its own."""

    HANDLERS: ClassVar[dict[Any, Any]] = {DocHandler: Page, StaticHandler: Script, WSHandler: Socket}

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.fetched = asyncio.Event()  # the last of a page's scripts
        for rule in self.wildcard_router.rules:
            rule.target = self.HANDLERS.get(rule.target, rule.target)

    def resources(self, absolute_url: str | bool | None = None) -> Resources:
        """The components that the explorer uses."""
        return super().resources(absolute_url).clone(components=list(COMPONENTS))
