"""One telemetry provider: where its events come from, the thread that hands them over, and how it is doing.

Each has its own thread, so that one that is slow, hangs or raises holds up no other. What it loses is counted event by event:
those it raised on, those it gave up later (`EventsLost`), those that were dropped before it took them, and at the end those
it took after its last good flush.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mccore.api import EventsLost, Placed, TelemetryProvider
from mccore.events import Event

FLUSH_SECONDS = 5.0
PATIENCE_SECONDS = 2.3  # for a provider to close
END_SECONDS = 2.6  # for what waits and for closing, of all providers at once
CLOSE_SECONDS = 1.2  # left for closing when much waits at the end
STEADY_EVENTS = 8  # taken in a row until a provider counts as recovered


class Source(Protocol):
    """Where a delivery gets its events."""

    def next(self, seconds: float) -> Event | None:
        """The oldest event that waits, None when there is none for so many seconds or since `wake`."""
        ...

    def wake(self) -> None:
        """Let `next` return at once."""
        ...

    def rest(self) -> int:
        """Throw away what still waits and say how many events that was."""
        ...


class Queue:
    """Events of this process, `limit` at most: of more the oldest go, counted in `dropped`."""

    def __init__(self, limit: int) -> None:
        self.dropped = 0
        self._limit = limit
        self._events: deque[Event] = deque()
        self._wake = threading.Condition()
        self._woken = False

    def put(self, event: Event) -> bool:
        """Add an event. Says whether there was room."""
        with self._wake:
            full = len(self._events) >= self._limit
            if full:
                self._events.popleft()
            self._events.append(event)
            self._wake.notify()
        return not full

    def next(self, seconds: float) -> Event | None:
        """The oldest event, None when there is none for so many seconds or since `wake`."""
        with self._wake:
            if not self._events and not self._woken:
                self._wake.wait(seconds)
            return self._events.popleft() if self._events else None

    def wake(self) -> None:
        """Let `next` return at once, from now on."""
        with self._wake:
            self._woken = True
            self._wake.notify()

    def rest(self) -> int:
        """Throw away what still waits and say how many events that was."""
        with self._wake:
            count = len(self._events)
            self._events.clear()
        return count


@dataclass(frozen=True)
class State:
    """How a provider is doing, as a `telemetry` event says it: `ready` (once, with where events go), `failing`, `recovered`."""

    provider: str
    state: str
    lost: int
    message: str


class Delivery:
    """Hands events of a source to one provider, on a thread of its own. `report` is called from any thread, seldom."""

    def __init__(
        self,
        name: str,
        provider: TelemetryProvider,
        source: Source,
        report: Callable[[State], None],
        *,
        flush_seconds: float = FLUSH_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.name = name
        self._provider = provider
        self._source = source
        self._report = report
        self._flush_seconds = flush_seconds
        self._patience_seconds = patience_seconds
        self._lock = threading.Lock()  # guards the counts below
        self._failing = False
        self._abandoned = False
        self._lost = 0  # since it began to fail
        self._reported = 0  # of the lost
        self._steady = 0  # taken in a row
        self._open = 0  # taken since the last good flush
        self._calling = False  # the provider has an event or a call of its own, and hasn't returned
        self._placed = False  # it has taken an event, and where it puts them was asked
        self._closing = threading.Event()
        self._drain_until = float("inf")
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name=f"telemetry-{name}", daemon=True)
        self._thread.start()

    def lose(self, count: int, message: str) -> None:
        """Count events that the provider never got."""
        self._lose(count, message)

    def close_soon(self, deadline: float) -> None:
        """Begin to end: what waits is handed over for a while, and the provider closes, all by a deadline (time.monotonic)."""
        # One that works closes at once; one that fails needs its time to find out that it still does.
        self._drain_until = deadline - min(self._patience_seconds, CLOSE_SECONDS) * (1 if not self._failing else 2)
        self._closing.set()
        self._source.wake()

    def finish(self, deadline: float) -> None:
        """Wait for the end, until the deadline; a provider that hangs is abandoned, and what it had is lost."""
        if os.getpid() != self._pid:  # a fork has no such thread
            return
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if not self._thread.is_alive():
            return
        with self._lock:
            self._abandoned = True
            self._lost += self._open + self._calling
            self._failing = True
        self._add_rest()
        self._say("failing", "it didn't finish in time")

    # --- on the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        flush_at = time.monotonic() + self._flush_seconds
        while True:
            closing = self._closing.is_set()  # asked for before the last look at the source
            if closing and time.monotonic() >= self._drain_until:
                break
            event = self._source.next(0.0 if closing else max(0.0, flush_at - time.monotonic()))
            if event is not None:
                self._record(event)
            elif closing:
                break
            if time.monotonic() >= flush_at:
                self._flush()
                flush_at = time.monotonic() + self._flush_seconds
        if waiting := self._source.rest():
            self._lose(waiting, "the run ended before it had taken everything")
        self._close()

    def _record(self, event: Event) -> None:
        self._calling = True
        try:
            self._provider.record(event)
        except EventsLost as error:
            self._take()
            self._give_up(error)
        except Exception as error:  # a guest's fault is reported, not shared
            self._lose(1, _words(error))
        else:
            self._take()
            self._say_place()
        finally:
            self._calling = False

    def _say_place(self) -> None:
        """Say once where events go, for a provider that knows: that W&B records offline is news to who gave it a key."""
        if self._placed or not isinstance(self._provider, Placed):
            return
        self._placed = True
        if place := self._provider.place():
            self._report(State(self.name, "ready", 0, place[:500]))

    def _flush(self) -> None:
        try:
            self._provider.flush()
        except EventsLost as error:
            self._give_up(error)
        except Exception as error:
            self._lose(0, _words(error))
        else:
            self._confirm()

    def _close(self) -> None:
        message = "the run ended"
        try:
            self._provider.close()
        except EventsLost as error:
            message = str(error)
            self._give_up(error)
        except Exception as error:
            message = _words(error)
            self._lose(self._open, message)
        else:
            self._confirm(steady=1)  # nothing comes after it that could fail again
        if self._failing and self._lost > self._reported:
            self._say("failing", message)

    def _take(self) -> None:
        with self._lock:
            self._steady += 1
            self._open += 1

    def _confirm(self, steady: int = STEADY_EVENTS) -> None:
        """Everything taken so far has arrived; after a fault, so many events in a row say that it is over."""
        with self._lock:
            self._open = 0
            recovered = self._failing and self._steady >= steady and not self._abandoned
            if recovered:
                self._failing = False
        if recovered:
            self._say("recovered", "")
            with self._lock:
                self._lost = self._reported = 0

    def _give_up(self, error: EventsLost) -> None:
        with self._lock:
            self._open = max(0, self._open - error.count)
        self._lose(error.count, str(error))

    def _lose(self, count: int, message: str) -> None:
        with self._lock:
            if self._abandoned:  # counted already
                return
            first = not self._failing
            self._failing = True
            self._steady = 0
            self._lost += count
        if first:
            self._say("failing", message)

    def _add_rest(self) -> None:
        waiting = self._source.rest()
        with self._lock:
            self._lost += waiting

    def _say(self, state: str, message: str) -> None:
        with self._lock:
            lost = self._reported = self._lost
        self._report(State(self.name, state, lost, message[:500]))


def close_all(deliveries: list[Delivery], seconds: float) -> None:
    """End all at once, each by the same deadline."""
    deadline = time.monotonic() + seconds
    for delivery in deliveries:
        delivery.close_soon(deadline)
    for delivery in deliveries:
        delivery.finish(deadline)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
