"""Times of a step's parts: only when someone measures, each part's time once."""

from __future__ import annotations

import time

import pytest

from mccore.train.timings import Timings

PARTS = {"inner": "outer", "outer": None, "other": None}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The next reading of the clock, in seconds; each one moves it by a millisecond."""
    now = [0.0]

    def read() -> float:
        now[0] += 0.001
        return now[0]

    monkeypatch.setattr(time, "perf_counter", read)
    return now


def run(timings: Timings, clock: list[float]) -> None:
    with timings("outer"):
        clock[0] += 0.010
        with timings("inner"):
            clock[0] += 0.005


def test_nothing_is_measured_unless_asked(clock: list[float]) -> None:
    timings = Timings(PARTS)
    run(timings, clock)
    assert timings.end() == {}
    assert clock[0] == pytest.approx(0.015)  # and the clock isn't read


def test_a_part_within_another_is_taken_from_it(clock: list[float]) -> None:
    timings = Timings(PARTS)
    timings.begin(synchronised=False)
    for _ in range(2):
        run(timings, clock)
    # One reading lies between the begin and the end of the inner part, and three in the outer one.
    assert timings.end() == {"inner": 12.0, "outer": pytest.approx(36.0 - 12.0), "other": 0.0}
    assert timings.end() == {}


def test_steps_without_parts_have_no_times() -> None:
    timings = Timings()
    timings.begin(synchronised=True)
    assert timings.end() == {}
