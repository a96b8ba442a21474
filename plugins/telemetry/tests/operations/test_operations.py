"""The files for operators: as the code makes them, complete, and accepted by the real servers."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mccore_telemetry.operations import files
from mccore_telemetry.operations.grafana import metrics_dashboard, traces_dashboard
from mccore_telemetry.operations.rules import Rule, rules
from mccore_telemetry.shared.names import prometheus_name
from mccore_telemetry.shared.values import ROWS

from mccore.events import METRICS, Event

from ..events import BEGAN, every_metric, run_events
from ..servers import binary, get_json, prometheus, query, wait_for
from ..test_prometheus import serve

HERE = Path(__file__).parents[4] / "docs" / "operations"
GENERATED = files()


@pytest.mark.parametrize("name", GENERATED)
def test_what_lies_in_the_docs_is_what_the_code_makes(name: str) -> None:
    assert (HERE / name).read_text(encoding="utf-8") == GENERATED[name], (
        "python -m mccore_telemetry.operations DIRECTORY"
    )


# --- Grafana --------------------------------------------------------------------------------------------------------------


def expressions(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()) if "expr" in target)


def test_every_metric_has_a_panel_and_its_band() -> None:
    panels = {panel["title"].replace(" ", "_"): panel for panel in metrics_dashboard()["panels"]}
    for name, row in ROWS.items():
        assert any(prometheus_name(row) in target["expr"] for target in panels[name]["targets"]), name
        ends = [
            step["value"] for step in panels[name]["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", ())
        ]
        assert [end for end in ends if end is not None] == [end for end in row.band or () if math.isfinite(end)], name


@pytest.mark.parametrize("dashboard", [metrics_dashboard(), traces_dashboard()], ids=lambda each: each["uid"])
def test_panels_have_places_of_their_own(dashboard: dict[str, Any]) -> None:
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [(place["x"] + x, place["y"] + y) for place in places for x in range(place["w"]) for y in range(place["h"])]
    assert len(cells) == len(set(cells))
    assert all(place["x"] + place["w"] <= 24 for place in places)
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids)) > 5


@pytest.mark.servers
def test_every_panel_shows_something_of_a_run(tmp_path: Path) -> None:
    """Each query of the dashboard, put to a real Prometheus that has scraped a run with every metric."""
    targets = tmp_path / "targets"
    with ExitStack() as cleanup:
        provider, _ = serve(cleanup, tmp_path, targets=str(targets), commit="abc")
        last = BEGAN + 60
        extra = [
            Event("mc_timing", last, data={"total_ms": 3.0}),
            Event("telemetry", last, data={"provider": "otel", "state": "failing", "lost": 1, "message": ""}),
        ]
        for event in (*run_events(), *extra, every_metric()):
            provider.record(event)
        discovery = {"file_sd_configs": [{"files": [str(targets / "*.json")]}]}
        server = cleanup.enter_context(prometheus(tmp_path / "server", discovery, GENERATED["prometheus/rules.yaml"]))
        wait_for(lambda: query(server, "count_over_time(mccore_train_loss_nats[1m]) > 3"))
        for part in range(20):
            provider.record(Event("step", last + part, 0, "base", part, 1, {"controller_duration": 0.1}))
        empty = []
        for expression in expressions(metrics_dashboard()):
            plain = expression.replace("$__rate_interval", "1m").replace("$run", "a-run")
            found = query(server, plain)
            if not found and "ALERTS" not in plain:
                empty.append(plain)
        assert empty == []
        groups = get_json(f"{server}/api/v1/rules")["data"]["groups"]
        assert [rule["name"] for rule in groups[0]["rules"]] == [rule.name for rule in rules()]
        wait_for(lambda: query(server, 'ALERTS{alertname="MccoreTelemetryFailing",alertstate="firing"}'))


# --- rules ----------------------------------------------------------------------------------------------------------------


def promtool(*arguments: str, directory: Path) -> str:
    """What promtool says; empty when it has no objection."""
    done = subprocess.run([binary("promtool"), *arguments], cwd=directory, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.servers
def test_promtool_accepts_rules_and_configuration(tmp_path: Path) -> None:
    for name in ("rules.yaml", "prometheus.yaml"):
        (tmp_path / name).write_text(GENERATED[f"prometheus/{name}"])
    assert promtool("check", "rules", "rules.yaml", directory=tmp_path) == ""
    assert promtool("check", "config", "prometheus.yaml", directory=tmp_path) == ""
    (tmp_path / "bad.yaml").write_text("groups: [{name: a, rules: [{alert: A, expr: 'sum('}]}]")
    assert promtool("check", "rules", "bad.yaml", directory=tmp_path) != ""


@pytest.mark.servers
@pytest.mark.parametrize("rule", list(rules()), ids=lambda rule: rule.name)
def test_a_rule_fires_after_its_time_and_not_before(rule: Rule, tmp_path: Path) -> None:
    """In Prometheus' own engine: outside of the band, inside of it, and outside in a run or a stage that is over."""
    (tmp_path / "rules.yaml").write_text(GENERATED["prometheus/rules.yaml"])
    after = rule.hold + 360  # a rate needs five minutes of values
    tests = []
    for bad, run, stage, fires in (
        (True, 1, 1, True),
        (False, 1, 1, False),
        (True, 0, 1, "run_active" not in rule.expression),
        (True, 1, 0, "stage_active" not in rule.expression or "heartbeat" in rule.expression),
    ):
        series = [
            {"series": 'mccore_system_run_active{run="r",rank="0"}', "values": f"{run}x400"},
            {"series": 'mccore_system_stage_active{run="r",rank="0",stage="base"}', "values": f"{stage}x400"},
            *values(rule, bad),
        ]
        checks = [(after, fires)]
        if rule.hold > 30 and "rate" not in rule.expression:
            checks.append((rule.hold - 20, False))
        firing = f'count(ALERTS{{alertname="{rule.name}",alertstate="firing"}})'
        expected = [
            {"expr": firing, "eval_time": f"{at:g}s", "exp_samples": [{"labels": "{}", "value": 1}] if on else []}
            for at, on in checks
        ]
        tests.append({"interval": "10s", "input_series": series, "promql_expr_test": expected})
    content = {"rule_files": ["rules.yaml"], "evaluation_interval": "10s", "tests": tests}
    (tmp_path / "test.yaml").write_text(json.dumps(content))
    assert promtool("test", "rules", "test.yaml", directory=tmp_path) == ""


