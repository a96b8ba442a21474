"""Events on their way out: to the run's own file at once, to telemetry providers in the background.

The file is the record; providers are guests. Each has a thread and a bounded queue of its own, so that one that is dead,
slow or raises costs neither a step nor another provider anything. A fault is told once, as a `telemetry` event, and once
more when it is over, with the number of events lost.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence

from mccore.api import TelemetryProvider
from mccore.errors import RunError
from mccore.events import AlertWatch, Event, EventWriter
from mccore.telemetry.delivery import END_SECONDS, FLUSH_SECONDS, PATIENCE_SECONDS, Delivery, Queue, State, close_all

QUEUE_EVENTS = 4096


class Emitter:
    """Writes events of one process and hands them to its telemetry providers. `emit` may be called from any thread.

    Owns `writer`: `close` closes it. The stages of a run have no providers: `relay` reads what they write. `alerts` watches what
    is emitted; a run's launcher does that for all its stages.
    """

    def __init__(
        self,
        writer: EventWriter,
        providers: Sequence[tuple[str, TelemetryProvider]] = (),
        *,
        alerts: AlertWatch | None = None,
        queue_events: int = QUEUE_EVENTS,
        flush_seconds: float = FLUSH_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._writer = writer
        self._alerts = alerts
        self._file = threading.Lock()  # guards the writer
        self._closed = False
        self._pid = os.getpid()
        self._queues = [Queue(queue_events) for _ in providers]
        self._deliveries = [
            Delivery(
                name, provider, queue, self._report, flush_seconds=flush_seconds, patience_seconds=patience_seconds
            )
            for (name, provider), queue in zip(providers, self._queues, strict=True)
        ]

    def emit(self, event: Event, *, durable: bool = False) -> None:
        """Write an event and queue it for the providers; `durable` waits until it is on disk.

        Raises ValueError for an event outside the schema and RunError when the file can't be written; never for a provider.
        """
        with self._file:
            self._writer.write(event, durable=durable)
        for delivery, queue in zip(self._deliveries, self._queues, strict=True):
            if not queue.put(event):
                delivery.lose(1, "it is too slow: the oldest events were dropped")
        for alert in self._alerts.feed(event) if self._alerts is not None else ():
            self.emit(
                Event.now(
                    "alert",
                    None,
                    alert.data(),
                    rank=event.rank,
                    stage=alert.stage,
                    step=alert.step,
                    tokens=alert.tokens,
                )
            )

    def close(self, deadline_seconds: float = END_SECONDS) -> None:
        """Give the providers until the deadline to deliver what waits, then close the file. Harmless when called twice."""
        if self._closed or os.getpid() != self._pid:
            return
        close_all(self._deliveries, deadline_seconds)
        with self._file:
            self._closed = True
            self._writer.close()

    def __enter__(self) -> Emitter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _report(self, state: State) -> None:
        # A file that can't be written stops the run where it trains, not here.
        with self._file, contextlib.suppress(RunError):
            if not self._closed:
                write_state(self._writer, state)


def write_state(writer: EventWriter, state: State) -> None:
    """Write how a provider is doing."""
    writer.emit("telemetry", provider=state.provider, state=state.state, lost=state.lost, message=state.message)
