"""What the OpenTelemetry provider sends, to the real collector and to one that answers as it is told."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mccore_telemetry.otel import OtelTelemetry, mccore_telemetry_provider
from mccore_telemetry.otel.settings import OtelOptions
from mccore_telemetry.shared.names import otel_name

from mccore.api import Extension, Options, TelemetryProvider
from mccore.errors import ConfigError
from mccore.events import METRICS, Event
from mccore.testing import TelemetryProviderSuite

from ..collectors import Answer, Received, ToldCollector, attributes, collector, received
from ..events import BEGAN, RUN_ID, every_metric, run_events, spec
from ..servers import free_port, wait_for
from .conftest import events_lost, provider_of


class TestOtel(TelemetryProviderSuite):
    """The conformance suite, in front of a collector that takes everything."""

    server: ToldCollector

    @pytest.fixture(autouse=True)
    def _server(self) -> Iterator[None]:
        TestOtel.server = ToldCollector()
        yield
        TestOtel.server.close()

    def extension(self) -> Extension[TelemetryProvider]:
        return mccore_telemetry_provider()

    def options(self) -> Options:
        return OtelOptions(endpoint=self.server.address)

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.server.close()
        try:
            yield
        finally:
            TestOtel.server = ToldCollector(port=self.server.port)


def test_the_heartbeat_of_the_run_goes_on_where_no_event_comes(tmp_path: Path) -> None:
    with ToldCollector() as told:
        provider = provider_of(told.address, tmp_path)
        provider.record(Event("sample", time.time(), rank=1))
        provider.record(Event("sample", time.time()))
        for _ in range(2):
            provider.flush()
        provider.close()
        beats = told.received.points("mccore.system.heartbeat")
    ages = [beat["asDouble"] for beat in beats]
    assert len(ages) == 3, "of rank 0 alone: rank 1 is silent while only one works"
    assert ages[0] < ages[1] < ages[2]


# --- the real collector -----------------------------------------------------------------------------------------------


@pytest.mark.servers
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_run_arrives_as_traces_metrics_and_logs(tmp_path: Path, protocol: str) -> None:
    with collector(tmp_path / "collector") as (http, grpc, out):
        address = grpc if protocol == "grpc" else http
        provider = provider_of(address, tmp_path, protocol=protocol, compression="gzip")
        for event in (*run_events(), every_metric()):
            provider.record(event)
        provider.close()
        found = wait_for(lambda: all_there if (all_there := received(out)).logs and all_there.metrics else None)
        found = wait_for(lambda: all_there if (all_there := received(out)).spans else None)
    check_spans(found)
    check_metrics(found)
    check_logs(found)


def check_spans(found: Received) -> None:
    by_name = {(span["name"], span["resource"]["mccore.rank"]): span for span in found.spans}
    assert set(by_name) == {
        ("train a-run", 0), ("stage base", 0), ("stage base", 1),
        ("evaluation bits_per_byte", 0), ("checkpoint", 0), ("refocus", 0),
    }  # fmt: skip
    run, stage = by_name["train a-run", 0], by_name["stage base", 0]
    assert {span["traceId"] for span in found.spans} == {run["traceId"]}
    assert run.get("parentSpanId", "") == ""
    assert stage["parentSpanId"] == by_name["stage base", 1]["parentSpanId"] == run["spanId"]
    for name in ("evaluation bits_per_byte", "checkpoint", "refocus"):
        assert by_name[name, 0]["parentSpanId"] == stage["spanId"]
    assert duration(run) == pytest.approx(8.0)
    assert duration(stage) == pytest.approx(6.0)
    assert duration(by_name["checkpoint", 0]) == pytest.approx(0.5)
    assert duration(by_name["evaluation bits_per_byte", 0]) == pytest.approx(0.75)
    assert duration(by_name["refocus", 0]) == pytest.approx(0.01)
    assert [event["name"] for event in stage["events"]] == ["alert"]
    for span in found.spans:
        about = span["resource"]
        assert about["service.name"] == "megacontext-train"
        assert about["service.instance.id"] == f"{RUN_ID}/{about['mccore.rank']}"


def duration(span: dict[str, str]) -> float:
    return (int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"])) / 1e9


def check_metrics(found: Received) -> None:
    event = every_metric()
    for name, row in METRICS.items():
        points = [point for point in found.points(otel_name(row)) if "mccore.part" not in point["attributes"]]
        if name == "heartbeat":
            continue
        assert points, name
        if row.kind == "histogram":
            assert points[-1]["sum"] >= event.metrics[name]
            continue
        value = float(points[-1]["asDouble"])
        assert value == event.metrics[name] or (math.isnan(value) and math.isnan(event.metrics[name])), name
    (part,) = [one for one in found.points("mccore.mc.lod_loss") if one["attributes"].get("mccore.part") == "1"]
    assert float(part["asDouble"]) == -math.inf
    counted = {one["attributes"]["mccore.metric"] for one in found.points("mccore.system.nonfinite")}
    assert counted == {"grad_norm", "val_loss", "lod_loss/1"}
    units = {metric["name"]: metric.get("unit", "") for metric in found.metrics}
    assert units["mccore.train.tokens"] == "{token}"
    assert units["mccore.mc.controller_duration"] == "s"


def check_logs(found: Received) -> None:
    said = {(log["severityText"], log["body"]["stringValue"]) for log in found.logs}
    assert said == {
        ("INFO", "run started"), ("WARN", "swap_rate is 0.9: look"), ("INFO", "stage base finished"), ("INFO", "run finished")
    }  # fmt: skip
    stage = next(span for span in found.spans if span["name"] == "stage base" and span["resource"]["mccore.rank"] == 0)
    alert = next(log for log in found.logs if log["severityText"] == "WARN")
    assert (alert["traceId"], alert["spanId"]) == (stage["traceId"], stage["spanId"])


@pytest.mark.servers
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_collector_that_dies_and_comes_back_gets_everything_once(tmp_path: Path, protocol: str) -> None:
    ports = {"grpc_port": free_port(), "http_port": free_port()}
    where = tmp_path / "collector"
    with collector(where, **ports) as (http, grpc, out):
        provider = provider_of(grpc if protocol == "grpc" else http, tmp_path, protocol=protocol)
        for event in run_events()[:6]:
            provider.record(event)
        provider.flush()
        wait_for(lambda: received(out).logs and received(out).spans)  # before it is killed
    for event in run_events()[6:]:
        provider.record(event)
    with pytest.raises(OSError, match=r"refused|UNAVAILABLE"):
        provider.flush()
    with collector(where, **ports) as (_, _, out):
        provider.close()
        found = wait_for(lambda: all_there if len((all_there := received(out)).logs) == 5 else None)
        found = wait_for(lambda: all_there if len((all_there := received(out)).spans) == 6 else None)
    assert len({span["spanId"] for span in found.spans}) == 6
    check_spans(found)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_no_collector_at_all_costs_no_time_and_loses_exactly_what_was_recorded(tmp_path: Path, protocol: str) -> None:
    provider = provider_of(f"http://127.0.0.1:{free_port()}", tmp_path, protocol=protocol)
    for event in run_events():
        provider.record(event)
    with pytest.raises(OSError, match=r"refused|UNAVAILABLE"):
        provider.flush()
    began = time.monotonic()
    assert events_lost(provider, closing=True)[0] == len(run_events())
    assert time.monotonic() - began < 3.0, "the patience of the specification, and a little"


# --- resume, secrets, settings ----------------------------------------------------------------------------------------


def test_a_resumed_run_is_linked_to_its_former_trace(tmp_path: Path, told: ToldCollector) -> None:
    for _ in range(2):
        provider = provider_of(told.address, tmp_path)
        for event in run_events():
            provider.record(event)
        provider.close()
    first, second = (span for span in told.received.spans if span["name"] == "train a-run")
    (link,) = second["links"]
    assert (link["traceId"], link["spanId"]) == (first["traceId"], first["spanId"])
    assert second["traceId"] != first["traceId"]


def test_a_run_that_ends_without_a_word_has_spans_that_say_so(tmp_path: Path, told: ToldCollector) -> None:
    provider = provider_of(told.address, tmp_path)
    for event in run_events()[:4]:
        provider.record(event)
    provider.close()
    assert [span["status"].get("code") for span in told.received.spans] == ["STATUS_CODE_ERROR"] * 3
    assert {duration(span) for span in told.received.spans} == {1.0, 2.0}


def test_the_traceback_of_a_failed_stage_is_in_its_span_and_its_log_record(tmp_path: Path, told: ToldCollector) -> None:
    provider = provider_of(told.address, tmp_path)
    failed = {"outcome": "failed", "message": "RunError: no", "traceback": "Traceback ...\nRunError: no"}
    for event in (*run_events()[:2], Event("stage.end", BEGAN + 3, stage="base", data=failed)):
        provider.record(event)
    provider.close()
    (stage,) = [span for span in told.received.spans if span["name"] == "stage base"]
    assert attributes(stage["events"][0])["exception.stacktrace"] == failed["traceback"]
    log = told.received.logs[-1]
    assert (log["severityText"], log["body"]["stringValue"]) == ("ERROR", "stage base failed: RunError: no")
    assert attributes(log)["exception.stacktrace"] == failed["traceback"]


def test_headers_are_sent_and_never_shown(tmp_path: Path, told: ToldCollector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20hunter2secret,x-scope=a")
    provider = provider_of(told.address, tmp_path)
    told.answer = Answer(401, content=b"no such key: hunter2secret")
    for event in run_events():
        provider.record(event)
    assert events_lost(provider)[1].endswith("401 Unauthorized: no such key: ***")
    sent = {name.lower(): value for name, value in told.headers[0].items()}
    assert (sent["authorization"], sent["x-scope"]) == ("Bearer hunter2secret", "a")
    options = OtelOptions(endpoint=told.address)
    assert "hunter2" not in options.model_dump_json() + repr(provider.__dict__)


def test_an_event_for_which_nothing_is_sent_is_no_fault(tmp_path: Path) -> None:
    provider = OtelTelemetry(OtelOptions(traces=False, metrics=False, logs=False), spec(tmp_path))
    for event in run_events():
        provider.record(event)
    provider.flush()
    provider.close()


def test_a_disabled_sdk_is_told_and_never_counts_as_sent(
    tmp_path: Path, told: ToldCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with pytest.raises(ConfigError, match="nothing is sent"):
        provider_of(told.address, tmp_path)
    assert not told.requests


def test_nothing_global_is_touched_and_no_thread_is_left(tmp_path: Path, told: ToldCollector) -> None:
    import threading

    from opentelemetry import metrics, trace

    before = (trace.get_tracer_provider(), metrics.get_meter_provider())
    provider = provider_of(told.address, tmp_path)
    for event in run_events():
        provider.record(event)
    provider.flush()
    assert (trace.get_tracer_provider(), metrics.get_meter_provider()) == before
    assert not [thread for thread in threading.enumerate() if "otel" in thread.name.lower()]
    provider.close()


def test_a_certificate_that_isnt_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="certificate"):
        provider_of("https://127.0.0.1:1", tmp_path, certificate=str(tmp_path / "none.pem"))


def test_the_service_has_the_name_that_the_environment_gives(
    tmp_path: Path, told: ToldCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=lab")
    provider = provider_of(told.address, tmp_path)
    for event in run_events():
        provider.record(event)
    provider.close()
    assert {span["resource"]["service.name"] for span in told.received.spans} == {"mine"}
    assert {span["resource"]["deployment.environment"] for span in told.received.spans} == {"lab"}
