"""OpenSearch in front of whole launches: an outage from the start, a killed rank, a run that goes on and is sent again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mccore_telemetry.opensearch import OpenSearchOptions, OpenSearchTelemetry

from mccore.api import TelemetrySpec
from mccore.config import RunConfig
from mccore.events import Event, read_events

from ..servers import free_port, wait_for
from ..test_runs import STEPS, finish, make, reports, start
from .proxy import Proxy

pytestmark = pytest.mark.servers

Stored = Callable[[], list[dict[str, Any]]]


def of_the_run(events: list[Event]) -> int:
    """How many events a launch's own provider could have sent: not those about itself after its end."""
    return len([event for event in events if event.type != "telemetry"])


def test_a_launch_a_killed_rank_and_a_resumed_run_are_all_there_once(
    tmp_path: Path, node: str, stream: str, stored: Stored
) -> None:
    options = {"url": node, "stream": stream, "timeout_seconds": 20.0}
    run = make(tmp_path, {"base": [*STEPS, {"do": "kill"}]}, opensearch=options)
    finish(run)
    (run.path / "plan.json").write_text(json.dumps({"base": [*STEPS, {"do": "finish"}]}))
    events = finish(run)
    lost = reports(events)[-1][1] if reports(events) else 0
    assert len(stored()) == of_the_run(events) - lost
    # Whoever sends the run again fills what gaps there are, and makes nothing twice.
    run_id = json.loads((run.path / "telemetry/identity.json").read_text())["run_id"]
    spec = TelemetrySpec(run.name, run.path, 0, RunConfig(), run_id=run_id, patience_seconds=60.0)
    again = OpenSearchTelemetry(OpenSearchOptions(**options), spec)
    for event in events:
        again.record(event)
    again.close()
    assert len(stored()) == len(events)


def test_no_node_at_all_loses_everything_and_counts_it(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    run = make(tmp_path, {"base": [*STEPS, {"do": "finish"}]}, opensearch={"url": url})
    events = finish(run)
    assert reports(events)[-1] == ("failing", of_the_run(events))
    unsent = (run.path / "telemetry/opensearch-rank0-unsent.jsonl").read_text().splitlines()
    assert of_the_run(events) <= len(unsent) <= len(events)


def test_a_node_that_comes_back_gets_what_it_missed(tmp_path: Path, proxy: Proxy, stream: str, stored: Stored) -> None:
    proxy.down()
    options = {"url": proxy.url, "stream": stream, "timeout_seconds": 20.0}
    run = make(tmp_path, {"base": [*STEPS, {"do": "stop-aware"}]}, opensearch=options)
    process = start(run)
    wait_for(lambda: reports(read_events(run.events_dir)) == [("failing", 0)])
    proxy.up()
    wait_for(proxy.bulks)  # there is a stream by then
    wait_for(lambda: len(stored()) >= len(STEPS))
    run.request_stop()
    process.wait(240)
    events = read_events(run.events_dir)
    lost = reports(events)[-1][1]
    steps = [document["step"] for document in stored() if document["type"] == "step"]
    assert len(steps) == len(STEPS)
    assert of_the_run(events) - lost <= len(stored()) <= len(events)
