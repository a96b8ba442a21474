"""The process that hands a run's events to providers: what the launcher waits for at the end, and no longer."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mccore.config import Choice, RunConfig
from mccore.events import EventWriter
from mccore.runs.rundir import RunDir
from mccore.telemetry import relay as relay_module
from mccore.telemetry.delivery import CLOSE_SECONDS, END_SECONDS, PATIENCE_SECONDS
from mccore.telemetry.relay import Relay


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    run = RunDir.create(tmp_path, "one", RunConfig(telemetry=(Choice(name="noop"),)))
    with EventWriter(run.events_dir / "launcher.jsonl") as writer:
        writer.emit("run.start", resumed=False)
    relay = Relay.start(run, {}, 1, run.config.telemetry)
    assert relay is not None
    yield relay
    if psutil.pid_exists(relay.pid):
        os.kill(relay.pid, signal.SIGKILL)


def test_a_runs_end_has_three_seconds_and_each_part_of_it_less() -> None:
    assert CLOSE_SECONDS < PATIENCE_SECONDS < END_SECONDS < 3.0


def test_it_ends_when_the_launcher_says_so_and_has_nothing_to_tell(relay: Relay) -> None:
    assert relay.end(60.0) == ""


def test_one_that_is_stuck_is_killed_and_told_of(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "_GRACE_SECONDS", 0.1)
    os.kill(relay.pid, signal.SIGSTOP)
    began = time.monotonic()
    assert relay.end(0.1) == "the process for telemetry didn't end in time"
    assert time.monotonic() - began < 30.0
    assert not psutil.pid_exists(relay.pid)
