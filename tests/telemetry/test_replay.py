"""Sending afterwards what a run has recorded."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from mccore import plugins
from mccore.api import EventsLost
from mccore.config import Choice, RunConfig
from mccore.events import Event, EventWriter, read_events
from mccore.runs.rundir import RunDir
from mccore.telemetry.replay import note_sent, read_unsent, replay, sent_before

CHOICES = [Choice(name="one"), Choice(name="two")]


class Taker:
    """Keeps what it is given; may lose some, or hang."""

    def __init__(self, lose: int = 0, hang: float = 0.0) -> None:
        self.events: list[Event] = []
        self.closed = False
        self._lose, self._hang = lose, hang

    def record(self, event: Event) -> None:
        self.events.append(event)
        if self._hang:
            time.sleep(self._hang)  # a slow server
        if len(self.events) <= self._lose:
            raise EventsLost(1, "the server said 403")

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir.create(tmp_path, "one", RunConfig())
    with EventWriter(run.events_dir / "rank0.jsonl") as writer:
        for step in range(100):
            writer.write(Event("step", 1.0 + step, 0, "base", step, step, {"loss": 2.0}))
    return run


def give(monkeypatch: pytest.MonkeyPatch, **takers: Taker) -> None:
    monkeypatch.setattr(plugins, "build", lambda kind, choice, spec: takers[choice.name])


def test_each_gets_everything_in_order(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = Taker(), Taker(lose=3)
    give(monkeypatch, one=one, two=two)
    events = read_events(run.events_dir)
    results = {result.provider: result for result in replay(run, CHOICES, events, 60)}
    assert one.events == two.events == events
    assert (results["one"].events, results["one"].lost, one.closed) == (100, 0, True)
    assert (results["two"].events, results["two"].lost) == (100, 3)
    assert "403" in results["two"].message
    assert [event for event in read_events(run.events_dir) if event.type == "telemetry"] == [], (
        "the record stays as it is"
    )


def test_one_that_takes_too_long_or_isnt_there_has_lost_the_rest(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, one=Taker(hang=0.05))
    events = read_events(run.events_dir)
    slow, missing = replay(run, CHOICES, events, 0.6)
    assert 0 < slow.events < 100
    assert slow.lost == 100 - slow.events
    assert (missing.events, missing.lost) == (0, 100)
    assert "can't be started" in missing.message


def test_what_couldnt_be_sent_is_read_back(run: RunDir) -> None:
    (run.path / "telemetry").mkdir()
    path = run.path / "telemetry" / "one-rank0-unsent.jsonl"
    events = read_events(run.events_dir)[:2]
    lines = [json.dumps({"reason": "429", "event": json.loads(event.to_json())}) for event in events]
    path.write_text("\n".join([lines[0], "torn {", lines[1]]))
    assert read_unsent(run, "one") == (events, [path])
    path.write_text("\n".join(lines + lines))  # an attempt to send them was killed
    assert read_unsent(run, "one") == (events, [path])
    assert read_unsent(run, "two") == ([], [])


def test_who_had_some_is_known(run: RunDir) -> None:
    assert sent_before(run) == set()
    with EventWriter(run.events_dir / "launcher.jsonl") as writer:
        writer.emit("run.start", telemetry=["otel"])
    note_sent(run, ["opensearch"])
    assert sent_before(run) == {"otel", "opensearch"}


def test_one_that_lost_everything_has_had_nothing(run: RunDir) -> None:
    """As a run ends whose collector was never there: all of its events are lost, those about telemetry itself too."""
    with EventWriter(run.events_dir / "launcher.jsonl") as writer:
        writer.emit("run.start", telemetry=["never", "late", "away"])
    with EventWriter(run.events_dir / "rank1.jsonl") as writer:
        for number in range(4):
            writer.emit("sample", prompt=str(number), text="")
    with EventWriter(run.events_dir / "telemetry.jsonl") as writer:
        for provider, state, lost in (
            ("never", "failing", 1), ("late", "failing", 3), ("late", "recovered", 3), ("never", "failing", 6),
            ("away", "failing", None),
        ):  # fmt: skip
            writer.emit("telemetry", provider=provider, state=state, lost=lost, message="")
    assert sent_before(run) == {"late", "away"}