def values(rule: Rule, bad: bool) -> list[dict[str, str]]:
    """Series that are outside of a rule's band all the time, or inside."""
    if rule.name == "MccoreLossNotFinite":
        return [{"series": 'mccore_train_loss_nats{run="r"}', "values": " ".join(["NaN"] * 100) if bad else "3x400"}]
    if rule.name == "MccoreTelemetryFailing":
        series = 'mccore_system_telemetry_failing{run="r",provider="otel"}'
        return [{"series": series, "values": f"{int(bad)}x400"}]
    row = METRICS["_".join(re.findall("[A-Z][a-z]+", rule.name)[1:]).lower()]
    low, high = row.band or (0, 0)
    name = prometheus_name(row)
    if row.kind == "histogram":
        bounds = {"0.1": "0+0x400" if bad else "0+9x400", "0.5": "0+9x400", "+Inf": "0+9x400"}
        return [{"series": f'{name}_bucket{{run="r",stage="base",le="{le}"}}', "values": v} for le, v in bounds.items()]
    outside = high + 1 if math.isfinite(high) else low - 1
    inside = high if math.isfinite(high) else low
    of = "" if row.name == "heartbeat" else ',stage="base"'
    return [{"series": f'{name}{{run="r",rank="0"{of}}}', "values": f"{outside if bad else inside}x400"}]


# --- the collector --------------------------------------------------------------------------------------------------------


@pytest.mark.servers
def test_the_collector_accepts_its_configuration(tmp_path: Path) -> None:
    """Ours is built without the exporter to Tempo, so the one into a file takes its place."""
    config = GENERATED["otel-collector.yaml"]
    tempo = re.search(r"  otlp/tempo:\n(?:    .*\n)+", config)
    assert tempo is not None
    config = config.replace(tempo[0], f"  file/tempo: {{path: {tmp_path / 'traces.jsonl'}}}\n").replace(
        "otlp/tempo", "file/tempo"
    )
    for text, accepted in ((config, True), (config.replace("exporters: [debug]", "exporters: [nobody]"), False)):
        (tmp_path / "collector.yaml").write_text(text)
        command = [binary("collector"), "validate", "--config", str(tmp_path / "collector.yaml")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == accepted, done.stderr
