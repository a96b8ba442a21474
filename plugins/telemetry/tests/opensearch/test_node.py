"""The data stream on a real node: what it holds, that nothing is there twice, and that its mapping stays as it is."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mccore_telemetry.opensearch import (
    OpenSearchOptions,
    OpenSearchTelemetry,
    connect,
    mccore_telemetry_provider,
)
from mccore_telemetry.opensearch.schema import index_template

from mccore.api import EventsLost, Extension, Options, TelemetryProvider
from mccore.events import METRICS, Event, EventWriter, last_metrics, read_events
from mccore.testing import TelemetryProviderSuite
from mccore.testing.telemetry import example_events

from .conftest import steps
from .proxy import Proxy

pytestmark = pytest.mark.servers

Open = Callable[..., OpenSearchTelemetry]
Stored = Callable[[], list[dict[str, Any]]]


class TestSuite(TelemetryProviderSuite):
    @pytest.fixture(autouse=True)
    def _point_at_node(self, proxy: Proxy, stream: str) -> None:
        self._proxy = proxy
        self._options = OpenSearchOptions(url=proxy.url, stream=stream)

    def extension(self) -> Extension[TelemetryProvider]:
        return mccore_telemetry_provider()

    def options(self) -> Options:
        return self._options

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        self._proxy.down()
        yield
        self._proxy.up()


def test_every_event_is_a_document(node: str, open_provider: Open, stored: Stored) -> None:
    events = example_events()
    provider = open_provider(node)
    for event in events:
        provider.record(event)
    provider.close()
    documents = stored()
    assert len(documents) == len(events)
    for event, document in zip(sorted(events, key=lambda event: event.time), documents, strict=True):
        assert document["type"] == event.type
        assert document["time"] == event.time
        assert (document.get("stage"), document.get("step")) == (event.stage, event.step)
        assert set(document.get("data", {})) == set(event.data)


def test_the_last_value_of_every_metric_is_that_of_the_event_file(
    node: str, open_provider: Open, stream: str, tmp_path: Path
) -> None:
    names = [*METRICS, "lod_loss/0", "lod_loss/2", "dwell/p95", "adv_delta/p95"]
    provider = open_provider(node)
    with EventWriter(tmp_path / "events/rank0.jsonl") as writer:
        for step in range(20):
            metrics = {name: (step + 1) * 1.1**place / 7 for place, name in enumerate(names)}
            if step == 19:
                metrics |= {"loss": math.nan, "grad_norm": math.inf}
            provider.record(writer.emit("step", stage="base", step=step, tokens=step, metrics=metrics, steps=20))
    provider.close()
    client = connect(OpenSearchOptions(), node, None, None)
    client.indices.refresh(index=stream)
    newest = {"size": 1, "sort": [{"time": "desc"}]}
    expected = last_metrics(read_events(tmp_path / "events"))
    assert set(expected) == set(names)
    for name, value in expected.items():
        if "/" in name:
            query: dict[str, Any] = {"nested": {"path": "parts", "query": {"term": {"parts.name": name}}}}
            source = client.search(index=stream, body=newest | {"query": query})["hits"]["hits"][0]["_source"]
            found = next(part["value"] for part in source["parts"] if part["name"] == name)
        else:
            query = {"bool": {"should": [
                {"exists": {"field": f"metrics.{name}"}}, {"prefix": {"nonfinite": f"metrics.{name}="}},
            ]}}  # fmt: skip
            source = client.search(index=stream, body=newest | {"query": query})["hits"]["hits"][0]["_source"]
            found = source["metrics"][name]
        if math.isnan(value):  # the event file has null for both
            assert found is None
        else:
            assert found == value
    assert source  # the newest document says which of the nulls is what
    said = client.search(index=stream, body=newest)["hits"]["hits"][0]["_source"]["nonfinite"]
    assert said == ["metrics.loss=nan", "metrics.grad_norm=inf"]
    client.close()


def test_what_is_sent_again_is_there_once(node: str, open_provider: Open, stored: Stored, tmp_path: Path) -> None:
    with EventWriter(tmp_path / "events/rank0.jsonl") as writer:
        provider = open_provider(node)
        for event in steps(50) + example_events():
            writer.write(event)
            provider.record(event)
        provider.close()
    for _ in range(2):
        again = open_provider(node)
        for event in read_events(tmp_path / "events"):
            again.record(event)
        again.close()
    assert len(stored()) == 50 + len(example_events())


def test_nothing_is_twice_after_a_rollover(node: str, open_provider: Open, stored: Stored, stream: str) -> None:
    first = open_provider(node)
    for event in steps(30):
        first.record(event)
    first.close()
    client = connect(OpenSearchOptions(), node, None, None)
    client.indices.rollover(alias=stream)
    client.close()
    again = open_provider(node, batch_events=7)
    for event in steps(40):
        again.record(event)
    again.close()
    documents = stored()
    assert [document["step"] for document in documents] == list(range(40))


def test_events_that_came_before_a_rollover_and_after_a_lost_answer_are_there_once(
    node: str, open_provider: Open, stored: Stored, stream: str
) -> None:
    provider = open_provider(node)
    for event in steps(10):
        provider.record(event)
    provider.flush()
    client = connect(OpenSearchOptions(), node, None, None)
    client.indices.rollover(alias=stream)
    client.close()
    provider._stream._doubtful = True  # as after a request without an answer
    for event in steps(20):
        provider.record(event)
    provider.close()
    assert len(stored()) == 20


def test_the_mapping_never_grows(node: str, open_provider: Open, stream: str) -> None:
    provider = open_provider(node)
    client = connect(OpenSearchOptions(), node, None, None)
    provider.flush()
    for number in range(300):
        provider.record(
            Event(
                "eval",
                1_790_000_000.0 + number,
                metrics={f"lod_loss/{number}": 1.0},
                data={"name": "x", "details": {f"field{number}.{number}": {"deep": [1, "two", None]}}},
            )
        )
    provider.flush()
    mappings = client.indices.get_mapping(index=stream)
    after = next(iter(mappings.values()))["mappings"]
    wanted = index_template(stream)["template"]["mappings"]
    assert set(after["properties"]) == set(wanted["properties"])
    assert set(after["properties"]["metrics"]["properties"]) == set(METRICS)
    assert "properties" not in after["properties"]["data"]["properties"]["details"]
    client.close()
    provider.close()


def test_a_template_with_other_settings_and_fewer_fields_is_added_to(
    node: str, open_provider: Open, stream: str, stored: Stored
) -> None:
    template = index_template(stream)
    template["template"]["settings"]["index"]["refresh_interval"] = "42s"
    del template["template"]["mappings"]["properties"]["metrics"]["properties"]["loss"]
    del template["template"]["mappings"]["properties"]["service"]
    client = connect(OpenSearchOptions(), node, None, None)
    client.indices.put_index_template(name=stream, body=template)
    client.indices.create_data_stream(name=stream)
    provider = open_provider(node)
    for event in steps(3):
        provider.record(event)
    provider.close()
    assert [document["metrics"]["loss"] for document in stored()] == [10.0, 5.0, 10.0 / 3]
    kept = client.indices.get_index_template(name=stream)["index_templates"][0]["index_template"]["template"]
    assert kept["settings"]["index"]["refresh_interval"] == "42s"
    assert "loss" in kept["mappings"]["properties"]["metrics"]["properties"]
    client.close()


def test_without_create_a_missing_stream_is_an_error_and_nothing_else_is_made(
    node: str, open_provider: Open, stream: str
) -> None:
    provider = open_provider(node, create=False)
    provider.record(steps(1)[0])
    with pytest.raises(ConnectionError, match="no such index"):
        provider.flush()
    with pytest.raises(EventsLost, match="1 of them are in"):
        provider.close()
    client = connect(OpenSearchOptions(), node, None, None)
    assert not client.indices.exists(index=stream)
    client.close()


def test_what_no_field_can_hold_is_kept_beside(node: str, open_provider: Open, stored: Stored) -> None:
    event = Event("chat.turn", 1_790_000_000.0, data={})
    huge = Event("checkpoint", 1_790_000_001.0, data={"bytes": 2**70, "seconds": -math.inf, "path": "a\udcff"})
    provider = open_provider(node)
    provider.record(event)
    provider.record(huge)
    provider.close()
    document = stored()[1]
    assert document["unmapped"] == {"bytes": 2**70}
    assert document["nonfinite"] == ["data.seconds=-inf"]
    assert document["data"] == {"seconds": None, "path": "a\udcff"}


def test_two_ranks_begin_at_once(node: str, open_provider: Open, stored: Stored) -> None:
    providers = [open_provider(node) for _ in range(2)]
    for provider, events in zip(providers, (steps(10), steps(10, 10)), strict=True):
        for event in events:
            provider.record(event)
    for provider in providers:
        provider.flush()
    for provider in providers:
        provider.close()
    assert len(stored()) == 20
