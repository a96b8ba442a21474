"""Dashboards for Grafana: every metric of a run as a panel with its band, and its traces in Tempo."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from mccore.events import METRICS, Metric
from mccore_telemetry.shared.names import prometheus_name
from mccore_telemetry.shared.values import EXTRA, ROWS

Panel = dict[str, Any]

_RUN = 'run=~"$run"'
_METRICS_SOURCE = {"type": "prometheus", "uid": "${prometheus}"}
_TRACES_SOURCE = {"type": "tempo", "uid": "${tempo}"}
_COLUMNS, _WIDTH, _HEIGHT = 24, 8, 7
_TITLES = {"train": "Training", "val": "Validation", "mc": "MegaContext", "system": "The run itself"}
# UCUM -> Grafana. What isn't here is shown as a number.
_UNITS = {"s": "s", "By": "bytes", "1": "none", "{token}/s": "short", "{token}": "short", "{flop}": "short"}


def metrics_dashboard() -> dict[str, Any]:
    """Every row of METRICS, and what providers make of the other events, group by group."""
    panels: list[Panel] = []
    y = 0
    for scope, title in _TITLES.items():
        panels.append({"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _place(0, y, 24, 1)})
        y += 1
        made = [_metric_panel(row) for row in ROWS.values() if row.scope == scope]
        if scope == "system":
            made.append(_alerts_panel())
        y = _lay_out(made, y)
        panels += made
    variables = [
        _source_variable("prometheus"),
        {
            "name": "run", "type": "query", "label": "Run", "datasource": _METRICS_SOURCE, "includeAll": True, "multi": True,
            "query": {"query": "label_values(mccore_run_info, run)", "refId": "run"}, "refresh": 2, "sort": 2,
        },
    ]  # fmt: skip
    return _dashboard("mccore-metrics", "mccore: metrics", panels, variables)


def traces_dashboard() -> dict[str, Any]:
    """Runs, what failed, and how long stages, evaluations, checkpoints and refocuses take, from Tempo."""
    ours = 'resource.service.name=~"megacontext-.*"'
    made = [
        _traces_panel("Runs", f'{{{ours} && name=~"train .*"}}', 24),
        _traces_panel("What failed", f"{{{ours} && status=error}}", 24),
        *(
            _traces_panel(title, f'{{{ours} && name=~"{name}.*"}}', 12)
            for title, name in (
                ("Stages", "stage "), ("Evaluations", "evaluation"), ("Checkpoints", "checkpoint"), ("Refocuses", "refocus")
            )
        ),
    ]  # fmt: skip
    _lay_out(made, 0)
    return _dashboard("mccore-traces", "mccore: traces", made, [_source_variable("tempo")])


# --- panels ---------------------------------------------------------------------------------------------------------------


def _metric_panel(row: Metric) -> Panel:
    custom: dict[str, Any] = {"lineWidth": 1, "fillOpacity": 0, "showPoints": "auto", "spanNulls": False}
    defaults: dict[str, Any] = {"unit": _UNITS.get(row.unit, "none"), "custom": custom}
    if row.band is not None:
        custom["thresholdsStyle"] = {"mode": "area"}
        defaults["thresholds"] = {"mode": "absolute", "steps": list(_steps(*row.band))}
    return {
        "type": "timeseries",
        "title": row.name.replace("_", " "),
        "description": f"{row.definition} ({row.unit or 'count'})",
        "datasource": _METRICS_SOURCE,
        "targets": list(_targets(row)),
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    }


def _steps(low: float, high: float) -> Iterator[dict[str, Any]]:
    """Red outside of a band, transparent inside."""
    yield {"color": "transparent" if math.isinf(low) else "red", "value": None}
    if math.isfinite(low):
        yield {"color": "transparent", "value": low}
    if math.isfinite(high):
        yield {"color": "red", "value": high}


def _targets(row: Metric) -> Iterator[dict[str, Any]]:
    name = prometheus_name(row)
    if row.kind == "histogram":
        for number, share in enumerate((0.5, 0.95)):
            buckets = f"sum by (run, stage, le) (rate({name}_bucket{{{_RUN}}}[$__rate_interval]))"
            quantile = f"histogram_quantile({share}, {buckets})"
            yield _target(number, quantile, f"{{{{run}}}} {{{{stage}}}} p{share * 100:.0f}")
    elif row.kind == "counter" and row.name in EXTRA:
        yield _target(0, f"{name}{{{_RUN}}}", "{{run}} {{type}}{{metric}}")
    else:
        yield _target(0, f"{name}{{{_RUN}}}", "{{run}} {{stage}} {{part}} {{condition}} {{provider}}")


def _target(number: int, expression: str, legend: str) -> dict[str, Any]:
    return {
        "refId": chr(ord("A") + number), "datasource": _METRICS_SOURCE, "expr": expression, "legendFormat": legend,
        "range": True,
    }  # fmt: skip


def _alerts_panel() -> Panel:
    return {
        "type": "table",
        "title": "alerts that fire",
        "description": "Rules of prometheus/rules.yaml that hold now",
        "datasource": _METRICS_SOURCE,
        "targets": [
            _target(0, f'ALERTS{{alertname=~"Mccore.*",alertstate="firing",{_RUN}}}', "")
            | {"instant": True, "range": False, "format": "table"}
        ],
        "fieldConfig": {"defaults": {}, "overrides": []},
        "options": {"showHeader": True},
    }


def _traces_panel(title: str, query: str, width: int) -> Panel:
    return {
        "type": "table",
        "title": title,
        "datasource": _TRACES_SOURCE,
        "targets": [
            {"refId": "A", "datasource": _TRACES_SOURCE, "queryType": "traceql", "query": query, "limit": 50,
             "tableType": "spans"}
        ],
        "fieldConfig": {"defaults": {}, "overrides": []},
        "options": {"showHeader": True},
        "gridPos": _place(0, 0, width, _HEIGHT),
    }  # fmt: skip


# --- the whole ------------------------------------------------------------------------------------------------------------


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _lay_out(panels: Iterable[Panel], y: int) -> int:
    """Give panels their places, row by row from `y` on; returns where the next row begins."""
    x = 0
    for panel in panels:
        width = panel.get("gridPos", {}).get("w", _WIDTH)
        if x + width > _COLUMNS:
            x, y = 0, y + _HEIGHT
        panel["gridPos"] = _place(x, y, width, _HEIGHT)
        x += width
    return y + _HEIGHT


def _source_variable(kind: str) -> dict[str, Any]:
    return {"name": kind, "type": "datasource", "query": kind, "label": kind.capitalize(), "refresh": 1}


def _dashboard(uid: str, title: str, panels: list[Panel], variables: list[dict[str, Any]]) -> dict[str, Any]:
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    return {
        "uid": uid,
        "title": title,
        "tags": ["mccore"],
        "timezone": "browser",
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables},
        "annotations": {"list": []},
        "panels": panels,
    }


def shown_metrics() -> set[str]:
    """The metrics that have a panel."""
    return {row.name for row in METRICS.values() if row.scope in _TITLES}
