"""Telemetry of chats and servers: how it ended is what happened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mccore import plugins
from mccore.config import Choice, RunConfig
from mccore.events import Event, read_events
from mccore.runs.rundir import RunDir
from mccore.telemetry.recording import recording


class Taker:
    """Takes every event."""

    def record(self, event: Event) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def nothing() -> None: ...


def fail() -> None:
    raise RuntimeError("the model is gone")


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("what", "ended"),
    [
        (nothing, ("finished", "")),
        (fail, ("failed", "the model is gone")),
        (interrupt, ("stopped", "")),
    ],
)
def test_its_end_says_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: Callable[[], None], ended: tuple[str, str]
) -> None:
    monkeypatch.setattr(plugins, "build", lambda kind, choice, spec: Taker())
    run = RunDir.create(tmp_path, "one", RunConfig(telemetry=(Choice(name="prometheus"),)))
    try:
        with recording(run, "serve", "served", lambda text: None):
            what()
    except (RuntimeError, KeyboardInterrupt):
        assert what is not nothing
    (directory,) = (run.path / "served").iterdir()
    (end,) = [event for event in read_events(directory) if event.type == "run.end"]
    assert (end.data["outcome"], end.data["message"]) == ended
