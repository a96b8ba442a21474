"""Files for operators: those in the repository are what the tables make, and their searches find a run on a real node."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mccore_telemetry.opensearch import OpenSearchOptions, OpenSearchTelemetry, connect
from mccore_telemetry.opensearch.objects import files, parts_query, query, saved_objects

from mccore.events import METRICS, Event

DIRECTORY = Path(__file__).parents[4] / "docs/operations/opensearch"


def test_the_files_of_the_repository_are_up_to_date() -> None:
    assert {path.name: path.read_text() for path in DIRECTORY.iterdir()} == files(), (
        "make them again: uv run python -m mccore_telemetry.opensearch.objects docs/operations/opensearch"
    )


def test_every_metric_has_a_panel_on_a_dashboard_and_every_reference_is_there() -> None:
    objects = {(each["type"], each["id"]): each for each in saved_objects()}
    assert len(objects) == len(saved_objects())
    shown = set()
    for each in objects.values():
        for reference in each["references"]:
            assert (reference["type"], reference["id"]) in objects
            if each["type"] == "dashboard":
                shown.add(reference["id"])
    assert {f"mccore-{name}" for name in METRICS} <= shown


def test_panels_of_a_dashboard_dont_overlap() -> None:
    for each in saved_objects():
        if each["type"] != "dashboard":
            continue
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(each["attributes"]["panelsJSON"]):
            grid = panel["gridData"]
            cells = {
                (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
            }
            assert not cells & taken
            assert max(x for x, _ in cells) < 48
            taken |= cells


def as_sent(body: dict[str, Any]) -> dict[str, Any]:
    """A search as Dashboards sends it: its marks replaced."""
    marked = json.dumps({"%autointerval%": True})
    text = json.dumps(body).replace(f'"interval": {marked}', '"fixed_interval": "1m"')
    made: dict[str, Any] = json.loads(text)
    return made


@pytest.mark.servers
def test_the_searches_behind_the_panels_find_a_run(
    node: str, stream: str, open_provider: Callable[..., OpenSearchTelemetry]
) -> None:
    provider = open_provider(node)
    for step in range(4):
        metrics = {name: place + step / 4 for place, name in enumerate(METRICS)} | {"lod_loss/1": 3.0 + step}
        provider.record(Event("step", 1_790_000_000.0 + 60 * step, stage="base", step=step, metrics=metrics))
    provider.close()
    client = connect(OpenSearchOptions(), node, None, None)
    client.indices.refresh(index=stream)
    for place, row in enumerate(METRICS.values()):
        answer = client.search(index=stream, body=as_sent(query(row)))
        (run,) = answer["aggregations"]["there"]["runs"]["buckets"]
        assert run["key"] == "a-run"
        assert [bucket["value"]["value"] for bucket in run["time"]["buckets"]] == [
            place + step / 4 for step in range(4)
        ]
    buckets = client.search(index=stream, body=as_sent(parts_query()))["aggregations"]["time"]["buckets"]
    names = [bucket["parts"]["names"]["buckets"] for bucket in buckets]
    assert [[(each["key"], each["value"]["value"]) for each in found] for found in names] == [
        [("lod_loss/1", 3.0 + step)] for step in range(4)
    ]
    client.close()
