"""One metric, one value: what a run emitted last is what every system shows, each read back from its real server.

The reference is the event file. It has no NaN and no infinity (`null`), so all of these arrive as NaN; of a histogram a
system has the sum and the count of what was observed, no last value.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path

import pytest
from mccore_telemetry.opensearch import OpenSearchOptions, OpenSearchTelemetry, connect
from mccore_telemetry.shared.names import otel_name, prometheus_name, split, wandb_name
from mccore_telemetry.wandb.record import read_rows
from prometheus_client.parser import text_string_to_metric_families

from mccore.config import Choice, RunConfig
from mccore.events import METRICS, EventWriter, last_metrics, read_events
from mccore.runs.rundir import RunDir
from mccore.telemetry.relay import Relay

from ..collectors import Received, collector, received
from ..events import every_metric, spec, step
from ..servers import get, wait_for
from ..test_prometheus import start_gateway

LEFT_OUT = {"heartbeat"}  # an age, which each system takes when it is asked


def emit(run: RunDir) -> None:
    """A run that emitted every metric, some of them twice, with values that aren't finite among them."""
    with EventWriter(run.events_dir / "rank0.jsonl") as writer:
        for event in (step(0, loss=9.0, swap_rate=0.7, tokens_total=100.0), every_metric()):
            writer.write(event)


def gateway_values(page: str) -> dict[str, float]:
    """Values by Prometheus' names, parts after a slash."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.labels.get("run") == "a-run":
                part = sample.labels.get("part", "")
                found[f"{sample.name}/{part}" if part else sample.name] = sample.value
    return found


def collector_values(found: Received) -> dict[str, float]:
    """Values by OpenTelemetry's names, parts after a slash; of histograms the sums."""
    values: dict[str, float] = {}
    for name in {metric["name"] for metric in found.metrics}:
        for point in found.points(name):
            part = point["attributes"].get("mccore.part", "")
            (value,) = (point[key] for key in ("asDouble", "asInt", "sum") if key in point)
            values[f"{name}/{part}" if part else name] = float(value)
    return values


def node_values(address: str, stream: str) -> dict[str, float]:
    """Values by their names in METRICS; null, which says nothing of a number, is NaN."""
    client = connect(OpenSearchOptions(), address, None, None)
    found: dict[str, float] = {}
    if not client.indices.exists(index=stream):
        return found
    client.indices.refresh(index=stream)
    for hit in client.search(index=stream, body={"size": 100, "sort": [{"time": "asc"}]})["hits"]["hits"]:
        source = hit["_source"]
        values = source.get("metrics", {}) | {part["name"]: part["value"] for part in source.get("parts", ())}
        found |= {name: math.nan if value is None else value for name, value in values.items()}
    client.close()
    return found


def wandb_values(run: Path) -> dict[str, float]:
    """Values by W&B's names, read from its log with its own reader."""
    found: dict[str, float] = {}
    for log in run.glob("telemetry/wandb/offline-run-*/*.wandb"):
        for row in read_rows(log):
            found |= {name: float(value) for name, value in row.items() if isinstance(value, int | float | str)}
    return found


def warm_up(node: str, directory: Path) -> None:
    """The first document takes a cold node longer than a run waits at its end."""
    options = OpenSearchOptions(url=node, stream="other", timeout_seconds=60.0)
    first = OpenSearchTelemetry(options, spec(directory, patience_seconds=60.0))
    first.record(step(1))
    first.close()


def same(value: float, expected: float) -> bool:
    return value == expected or (math.isnan(value) and math.isnan(expected))


@pytest.mark.servers
@pytest.mark.timeout(600)
def test_every_metric_has_the_same_last_value_everywhere(tmp_path: Path, node: str, stream: str) -> None:
    with ExitStack() as stack:
        gateway = start_gateway(stack, tmp_path / "gateway.log")
        http, _, out = stack.enter_context(collector(tmp_path / "collector"))
        warm_up(node, tmp_path)
        choices = (
            Choice(name="prometheus", options={"mode": "push", "gateway": gateway}),
            Choice(name="otel", options={"endpoint": http, "protocol": "http/protobuf"}),
            Choice(name="opensearch", options={"url": node, "stream": stream, "timeout_seconds": 20.0}),
            Choice(name="wandb", options={"mode": "offline"}),
        )
        run = RunDir.create(tmp_path, "a-run", RunConfig(telemetry=choices))
        emit(run)
        relay = Relay.start(run, {}, ranks=1)
        assert relay is not None
        # A node on a busy machine needs longer than a provider is given at the end.
        wait_for(lambda: "heartbeat" in node_values(node, stream), 120)
        assert relay.end(60.0) == "", (run.path / "logs" / "telemetry.log").read_text()
        events = read_events(run.events_dir)
        assert {event.data["state"] for event in events if event.type == "telemetry"} == {"ready"}  # W&B, of its log
        shown = gateway_values(get(f"{gateway}/metrics"))
        indexed = node_values(node, stream)
        sent = collector_values(wait_for(lambda: found if (found := received(out)).metrics else None))
    recorded = wandb_values(run.path)
    emitted = last_metrics(events)
    assert set(METRICS) - LEFT_OUT <= {split(name)[0].name for name in emitted}
    for name, value in emitted.items():
        row, part = split(name)
        if row.name in LEFT_OUT:
            continue
        ending = f"/{part}" if part else ""
        observed = "_sum" if row.kind == "histogram" else ""
        assert same(shown[f"{prometheus_name(row)}{observed}{ending}"], value), name
        assert same(indexed[name], value), name
        assert same(recorded[wandb_name(name)], value), name
        assert same(sent[f"{otel_name(row)}{ending}"], value), name
