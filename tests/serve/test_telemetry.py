"""A server tells the telemetry of its run about requests, and only where it may."""

from __future__ import annotations

from pathlib import Path

from plugins.telemetry.tests.collectors import ToldCollector
from tests.support.served import serving

QUESTION = {"model": "mc", "max_tokens": 4, "seed": 1, "messages": [{"role": "user", "content": "hello"}]}


def test_requests_are_spans_of_the_service(served_base: Path) -> None:
    with ToldCollector() as told:
        with serving(served_base, MCCORE_OTEL_ENDPOINT=told.address) as server:
            assert server.http.post("/v1/chat/completions", json=QUESTION).status_code == 200
            assert server.http.post("/v1/chat/completions", json={**QUESTION, "seed": "x"}).status_code in (400, 422)
            said = server.stop()
        assert "telemetry to otel: MCCORE_OTEL_ENDPOINT is set" in said
        spans = [span for span in told.received.spans if span["name"] == "request POST /v1/chat/completions"]
        assert len(spans) == 2
        assert {span["resource"]["service.name"] for span in spans} == {"megacontext-serve"}
        assert any(span["name"] == "answer" for span in told.received.spans)
        assert "hello" not in str(told.received)


def test_without_telemetry_no_provider_is_built(served_base: Path) -> None:
    with ToldCollector() as told:
        with serving(served_base, "--no-telemetry", MCCORE_OTEL_ENDPOINT=told.address) as server:
            assert server.http.post("/v1/chat/completions", json=QUESTION).status_code == 200
            server.stop()
        assert told.requests == []
