"""The monitor in a browser of this machine: `mccore monitor --serve`. Only who has the token gets in.

The address with the token gives the browser a cookie, which scripts can't read and other sites can't send; everything else asks
for it. Nothing is fetched from outside.
"""

from __future__ import annotations

import hmac
import secrets
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from textual_serve.server import Server

from mccore.errors import UsageError
from mccore.host.terminal import echo

HOST = "127.0.0.1"
COOKIE = "mccore_monitor"
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; connect-src 'self' ws:"
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class MonitorServer(Server):
    """Serves the monitor on the loopback address, one process of it for each page that is open."""

    def __init__(self, arguments: list[str], port: int, token: str | None = None) -> None:
        command = shlex.join([sys.executable, "-m", "mccore", "monitor", *arguments])
        templates = Path(__file__).parent / "templates"
        super().__init__(command, host=HOST, port=port, title="mccore monitor", templates_path=templates)
        self.token = secrets.token_urlsafe(24) if token is None else token
        self._cookie = f"{COOKIE}_{port}"  # cookies are shared by all ports of a host

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"{self.public_url}/?token={self.token}"

    async def make_app(self) -> web.Application:
        """The web application, with its door."""
        app = await self._make_app()
        app.middlewares.append(self._door())
        return app

    async def on_startup(self, app: web.Application) -> None:
        echo(f"the monitor is at {self.address}\nCtrl-C ends it; runs go on")

    def _door(self) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
        @web.middleware
        async def door(request: web.Request, handler: Handler) -> web.StreamResponse:
            origin = request.headers.get("Origin")
            if origin is not None and origin != self.public_url:
                raise web.HTTPForbidden(text="this page belongs to another site")
            if request.path == "/" and self._is_token(request.query.get("token", "")):
                answer = web.HTTPFound("/")
                answer.set_cookie(self._cookie, self.token, httponly=True, samesite="Strict")
                raise answer
            if not self._is_token(request.cookies.get(self._cookie, "")):
                raise web.HTTPForbidden(text="open the address that `mccore monitor --serve` has printed")
            response = await handler(request)
            if not response.prepared:
                response.headers.update({"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"})
            return response

        return door

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())  # as long for every wrong one


def serve(arguments: list[str], port: int) -> None:
    """Serve until Ctrl-C. Raises UsageError where the port is taken."""
    server = MonitorServer(arguments, port)
    try:
        web.run_app(server.make_app(), host=HOST, port=port, print=None)
    except OSError as error:
        raise UsageError(f"can't listen on {HOST}:{port}: {error.strerror}", hint="choose another --port") from error
