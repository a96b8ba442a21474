"""The application on an address: sockets, times, an orderly end."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from mccore.errors import UsageError

HEADER_SECONDS = 15.0  # that a client may take for the head of a request
GOODBYE = 3  # seconds that running answers get when the server stops
MOST_HEADER_BYTES = 2**16
BACKLOG = 2048  # connections that wait to be taken


class TimedProtocol(H11Protocol):
    """HTTP/1.1 that doesn't wait for ever for the head of a request: uvicorn itself does."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for a request from now on."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Go on waiting where that wasn't the whole head."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._deadline is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._late)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises UsageError where that can't be."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(BACKLOG)  # from now on clients wait, where they would be refused
        except OSError:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"can't listen at {host} port {port}: {error}", hint="choose another --port or --host"
        ) from error
    return listener


def new_server(app: ASGIApp) -> uvicorn.Server:
    """A server for the application; `serve(sockets=[...])` runs it."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=TimedProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=2048,
            backlog=BACKLOG,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=GOODBYE,
            h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        )
    )
