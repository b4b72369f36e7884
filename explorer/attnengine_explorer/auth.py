"""Who may look: everybody on this machine by default, only the holder of a token from elsewhere.

A token comes once in the link that is printed, becomes a cookie that scripts cannot read, and leaves the address bar.
"""

from __future__ import annotations

import hmac
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from bokeh.server.auth_provider import AuthProvider
from tornado.web import HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler

COOKIE = "attnengine_token"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_AGE_DAYS = 7


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    return host in LOOPBACK


class TokenAuth(AuthProvider):
    """Bokeh's auth hook: a request is let in with the token, in its cookie or, the first time, in its query."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        super().__init__()

    def holds(self, offered: str | None) -> bool:
        """Whether this is the token, compared in constant time."""
        return offered is not None and hmac.compare_digest(offered.encode("utf-8", "surrogatepass"), self._token)

    @property
    def get_user_async(self) -> Any:
        """Called before every page, and before the web socket opens."""
        return self._user

    @property
    def login_url(self) -> str:
        """Where strangers are sent."""
        return "/login"

    @property
    def login_handler(self) -> type[RequestHandler]:
        """What strangers read."""
        return Refusal

    async def _user(self, handler: RequestHandler) -> str | None:
        if not same_origin(handler):
            raise HTTPError(403)
        if self.holds(handler.get_cookie(COOKIE)):
            return "holder"
        if isinstance(handler, WebSocketHandler):
            raise HTTPError(403)  # before the handshake: a socket cannot be redirected
        if not self.holds(handler.get_query_argument("token", None)):
            return None
        handler.set_cookie(
            COOKIE, self._token.decode(), httponly=True, samesite="Strict", expires_days=MAX_AGE_DAYS, path="/"
        )
        handler.redirect(without_token(handler.request.path, handler.request.query))
        return "holder"


def may_look(auth: AuthProvider, handler: RequestHandler) -> bool:
    """Whether a request for a file may be answered: with the token in its cookie, or where none is asked for."""
    return same_origin(handler) and (not isinstance(auth, TokenAuth) or auth.holds(handler.get_cookie(COOKIE)))


def same_origin(handler: RequestHandler) -> bool:
    """Whether a request with an Origin (a web socket) comes from our own page: cookies ignore the port, we do not."""
    origin = handler.request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == handler.request.host


def without_token(path: str, query: str) -> str:
    """The same address without its token."""
    rest = [(key, value) for key, value in parse_qsl(query) if key != "token"]
    return "/" + path.lstrip("/") + ("?" + urlencode(rest) if rest else "")


class Refusal(RequestHandler):
    """403 and how to get in."""

    def get(self) -> None:
        """Say what is missing."""
        self.set_status(403)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.write("attnengine: open the link with ?token=… that the terminal printed when the explorer started.\n")
