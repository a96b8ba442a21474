"""A server that isn't OpenSearch and answers with 200: no document counts as stored, and none is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mccore_telemetry.opensearch import OpenSearchOptions, OpenSearchTelemetry
from mccore_telemetry.opensearch.dead_letters import read_dead_letters

from mccore.api import EventsLost

from .conftest import patient_spec, steps


@pytest.fixture(params=[("text/plain", b"hello"), ("text/html", b"<p>hello"), ("application/json", b"{}")])
def foreign(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that gives one answer to everything."""
    kind, body = request.param

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_HEAD = answer

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("create", [True, False])
def test_its_answers_store_nothing_and_lose_nothing_unseen(foreign: str, create: bool, tmp_path: Path) -> None:
    options = OpenSearchOptions(url=foreign, create=create, batch_events=5)
    provider = OpenSearchTelemetry(options, patient_spec(tmp_path))
    for event in steps(12):
        provider.record(event)
    with pytest.raises(ConnectionError, match="12 events wait"):
        provider.flush()
    with pytest.raises(EventsLost) as lost:
        provider.close()
    assert lost.value.count == 12
    kept = read_dead_letters(tmp_path / "telemetry/opensearch-rank0-unsent.jsonl")
    assert [event.step for event, _ in kept] == list(range(12))
