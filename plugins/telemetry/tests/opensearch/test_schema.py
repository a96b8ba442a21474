"""Documents and their mapping, without a node."""

from __future__ import annotations

import json
import math

import pytest
from mccore_telemetry.opensearch import schema
from mccore_telemetry.opensearch.schema import Source, document, fields, index_template, mapping
from mccore_telemetry.shared.identity import event_id

from mccore.events import EVENT_TYPES, METRICS, Event, EventType, Field
from mccore.testing.telemetry import example_events

SOURCE = Source("a-run", "0" * 32, "train")


def test_every_metric_and_field_has_its_place() -> None:
    properties = mapping()["properties"]
    assert set(properties["metrics"]["properties"]) == set(METRICS)
    assert set(properties["data"]["properties"]) == {name for kind in EVENT_TYPES.values() for name in kind.data}


def test_no_object_takes_unknown_fields() -> None:
    def walk(name: str, node: dict[str, object]) -> None:
        if "properties" in node:
            assert node["dynamic"] == "strict", name
            properties = node["properties"]
            assert isinstance(properties, dict)
            for inner, child in properties.items():
                walk(f"{name}.{inner}", child)

    walk("", mapping())


def test_two_types_of_events_may_not_disagree_about_a_field(monkeypatch: pytest.MonkeyPatch) -> None:
    other = EventType("other", "", {"bytes": Field("text", "")})
    monkeypatch.setattr(schema, "EVENT_TYPES", {**EVENT_TYPES, "other": other})
    with pytest.raises(ValueError, match="bytes is text, in another type of event integer"):
        schema.data_kinds()


def test_an_event_read_back_from_a_file_has_the_same_id() -> None:
    for event in example_events():
        again = Event.from_json(event.to_json())
        assert event_id(again, SOURCE.key) == event_id(event, SOURCE.key)


def test_ids_differ_by_content_and_run_and_sort_by_time() -> None:
    events = [Event("step", 1_790_000_000.0 + number, step=step) for number in range(3) for step in range(3)]
    ids = [event_id(event, SOURCE.key) for event in events]
    assert len(set(ids)) == 9
    assert event_id(events[0], "another run") not in ids
    times = [identity.partition("-")[0] for identity in ids]
    assert times == sorted(times)


def test_a_document_is_two_lines_of_strict_json() -> None:
    for event in example_events():
        action, body, rest = document(event, SOURCE).lines.decode().split("\n")
        assert rest == ""
        assert set(json.loads(action)) == {"create"}
        json.loads(body, parse_constant=pytest.fail)


def test_what_isnt_finite_is_null_and_named() -> None:
    event = Event("eval", 1.0, metrics={"loss": math.nan, "dwell/p95": -math.inf, "mfu": 0.5})
    made = fields(event, SOURCE)
    assert made["metrics"] == {"loss": None, "mfu": 0.5}
    assert made["parts"] == [{"name": "dwell/p95", "metric": "dwell", "part": "p95", "value": None}]
    assert made["nonfinite"] == ["metrics.loss=nan", "metrics.dwell/p95=-inf"]


def test_the_template_is_a_data_stream_of_that_name() -> None:
    template = index_template("runs")
    assert template["index_patterns"] == ["runs"]
    assert template["data_stream"] == {}
    assert len(template["template"]["mappings"]["_meta"]["schema"]) == 16
