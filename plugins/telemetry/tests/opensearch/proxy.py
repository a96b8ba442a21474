"""A way to a real node on which faults can be switched on: what a broken network, proxy or cluster does, done for real."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Answer = tuple[int, bytes]
Forward = Callable[[bytes], Answer]


class Proxy:
    """Passes requests on to `node`. `fault(path, body, forward)` may answer instead, or return None to drop the connection.

    `down` closes the port and everything on it; `up` opens it again.
    """

    def __init__(self, node: str, *, tls: ssl.SSLContext | None = None) -> None:
        self._node = urlsplit(node)
        self._tls = tls
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self.released = threading.Event()  # ends every wait of a fault
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.fault: Callable[[str, bytes, Forward], Answer | None] = passes
        self.up()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def up(self) -> None:
        self._server = _Server(("127.0.0.1", self._port), _handler(self))
        self._port = self._server.server_address[1]
        if self._tls:
            self._server.socket = self._tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def close(self) -> None:
        self.released.set()
        self.down()

    def bulks(self) -> int:
        """Bulk requests that reached the proxy."""
        return sum("_bulk" in path for _, path in self.requests)

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        connection = http.client.HTTPConnection(self._node.hostname or "", self._node.port, timeout=60)
        try:
            kept = {name: value for name, value in headers.items() if name.lower() not in ("host", "authorization")}
            connection.request(method, path, body, kept | {"Content-Length": str(len(body))})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def passes(path: str, body: bytes, forward: Forward) -> Answer | None:
    """No fault."""
    return forward(body)


def bulk_answers(status: int, times: int = 1_000_000) -> Callable[[str, bytes, Forward], Answer | None]:
    """The first `times` bulk requests are answered with a status and never reach the node."""
    left = [times]

    def fault(path: str, body: bytes, forward: Forward) -> Answer | None:
        if "_bulk" not in path or not left[0]:
            return forward(body)
        left[0] -= 1
        return status, json.dumps({"error": {"reason": f"said {status}", "root_cause": []}, "status": status}).encode()

    return fault


def loses_answers(times: int) -> Callable[[str, bytes, Forward], Answer | None]:
    """The node takes the first `times` bulk requests, and the connection breaks before it can say so."""
    left = [times]

    def fault(path: str, body: bytes, forward: Forward) -> Answer | None:
        answer = forward(body)
        if "_bulk" in path and left[0]:
            left[0] -= 1
            return None
        return answer

    return fault


def busy_for(share: int, times: int, status: int = 429) -> Callable[[str, bytes, Forward], Answer | None]:
    """Every `share`-th document of the first `times` bulk requests is refused as a busy node refuses; the others pass."""
    left = [times]

    def fault(path: str, body: bytes, forward: Forward) -> Answer | None:
        lines = body.splitlines(keepends=True)
        if "_bulk" not in path or not left[0]:
            return forward(body)
        left[0] -= 1
        documents = [b"".join(lines[first : first + 2]) for first in range(0, len(lines), 2)]
        taken = [text for number, text in enumerate(documents) if number % share]
        items: list[dict[str, Any]] = []
        if taken:
            answer = json.loads(forward(b"".join(taken))[1])
            items = answer.get("items") or [{"create": {"status": 201}}] * len(taken)
        passed = iter(items)
        refused = {"create": {"status": status, "error": {"type": "rejected_execution", "reason": "queue is full"}}}
        merged = [next(passed) if number % share else refused for number in range(len(documents))]
        return 200, json.dumps({"errors": True, "items": merged}).encode()

    return fault


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = dict(self.headers)
            proxy.requests.append((self.command, self.path))
            proxy.headers.append(headers)
            answer = proxy.fault(self.path, body, lambda body: proxy.forward(self.command, self.path, headers, body))
            if answer is None:
                self.close_connection = True
                return
            self.send_response(answer[0])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer[1])

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any

        def log_message(self, format: str, *arguments: Any) -> None:
            """Quiet."""

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: set[Any] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def server_close(self) -> None:
        super().server_close()
        for request in self._open:
            self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""
