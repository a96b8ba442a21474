"""How long a stage took over all its starts."""

from __future__ import annotations

from mccore.events import Event
from mccore.runs.attempts import attempt_seconds, total_seconds


def said(type: str, time: float, stage: str | None = "base", rank: int = 0, **data: object) -> Event:
    return Event(type, time, rank, stage, data=data)


def test_each_start_counts_once_whoever_tells_its_end() -> None:
    events = [
        said("run.start", 0.0, None),
        said("stage.start", 10.0),
        said("stage.end", 14.0, seconds=5.0),
        said("stage.end", 14.5, seconds=7.0),  # the launcher's: the first failure was another rank's
        said("run.start", 100.0, None),
        said("stage.end", 103.0, seconds=3.0),  # it was killed before it could say that it starts
        said("run.start", 200.0, None),
        said("stage.start", 210.0),
        said("step", 218.0),
        said("step", 900.0, rank=1),
        said("run.start", 1000.0, None),  # the launcher was killed with it
        said("stage.start", 1010.0),
        said("stage.end", 1012.0),  # of a build whose launcher didn't know
        said("run.start", 2000.0, None),
        said("stage.end", 2001.0),
        said("stage.start", 3000.0, "sft"),
        said("run.start", 4000.0, None),
        said("stage.start", 4001.0),
    ]
    assert attempt_seconds(events, "base") == [5.0, 3.0, 8.0, 2.0, None, 0.0]
    assert attempt_seconds(events, "base", now=4005.5)[-1] == 4.5
    assert attempt_seconds(events, "data") == []


def test_what_nobody_knows_is_not_zero() -> None:
    assert total_seconds([]) is None
    assert total_seconds([None]) is None
    assert total_seconds([None, 1.5, 2.0]) == 3.5
