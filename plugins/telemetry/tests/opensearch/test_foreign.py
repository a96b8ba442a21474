"""A server that isn't OpenSearch: no document counts as stored, and none is forgotten. Nor where the fault is our own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mccore_telemetry.opensearch import OpenSearchOptions, OpenSearchTelemetry
from mccore_telemetry.opensearch.answers import ForeignAnswer, refusals
from mccore_telemetry.opensearch.bulk import DataStream
from mccore_telemetry.opensearch.dead_letters import read_dead_letters

from mccore.api import EventsLost

from .conftest import patient_spec, steps

FOREIGN = (
    (200, "text/plain", b"hello"),
    (200, "text/html", b"<p>hello"),
    (200, "text/plain", "gr\u00fc\u00dfe".encode("latin-1")),
    (200, "application/json", b"{}"),
    (200, "application/json", b"[1]"),
    (500, "application/json", b'["no"]'),
)


@pytest.fixture(params=FOREIGN)
def foreign(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that gives one answer to everything."""
    status, kind, body = request.param

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
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


@pytest.mark.parametrize("answer", [{}, {"errors": True}, {"errors": True, "items": []}, {"errors": None}, "", []])
def test_no_document_counts_as_stored_by_an_answer_that_doesnt_say_so(answer: object) -> None:
    with pytest.raises(ForeignAnswer):
        refusals(answer, 1)


def test_a_fault_of_our_own_is_told_as_one_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stumble(stream: DataStream, seconds: float) -> None:
        raise KeyError("properties")

    monkeypatch.setattr(DataStream, "_prepare", stumble)
    provider = OpenSearchTelemetry(OpenSearchOptions(), patient_spec(tmp_path))
    for event in steps(12):
        provider.record(event)
    with pytest.raises(EventsLost, match=r"a fault of mccore itself \(KeyError: 'properties'\)") as lost:
        provider.flush()
    assert lost.value.count == 12
    assert "stumble" in caplog.text, "the traceback"
    kept = read_dead_letters(tmp_path / "telemetry/opensearch-rank0-unsent.jsonl")
    assert [event.step for event, _ in kept] == list(range(12))
    provider.close()
