"""Files for operators, made from METRICS so that they can't drift: `python -m mccore_telemetry.operations DIRECTORY`.

`docs/operations/` holds what this makes for this version; a test compares the two.
"""

from __future__ import annotations

import json

from mccore_telemetry.operations import grafana, rules, servers


def files() -> dict[str, str]:
    """Every generated file by its path below `docs/operations/`."""
    return {
        "prometheus/rules.yaml": rules.render(),
        "prometheus/prometheus.yaml": servers.PROMETHEUS,
        "otel-collector.yaml": servers.COLLECTOR,
        "tempo.yaml": servers.TEMPO,
        "compose.yaml": servers.COMPOSE,
        "grafana/provisioning/datasources/mccore.yaml": servers.DATASOURCES,
        "grafana/provisioning/dashboards/mccore.yaml": servers.DASHBOARDS,
        "grafana/prometheus.json": _json(grafana.metrics_dashboard()),
        "grafana/traces.json": _json(grafana.traces_dashboard()),
    }


def _json(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"
