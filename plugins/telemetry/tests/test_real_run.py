"""A run that really trains, on two ranks, in front of a real Prometheus, a real OpenTelemetry collector and W&B's own files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from mccore_telemetry.operations import files
from mccore_telemetry.shared.names import otel_name
from mccore_telemetry.wandb.record import read_rows

from mccore.events import METRICS, last_metrics, read_events

from .collectors import Received, collector, received
from .servers import get_json, prometheus, query, wait_for

STAGES = ["data", "tokenizer", "encode", "base"]
SMALL = {
    "stages": json.dumps(STAGES),
    "model.depth": "1",
    "base.tokens": "8192",
    "base.batch_tokens": "2048",
    "base.eval_tokens": "4096",
}


def command(targets: Path, endpoint: str) -> list[str]:
    options = {
        "telemetry.prometheus.options.port": "0",
        "telemetry.prometheus.options.targets": str(targets),
        "telemetry.otel.options.endpoint": endpoint,
        "telemetry.otel.options.protocol": "grpc",
        "telemetry.wandb.options.mode": "offline",
    }
    settings = [part for path, value in {**SMALL, **options}.items() for part in ("--set", f"{path}={value}")]
    chosen = [part for name in ("prometheus", "otel", "wandb", "noop") for part in ("--telemetry", name)]
    return [sys.executable, "-m", "mccore", "run", "tiny", "--mc", "--name", "real", "--nproc", "2", *chosen, *settings]


@pytest.mark.servers
@pytest.mark.timeout(600)
def test_two_ranks_are_scraped_traced_and_fire_a_rule(tmp_path: Path) -> None:
    targets = tmp_path / "targets"
    rule = {"alert": "Learns", "expr": "mccore_train_loss_nats > 1"}
    rules = files()["prometheus/rules.yaml"] + f"  - {json.dumps({'name': 'test', 'rules': [rule]})}\n"
    discovery = {"file_sd_configs": [{"files": [str(targets / "*.json")], "refresh_interval": "1s"}]}
    with (
        prometheus(tmp_path / "prometheus", discovery, rules) as server,
        collector(tmp_path / "collector") as (_, grpc, out),
    ):
        home = {**os.environ, "MCCORE_BASE_DIR": str(tmp_path / "home")}
        with open(tmp_path / "run.log", "wb") as log:
            done = subprocess.run(command(targets, grpc), stdout=log, stderr=log, env=home, check=False)
        assert done.returncode == 0, (tmp_path / "run.log").read_text()
        run = tmp_path / "home" / "runs" / "real"
        events = read_events(run / "events")
        assert {event.data["state"] for event in events if event.type == "telemetry"} == {"ready"}  # W&B, of its files
        (loss,) = query(server, "last_over_time(mccore_train_loss_nats[10m])")
        assert float(loss["value"][1]) in [event.metrics["loss"] for event in events if event.type == "step"]
        started = query(server, 'last_over_time(mccore_system_stage_active{stage="base"}[10m])')
        assert {series["metric"]["rank"] for series in started} == {"0", "1"}
        assert query(server, 'last_over_time(ALERTS{alertname="Learns",alertstate="firing"}[10m])')
        ours, _ = get_json(f"{server}/api/v1/rules")["data"]["groups"]
        assert {rule["health"] for rule in ours["rules"]} == {"ok"}, "every rule of ours can be evaluated on a real run"
        gauges = {
            name: value
            for name, value in last_metrics(
                event for event in events if event.type != "resources"
            ).items()  # each rank has its own
            if name in METRICS and METRICS[name].kind == "gauge"
        }
        wait_for(lambda: received(out).spans and last_gauges(received(out), gauges) == gauges)
        found = received(out)
    (offline,) = (run / "telemetry" / "wandb").glob("offline-run-*/*.wandb")
    losses = [row["train/loss"] for row in read_rows(offline) if "train/loss" in row]
    assert losses == [event.metrics["loss"] for event in events if event.type == "step" and event.rank == 0]
    stages = {(span["name"], span["resource"]["mccore.rank"]) for span in found.spans}
    assert {(f"stage {stage}", 0) for stage in STAGES} | {("stage base", 1), ("train real", 0)} <= stages
    assert len({span["traceId"] for span in found.spans}) == 1


def last_gauges(found: Received, names: Iterable[str]) -> dict[str, float]:
    """The newest value of each metric as a whole, not of its parts."""
    values = {}
    for name in names:
        points = [one for one in found.points(otel_name(METRICS[name])) if "mccore.part" not in one["attributes"]]
        values[name] = float(points[-1]["asDouble"])
    return values
