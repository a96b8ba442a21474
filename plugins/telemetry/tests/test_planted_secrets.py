"""Secrets planted for every provider, whose servers refuse them and say them back: nothing written or printed has one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from mccore.cli import main
from mccore.config import RunConfig
from mccore.events import read_events
from mccore.runs.rundir import RunDir

from .collectors import Answer, ToldCollector
from .servers import wait_for
from .test_runs import PROGRAM, STEPS

MARK = "hunter2"
PASSWORD = f"prometheus-{MARK}/&"
SECRETS = (MARK.encode(), b64encode(f"me:{PASSWORD}".encode()))
PROVIDERS = ("otel", "prometheus", "opensearch", "wandb")


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An environment with every provider on, each with a secret and a server that says 401."""
    with ToldCollector() as told:
        told.answer = Answer(401, echo=True)
        for name in list(os.environ):
            if name.startswith(("OTEL_", "MC_OTEL", "WANDB_", "MCCORE_")):
                monkeypatch.delenv(name)
        values = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": told.address,
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20otel-{MARK}",
            "MCCORE_PROMETHEUS_MODE": "push",
            "MCCORE_PROMETHEUS_GATEWAY": told.address,
            "MCCORE_PROMETHEUS_USER": "me",
            "PROMETHEUS_PASSWORD": PASSWORD,
            "MCCORE_OPENSEARCH_URL": told.address,
            "MCCORE_OPENSEARCH_USER": "me",
            "MCCORE_OPENSEARCH_PASSWORD": f"opensearch-{MARK}/&",
            "MCCORE_OPENSEARCH_API_KEY": f"key-{MARK}",
            "MCCORE_WANDB_MODE": "offline",
            "WANDB_API_KEY": f"{MARK}{'a' * 33}",
            "MCCORE_BASE_DIR": str(tmp_path),
            "HOME": str(tmp_path),
        }
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        yield tmp_path


def holders(directory: Path) -> list[str]:
    """Files that have a secret."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(secret in path.read_bytes() for secret in SECRETS)]


def test_no_secret_in_a_runs_directory(planted: Path) -> None:
    run = RunDir.create(planted / "runs", "one", RunConfig.model_validate({"megacontext": {"enabled": True}}))
    (run.path / "plan.json").write_text(json.dumps({"base": [*STEPS, {"do": "stop-aware"}]}))
    with open(planted / "launcher.log", "wb") as stream:
        environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parent)}
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(run.path)], stdout=stream, stderr=stream, env=environment
        )
    try:
        wait_for(lambda: {"otel", "prometheus", "opensearch"} <= told_of(run), 120)  # each says what its server said
        run.request_stop()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    (start,) = [event for event in read_events(run.events_dir) if event.type == "run.start"]
    assert set(start.data["telemetry"]) == set(PROVIDERS)
    assert holders(planted) == []


def told_of(run: RunDir) -> set[str]:
    """Providers of which something was told."""
    return {event.data["provider"] for event in read_events(run.events_dir) if event.type == "telemetry"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "tiny", "--mc", "--dry-run", "--json"],
        ["run", "tiny", "--mc", "--dry-run"],
        ["doctor", "--json"],
        ["doctor", "telemetry"],
        *(["doctor", "telemetry", "--to", name] for name in PROVIDERS),
        *(["events", "export", "recorded", "--timeout", "3", "--to", name] for name in PROVIDERS[:3]),
        ["run", "tiny", "--mc", "--dry-run", "--set", f"telemetry.otel.options.endpoint=http://me:{MARK}@h"],
        ["run", "tiny", "--telemetry", "otel", "--set", f"telemetry.otel.options.endpoint=http://me:{MARK}@h"],
        ["run", "tiny", "--telemetry", "opensearch", "--set", f"telemetry.opensearch.options.url=http://h/?key={MARK}"],
        ["run", "tiny", "--telemetry", "prometheus", "--set", f"telemetry.prometheus.options.password_variable={MARK}"],
        [
            "run",
            "tiny",
            "--telemetry",
            "prometheus",
            "--set",
            f"telemetry.prometheus.options.gateway=http://me:{MARK}@h",
        ],
    ],
    ids=lambda arguments: " ".join(arguments).replace(MARK, "SECRET"),
)
def test_no_secret_in_what_a_command_prints(
    arguments: list[str], planted: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_recorded(planted)
    main(arguments)
    out = "".join(capfd.readouterr())
    typed = [part for part in arguments if MARK in part]
    said = out.replace(typed[0], "") if typed else out  # what was typed may be repeated as it was typed
    assert out.strip()
    assert not [secret for secret in SECRETS if secret.decode() in said]
    assert holders(planted) == []


def make_recorded(base: Path) -> RunDir:
    from mccore.events import EventWriter

    from .events import run_events

    run = RunDir.create(base / "runs", "recorded", RunConfig())
    with EventWriter(run.events_dir / "rank0.jsonl") as writer:
        for event in run_events():
            if event.rank == 0:
                writer.write(event)
    return run
