"""What was lost counts once whichever signals lost it, and remembering it takes no memory to speak of."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mccore_telemetry.otel.lost import Lost
from mccore_telemetry.otel.pipeline import Pipeline
from mccore_telemetry.otel.transport import SIGNALS, Refused, Target

from mccore.api import EventsLost
from mccore.events import Event

from ..events import BEGAN, spec, step


class Answering:
    """A transport that refuses for now, refuses for good, or accepts."""

    def __init__(self, refusal: Refused | None) -> None:
        self._refusal = refusal

    def send(self, body: bytes, seconds: float) -> bytes:
        if self._refusal is not None:
            raise self._refusal
        return b""

    def close(self) -> None: ...


def count_lost(action: Callable[[], None]) -> int:
    try:
        with contextlib.suppress(OSError):
            action()
    except EventsLost as lost:
        return lost.count
    return 0


@pytest.mark.parametrize("metrics", ["wait", "arrive"])
def test_signals_that_fail_in_ways_of_their_own_lose_each_event_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metrics: str
) -> None:
    for_good, for_now = Refused("400"), Refused("503", again=True)
    answers = {"traces": for_good, "metrics": for_now if metrics == "wait" else None, "logs": for_good}
    monkeypatch.setattr("mccore_telemetry.otel.pipeline.connect", lambda target: Answering(answers[target.signal]))
    pipeline = Pipeline(spec(tmp_path), {signal: Target(signal, "http://h:1") for signal in SIGNALS})
    lost = 0
    for number in range(3000):
        checkpoint = Event("checkpoint", BEGAN + number, stage="base", data={"seconds": 0.1})
        event = step(number) if number % 3 else checkpoint  # every third is a span
        lost += count_lost(lambda event=event: pipeline.record(event))  # type: ignore[misc]
        if number % 100 == 99:
            lost += count_lost(pipeline.send)
    assert lost == 1000
    assert pipeline._told.size <= (3000 // 8 + 1 if metrics == "wait" else 1)
    lost += count_lost(lambda: pipeline.close(time.monotonic() + 60.0))
    assert lost == (3000 if metrics == "wait" else 1000)


def test_numbers_count_once_however_they_come() -> None:
    random.seed(14)
    lost, counted = Lost(), 0
    plain: set[int] = set()
    for _ in range(2000):
        begin = random.randrange(1, 5000)
        numbers = range(begin, begin + random.choice([0, 1, 1, 1, 7, 8, 9, 700]))
        counted += lost.add([numbers])
        plain.update(numbers)
        assert counted == len(plain)
    lost.forget(3001)
    assert lost.add([range(3001, 6000)]) == len(set(range(3001, 6000)) - plain)


def test_a_million_take_a_bit_each_and_none_once_nobody_can_lose_them_any_more() -> None:
    lost = Lost()
    assert sum(lost.add([range(number, number + 50)]) for number in range(1, 1_000_001, 100)) == 500_000
    assert lost.add([range(1, 1_000_001)]) == 500_000
    assert lost.size <= 1_000_000 // 8 + 1
    lost.forget(1_000_001)
    assert lost.size <= 1


def test_what_is_told_is_remembered_until_no_signal_can_lose_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logs are refused for good while metrics wait since the first event, and spans since a later one."""
    answers = {"logs": Refused("400"), "traces": Refused("503", again=True), "metrics": Refused("503", again=True)}
    monkeypatch.setattr("mccore_telemetry.otel.pipeline.connect", lambda target: Answering(answers[target.signal]))
    pipeline = Pipeline(spec(tmp_path), {signal: Target(signal, "http://h:1") for signal in SIGNALS})
    alert = Event("alert", BEGAN, stage="base", data={"metric": "mfu", "value": 0.1, "advice": "look"})
    checkpoint = Event("checkpoint", BEGAN, stage="base", data={"seconds": 0.1})
    for event in [alert] * 100 + [checkpoint] * 100:
        pipeline.record(event)
    assert count_lost(pipeline.send) == 100
    assert count_lost(lambda: pipeline.close(time.monotonic() + 60.0)) == 100
