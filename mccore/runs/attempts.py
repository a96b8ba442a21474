"""How long a stage took, over all its starts, from the events of its run."""

from __future__ import annotations

from collections.abc import Iterable

from mccore.events import Event


def attempt_seconds(events: Iterable[Event], stage: str, now: float | None = None) -> list[float | None]:
    """Seconds of each start of a stage; `events` of the whole run, oldest first.

    The stage's own word counts, else its launcher's, else the time between its events. `now` is the end of a start that goes
    on; one that was cut off counts to its last event. None where nothing tells how long it took.
    """
    found: list[float | None] = []
    began: float | None = None  # of a start that has no end yet
    last, ended = 0.0, False
    for event in events:
        if event.rank != 0 or not (event.stage == stage or event.type == "run.start"):
            continue
        if event.type in ("run.start", "stage.start"):
            if began is not None:
                found.append(max(0.0, last - began))
            began, ended = event.time if event.type == "stage.start" else None, False
        elif event.type == "stage.end":
            told = event.data.get("seconds")
            if ended:  # the launcher's word after the stage's own: of the same start
                continue
            if isinstance(told, int | float):
                found.append(float(told))
            else:
                found.append(None if began is None else max(0.0, event.time - began))
            began, ended = None, True
        last = event.time
    if began is not None:
        found.append(max(0.0, (last if now is None else now) - began))
    return found


def total_seconds(attempts: Iterable[float | None]) -> float | None:
    """What the starts took together, None where it isn't known of any."""
    known = [seconds for seconds in attempts if seconds is not None]
    return sum(known) if known else None
