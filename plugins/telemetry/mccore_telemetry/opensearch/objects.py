"""Files for operators, made from METRICS and EVENT_TYPES: the index template, and dashboards for OpenSearch Dashboards.

    python -m mccore_telemetry.opensearch.objects DIRECTORY [STREAM]

`index-template.json` is what the provider puts by itself; operators whose keys may not do that put it by hand.
`dashboards.ndjson` goes into Dashboards' "Saved objects": a panel for every metric, drawn by Vega-Lite from an aggregation.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mccore.events import METRICS, Metric
from mccore_telemetry.opensearch.schema import index_template

STREAM = "mccore-events"
_RUNS = 10  # lines of one panel
_COLUMNS, _WIDTH, _HEIGHT = 3, 16, 12  # of Dashboards' 48 columns
_TITLES = {"train": "training", "val": "evaluation", "mc": "MegaContext", "system": "system"}
_TIME = {"date_histogram": {"field": "@timestamp", "interval": {"%autointerval%": True}}}
_PATTERN = {"name": "kibanaSavedObjectMeta.searchSourceJSON.index", "type": "index-pattern", "id": STREAM}


def files(stream: str = STREAM) -> dict[str, str]:
    """Names and contents of all files."""
    objects = "\n".join(json.dumps(each, sort_keys=True) for each in saved_objects(stream))
    return {
        "index-template.json": json.dumps(index_template(stream), indent=2) + "\n",
        "dashboards.ndjson": objects + "\n",
    }


def saved_objects(stream: str = STREAM) -> list[dict[str, Any]]:
    """The index pattern, a panel a metric, a panel for parts of metrics, a list of what happened, a dashboard a scope."""
    made = [_object("index-pattern", STREAM, {"title": stream, "timeFieldName": "@timestamp"})]
    happened = _happened()
    made.append(happened)
    for scope, title in _TITLES.items():
        panels = [
            _panel(f"mccore-{row.name}", row.name, spec(row, stream)) for row in METRICS.values() if row.scope == scope
        ]
        if scope == "mc":
            panels.append(_panel("mccore-parts", "parts of metrics", parts_spec(stream)))
        made += panels
        made.append(_dashboard(f"mccore-{scope}", f"mccore: {title}", [*panels, happened]))
    return made


def query(row: Metric) -> dict[str, Any]:
    """The search behind a metric's panel, with Dashboards' own marks for what the page shows."""
    field = f"metrics.{row.name}"
    kind = "max" if row.kind == "counter" else "avg"
    by_time = {**_TIME, "aggs": {"value": {kind: {"field": field}}}}
    by_run = {"terms": {"field": "run", "size": _RUNS}, "aggs": {"time": by_time}}
    return {"size": 0, "aggs": {"there": {"filter": {"exists": {"field": field}}, "aggs": {"runs": by_run}}}}


def parts_query() -> dict[str, Any]:
    """The search behind the panel of parts, such as the loss at every level."""
    by_name = {"terms": {"field": "parts.name", "size": 20}, "aggs": {"value": {"avg": {"field": "parts.value"}}}}
    nested = {"nested": {"path": "parts"}, "aggs": {"names": by_name}}
    return {"size": 0, "aggs": {"time": {**_TIME, "aggs": {"parts": nested}}}}


def spec(row: Metric, stream: str = STREAM) -> dict[str, Any]:
    """The Vega-Lite panel of a metric: a line a run, and dashed lines at the ends of its band."""
    lines = {
        "mark": {"type": "line", "point": True, "tooltip": True},
        "encoding": {
            "x": {"field": "when", "type": "temporal", "title": None},
            "y": {"field": "value", "type": "quantitative", "title": row.unit, "scale": {"zero": False}},
            "color": {"field": "key", "type": "nominal", "title": "run"},
        },
    }
    ends = [end for end in row.band or () if abs(end) != float("inf")]
    rules = [{"mark": {"type": "rule", "strokeDash": [4, 4]}, "encoding": {"y": {"datum": end}}} for end in ends]
    transform = _flatten("time.buckets", "datum.bucket.value.value", "datum.bucket.key")
    return {
        **_data(stream, query(row), "aggregations.there.runs.buckets"),
        "description": row.definition,
        "transform": transform,
        "layer": [lines, *rules],
    }


def parts_spec(stream: str = STREAM) -> dict[str, Any]:
    """The Vega-Lite panel of parts: a line a part."""
    return {
        **_data(stream, parts_query(), "aggregations.time.buckets"),
        "description": "members of families of metrics, such as lod_loss/1 and dwell/p95",
        "transform": _flatten("parts.names.buckets", "datum.bucket.value.value", "datum.key"),
        "mark": {"type": "line", "point": True, "tooltip": True},
        "encoding": {
            "x": {"field": "when", "type": "temporal", "title": None},
            "y": {"field": "value", "type": "quantitative", "title": None, "scale": {"zero": False}},
            "color": {"field": "bucket.key", "type": "nominal", "title": "part"},
        },
    }


def _data(stream: str, body: dict[str, Any], place: str) -> dict[str, Any]:
    # %context% adds the dashboard's filters and its times to the search.
    url = {"%context%": True, "%timefield%": "@timestamp", "index": stream, "body": body}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"url": url, "format": {"property": place}},
    }


def _flatten(buckets: str, value: str, when: str) -> list[dict[str, Any]]:
    return [
        {"flatten": [buckets], "as": ["bucket"]},
        {"calculate": value, "as": "value"},
        {"calculate": when, "as": "when"},
        {"filter": "isValid(datum.value)"},
    ]


def _object(
    kind: str, name: str, attributes: dict[str, Any], references: tuple[dict[str, str], ...] = ()
) -> dict[str, Any]:
    return {"type": kind, "id": name, "attributes": attributes, "references": list(references)}


def _panel(name: str, title: str, vega: dict[str, Any]) -> dict[str, Any]:
    state = {"title": title, "type": "vega", "aggs": [], "params": {"spec": json.dumps(vega, sort_keys=True)}}
    return _object(
        "visualization",
        name,
        {
            "title": f"mccore: {title}",
            "description": vega["description"],
            "visState": json.dumps(state, sort_keys=True),
            "uiStateJSON": "{}",
            "kibanaSavedObjectMeta": {"searchSourceJSON": "{}"},
        },
    )


def happened_query() -> str:
    """Query string of the list of what happened."""
    return "type: (alert or telemetry or checkpoint or stage.start or stage.end or run.start or run.end)"


def _happened() -> dict[str, Any]:
    source = {
        "query": {"query": happened_query(), "language": "kuery"},
        "filter": [],
        "indexRefName": _PATTERN["name"],
    }
    columns = [
        "run",
        "stage",
        "step",
        "type",
        "data.outcome",
        "data.message",
        "data.metric",
        "data.value",
        "data.advice",
    ]
    return _object(
        "search",
        "mccore-happened",
        {
            "title": "mccore: what happened",
            "columns": columns,
            "sort": [["@timestamp", "desc"]],
            "kibanaSavedObjectMeta": {"searchSourceJSON": json.dumps(source, sort_keys=True)},
        },
        (_PATTERN,),
    )


def _dashboard(name: str, title: str, panels: list[dict[str, Any]]) -> dict[str, Any]:
    placed = list(_places(panels))
    references = tuple(
        {"name": f"panel_{number}", "type": panel["type"], "id": panel["id"]} for number, panel in enumerate(panels)
    )
    attributes = {
        "title": title,
        "panelsJSON": json.dumps(placed, sort_keys=True),
        "optionsJSON": json.dumps({"useMargins": True, "hidePanelTitles": False}),
        "timeRestore": True,
        "timeFrom": "now-24h",
        "timeTo": "now",
        "refreshInterval": {"pause": False, "value": 10_000},
        "kibanaSavedObjectMeta": {
            "searchSourceJSON": json.dumps({"query": {"query": "", "language": "kuery"}, "filter": []})
        },
    }
    return _object("dashboard", name, attributes, references)


def _places(panels: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, panel in enumerate(panels):
        row, column = divmod(number, _COLUMNS)
        wide = panel["type"] == "search"
        row = -(-number // _COLUMNS) if wide else row
        grid = {
            "x": 0 if wide else column * _WIDTH,
            "y": row * _HEIGHT,
            "w": _COLUMNS * _WIDTH if wide else _WIDTH,
            "h": _HEIGHT,
            "i": str(number),
        }
        yield {"panelIndex": str(number), "panelRefName": f"panel_{number}", "gridData": grid, "embeddableConfig": {}}


def main() -> None:
    """Write the files."""
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python -m mccore_telemetry.opensearch.objects DIRECTORY [STREAM]")
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files(*sys.argv[2:]).items():
        (directory / name).write_text(content)


if __name__ == "__main__":
    main()
