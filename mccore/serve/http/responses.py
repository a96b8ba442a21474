"""How answers and errors leave: JSON, streams of events that end when the client goes, OpenAI's shape of an error."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from mccore.errors import MccoreError
from mccore.serve.exchanges import Exchange, Refused
from mccore.serve.link import Overloaded, WorkerGone

SLOW = 60.0  # seconds that a client may take to read on
RETRY = 2  # seconds after which a worker that died is worth another try

T = TypeVar("T")

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def error_body(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """The status of an error, its body in OpenAI's shape, and headers."""
    status, code, param, headers = 500, "internal_error", None, {}
    match error:
        case Refused():
            status, code, param = error.status, error.code, error.param
        case Overloaded():
            status, code, headers = 429, "overloaded", {"Retry-After": str(error.retry_after)}
        case WorkerGone():
            status, code, headers = 503, "model_unavailable", {"Retry-After": str(RETRY)}
        case MccoreError():
            code = "storage_failed"
    if isinstance(error, MccoreError):
        message = f"{error.message}; {error.hint}" if error.hint else error.message
    else:
        message = f"a fault of the server: {type(error).__name__}"
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}, headers


def error_response(error: Exception) -> Response:
    """An error as a response."""
    status, body, headers = error_body(error)
    return JSONResponse(body, status, headers)


async def unless_gone(request: Request, exchanges: list[Exchange], work: Awaitable[T]) -> T:
    """Do some work on exchanges; where the client goes meanwhile, they end, and so does the request."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Refused(499, "client_gone", "the client has gone")
    finally:
        watch.cancel()
        if not task.done():
            for exchange in exchanges:
                await exchange.cancel()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, MccoreError):
                await task


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events from an iterator, which is closed when the client goes or doesn't read.

    An item of it is a list of events, which are sent together.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncIterator[Sequence[Any]], on_close: Callable[[], Awaitable[None]], **headers: str
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", **headers})
        self.headers["Content-Type"] = "text/event-stream; charset=utf-8"
        del self.headers["content-length"]
        self._events, self._on_close = events, on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        sending = asyncio.ensure_future(self._send(send))
        watch = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((sending, watch), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            watch.cancel()
            if not sending.done():
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sending
            await self._on_close()

    async def _send(self, send: Send) -> None:
        async def write(message: dict[str, Any]) -> None:
            async with asyncio.timeout(SLOW):
                await send(message)

        try:
            await write({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for events in self._events:
                if body := b"".join(map(encode_event, events)):
                    await write({"type": "http.response.body", "body": body, "more_body": True})
            await write({"type": "http.response.body", "body": b""})
        except (TimeoutError, OSError):  # a client that doesn't read is one that has gone
            return


def encode_event(event: Any) -> bytes:
    """One event: an object as JSON, a text as it is."""
    return b"data: %b\n\n" % (event.encode() if isinstance(event, str) else msgspec.json.encode(event))
