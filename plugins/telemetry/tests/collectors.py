"""Collectors for tests: the real one, and one that answers as it is told."""

from __future__ import annotations

import contextlib
import gzip
import json
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from .servers import answers, binary, free_port, running, wait_for

_REQUESTS: dict[str, Any] = {
    "traces": ExportTraceServiceRequest,
    "metrics": ExportMetricsServiceRequest,
    "logs": ExportLogsServiceRequest,
}


@dataclass
class Received:
    """What a collector was sent: spans, metrics and log records in OTLP's JSON, each with its resource's attributes."""

    spans: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    logs: list[dict[str, Any]] = field(default_factory=list)

    def add(self, line: dict[str, Any]) -> None:
        for kind, scope, items, found in (
            ("resourceSpans", "scopeSpans", "spans", self.spans),
            ("resourceMetrics", "scopeMetrics", "metrics", self.metrics),
            ("resourceLogs", "scopeLogs", "logRecords", self.logs),
        ):
            for resource in line.get(kind, ()):
                about = attributes(resource["resource"])
                found += [item | {"resource": about} for part in resource[scope] for item in part.get(items, ())]

    def points(self, name: str) -> list[dict[str, Any]]:
        """Data points of a metric, oldest first."""
        found = [metric for metric in self.metrics if metric["name"] == name]
        return [
            point | {"attributes": attributes(point)}
            for metric in found
            for kind in ("gauge", "sum", "histogram")
            for point in metric.get(kind, {}).get("dataPoints", ())
        ]


def attributes(item: dict[str, Any]) -> dict[str, Any]:
    """OTLP's list of attributes as a dictionary."""
    found = {}
    for pair in item.get("attributes", ()):
        ((kind, value),) = pair["value"].items()
        found[pair["key"]] = int(value) if kind == "intValue" else value
    return found


@contextlib.contextmanager
def collector(directory: Path, *, grpc_port: int = 0, http_port: int = 0) -> Iterator[tuple[str, str, Path]]:
    """A real collector that writes what it receives to a file: its HTTP and gRPC addresses, and the file."""
    program = binary("collector")
    directory.mkdir(parents=True, exist_ok=True)
    out = directory / "received.jsonl"
    places = {"grpc": grpc_port or free_port(), "http": http_port or free_port()}
    pipeline = {"receivers": ["otlp"], "exporters": ["file"]}
    config = {
        "receivers": {"otlp": {"protocols": {name: {"endpoint": f"127.0.0.1:{p}"} for name, p in places.items()}}},
        "exporters": {"file": {"path": str(out), "append": True, "flush_interval": "20ms"}},
        "service": {
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": dict.fromkeys(("traces", "metrics", "logs"), pipeline),
        },
    }
    (directory / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    http = f"http://127.0.0.1:{places['http']}"
    with running([program, "--config", str(directory / "config.yaml")], directory / "collector.log") as process:
        wait_for(lambda: answers(http), process=process)
        yield http, f"http://127.0.0.1:{places['grpc']}", out


def received(path: Path) -> Received:
    """What a real collector has written so far."""
    found = Received()
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):  # a line that is still being written
            found.add(json.loads(line))
    return found


@dataclass
class Answer:
    """What a told collector answers: a status, after a while, and with how many items rejected."""

    status: int = 200
    seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    rejected: int = 0
    silent: bool = False
    content: bytes | None = None  # instead of OTLP's answer
    echo: bool = False  # says what it was sent to get in with
    lost: bool = False  # what was accepted is kept, and the connection breaks before it is said


class ToldCollector:
    """Answers every request with `answer`, which may be changed at any time, and keeps what it accepted."""

    def __init__(self, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.answer = Answer()
        self.received = Received()
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.limit_bytes = 1 << 30
        self.over = threading.Event()
        told = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                told.handle(self)

            do_POST = do_PUT = do_GET = do_HEAD = _any

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.address = f"http{'s' if context else ''}://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        if self.over.is_set():  # a connection that was kept alive
            request.close_connection = True
            return
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        answer, signal = self.answer, request.path.rpartition("/")[2]
        self.requests.append(signal)
        self.headers.append(dict(request.headers))
        if answer.silent:
            self.over.wait()
            return
        if answer.seconds:
            time.sleep(answer.seconds)  # a slow server, not a way to wait for one
        if len(body) > self.limit_bytes:
            answer = Answer(413)
        content = b""
        if answer.status == 200:
            plain = gzip.decompress(body) if request.headers.get("Content-Encoding") == "gzip" else body
            message = _REQUESTS[signal].FromString(plain)
            self.received.add(MessageToDict(message))
            content = _partial(signal, answer.rejected)
        if answer.lost:
            request.close_connection = True
            return
        if answer.content is not None:
            content = answer.content
        if answer.echo:
            content = f"not with {request.headers.get('Authorization')}".encode()
        with contextlib.suppress(OSError):  # whoever asked didn't wait
            request.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(len(content))}.items():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(content)

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> ToldCollector:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _partial(signal: str, rejected: int) -> bytes:
    """The answer to an accepted request: the count is field 1 of field 1 in all three messages, the words are field 2."""
    if not rejected:
        return b""
    inner = bytes([0x08, rejected, 0x12, 8]) + b"too late"
    return bytes([0x0A, len(inner)]) + inner
