"""What stands before every request: whose it is, where it may come from, how large and how slow it may be."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mccore.serve.exchanges import Refused
from mccore.serve.http.responses import error_response

LOCAL = "local"  # the owner of everything where no token is asked for
OPEN = ("/", "/health", "/openapi.json", "/page/app.js", "/page/style.css", "/page/strip.js", "/page/api.js")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Rules:
    """Who may ask, and how much.

    hosts: names that requests may be addressed to. tokens: of which one must come with each request; none for no token.
    origins: pages elsewhere that may use the server. most_body, most_upload: bytes. patience: seconds without a byte of a body.
    """

    hosts: frozenset[str]
    tokens: tuple[str, ...] = ()
    origins: frozenset[str] = frozenset()
    most_body: int = 16 * 2**20
    most_upload: int = 2**30
    patience: float = 30.0
    digests: tuple[bytes, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digests", tuple(hashlib.sha256(token.encode()).digest() for token in self.tokens))

    def owner(self, authorization: str) -> str | None:
        """Whose request it is, by its `Authorization`; None for nobody's. Takes as long whatever is wrong."""
        if not self.digests:
            return LOCAL
        scheme, _, token = authorization.partition(" ")
        digest = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        fits = [hmac.compare_digest(digest, each) for each in self.digests]
        if not any(fits) or scheme.lower() != "bearer":
            return None
        return hashlib.sha256(b"owner" + digest).hexdigest()[:32]


Seen = Callable[[Scope, int, float], None]


class Guard:
    """Checks requests by the rules before the application gets them. on_end(scope, status, seconds) is called for each."""

    def __init__(self, app: ASGIApp, rules: Rules, on_end: Seen) -> None:
        self.app, self.rules, self.on_end = app, rules, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 0
        headers = Headers(scope=scope)
        origin = headers.get("origin", "")
        named = origin if origin in self.rules.origins else ""

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(MutableHeaders(scope=message), named)
            await send(message)

        try:
            refused = self._check(scope, headers, origin)
            if refused is not None:
                await refused(scope, receive, answer)
            else:
                await self.app(scope, self._bounded(scope, headers, receive), answer)
        except Refused as error:  # of a body, in the middle of it
            if not status:
                await error_response(error)(scope, receive, answer)
        finally:
            self.on_end(scope, status, time.monotonic() - began)

    def _check(self, scope: Scope, headers: Headers, origin: str) -> Response | None:
        rules, host = self.rules, headers.get("host", "")
        if len(headers.getlist("host")) != 1 or _name(host) not in rules.hosts:
            return error_response(
                Refused(403, "host_not_allowed", f"this server isn't {host[:100]!r}", hint="name it with --allow-host")
            )
        if origin and origin not in rules.origins and urlsplit(origin).netloc.lower() != host.lower():
            return error_response(Refused(403, "origin_not_allowed", "pages elsewhere may not use this server"))
        if scope["method"] == "OPTIONS" and origin in rules.origins:
            return Response(status_code=204)
        owner = rules.owner(headers.get("authorization", ""))
        if owner is None and scope["path"] not in OPEN:
            refused = error_response(Refused(401, "invalid_api_key", "a token is needed: Authorization: Bearer TOKEN"))
            refused.headers["WWW-Authenticate"] = "Bearer"
            return refused
        scope.setdefault("state", {})["owner"] = owner
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length[:20]) > self._most(scope):
            return error_response(self._too_large(scope))
        return None

    def _most(self, scope: Scope) -> int:
        return self.rules.most_upload if scope["path"].endswith("/files") else self.rules.most_body

    def _too_large(self, scope: Scope) -> Refused:
        return Refused(413, "body_too_large", f"a body has at most {self._most(scope) >> 20} MiB here")

    def _bounded(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """`receive` that counts a body's bytes and doesn't wait for them for ever."""
        taken, whole = 0, False

        async def take() -> Message:
            nonlocal taken, whole
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self.rules.patience)
            except TimeoutError:
                raise Refused(408, "body_timeout", "the rest of the body didn't come") from None
            taken += len(message.get("body", b""))
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            if taken > self._most(scope):
                raise self._too_large(scope)
            return message

        return take


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _add_headers(headers: MutableHeaders, origin: str) -> None:
    for name, value in SECURITY.items():
        headers.setdefault(name, value)
    headers.setdefault("Cache-Control", "no-store")
    if origin:
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
        headers["Access-Control-Allow-Methods"] = "GET, POST, PATCH, DELETE"
        headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        headers.add_vary_header("Origin")
