"""Events on their way out: to the run's own file at once, to telemetry providers in the background.

The file is the record; providers are guests. They share one thread and a bounded queue, so that a provider that is dead,
slow or raises costs a training step nothing: the oldest waiting events are dropped and counted, and the fault is told once
as a `telemetry` event, and once more when it is over.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from mccore import plugins
from mccore.api import Extension, TelemetryProvider, TelemetrySpec
from mccore.config import RunConfig
from mccore.errors import RunError
from mccore.events import Event, EventWriter
from mccore.runs.rundir import RunDir
from mccore.telemetry.delivery import Delivery

QUEUE_EVENTS = 4096

FLUSH_SECONDS = 5.0

STEADY_EVENTS = 8  # delivered in a row until a provider counts as recovered


class Emitter:
    """Writes events of one process and hands them to its telemetry providers. `emit` may be called from any thread.

    Owns `writer`: `close` closes it.
    """

    def __init__(
        self,
        writer: EventWriter,
        providers: Sequence[tuple[str, TelemetryProvider]] = (),
        *,
        queue_events: int = QUEUE_EVENTS,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        self._writer = writer
        self._deliveries = [Delivery(name, provider) for name, provider in providers]
        self._queue: deque[Event] = deque()
        self._queue_events = queue_events
        self._flush_seconds = flush_seconds
        self._wake = threading.Condition()  # guards the queue, the deliveries' counts and the flags below
        self._file = threading.Lock()  # guards the writer
        self._serving: Delivery | None = None
        self._deadline: float | None = None
        self._closed = False
        self._thread: threading.Thread | None = None
        if self._deliveries:
            self._thread = threading.Thread(target=self._deliver, name="telemetry", daemon=True)
            self._thread.start()

    def emit(
        self,
        type: str,
        *,
        stage: str | None = None,
        step: int | None = None,
        tokens: int | None = None,
        metrics: Mapping[str, float] | None = None,
        durable: bool = False,
        **data: Any,
    ) -> Event:
        """Write an event that happens now and queue it for the providers; `durable` waits until it is on disk.

        Raises ValueError for an event outside the schema and RunError when the file can't be written; never for a provider.
        """
        with self._file:
            event = self._writer.emit(
                type, stage=stage, step=step, tokens=tokens, metrics=metrics, durable=durable, **data
            )
        if self._thread is not None:
            self._enqueue(event)
        return event

    def close(self, deadline_seconds: float = 5.0) -> None:
        """Give the providers until the deadline to deliver what waits, then close the file. Harmless when called twice."""
        if self._closed:
            return
        if self._thread is not None:
            with self._wake:
                self._deadline = time.monotonic() + 0.7 * deadline_seconds  # the rest is for their own closing
                self._wake.notify()
            self._thread.join(deadline_seconds)
            if self._thread.is_alive():
                with self._wake:
                    stuck = self._serving
                    waiting = len(self._queue) + 1  # the one it hangs on
                    self._queue.clear()
                for delivery in self._deliveries:
                    if stuck is None or delivery is stuck or waiting > 1:
                        message = "it didn't finish in time" if delivery is stuck else "another provider held it up"
                        self._lose(delivery, waiting if delivery is stuck else waiting - 1, message)
                        self._report_rest(delivery, message)
        with self._file:
            self._closed = True
            self._writer.close()

    def __enter__(self) -> Emitter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- the step's side ----------------------------------------------------------------------------------------------

    def _enqueue(self, event: Event) -> None:
        with self._wake:
            dropped = len(self._queue) >= self._queue_events
            if dropped:
                self._queue.popleft()
            self._queue.append(event)
            serving = self._serving
            self._wake.notify()
        if dropped:
            for delivery in self._deliveries:
                why = "it is too slow" if delivery is serving else "another provider holds up the queue"
                self._lose(delivery, 1, f"{why}: the oldest events were dropped")

    # --- the providers' side, on the background thread ----------------------------------------------------------------

    def _deliver(self) -> None:
        flushed = time.monotonic()
        while True:
            with self._wake:
                if not self._queue and self._deadline is None:
                    self._wake.wait(self._flush_seconds)
                event = self._queue.popleft() if self._queue else None
                closing = self._deadline is not None
            if self._past_deadline() and event is not None:
                with self._wake:
                    lost = 1 + len(self._queue)
                    self._queue.clear()
                for delivery in self._deliveries:
                    self._lose(delivery, lost, "the run ended before it had taken everything")
                event = None
            if event is not None:
                for delivery in self._deliveries:
                    self._call(delivery, partial(delivery.provider.record, event), loses=1)
            elif closing:
                break
            if time.monotonic() - flushed >= self._flush_seconds:
                for delivery in self._deliveries:
                    self._call(delivery, delivery.provider.flush, loses=0)
                flushed = time.monotonic()
        for delivery in self._deliveries:
            self._call(delivery, delivery.provider.close, loses=0)
            self._report_rest(delivery, "the run ended")

    def _call(self, delivery: Delivery, action: Callable[[], None], *, loses: int) -> None:
        self._serving = delivery
        try:
            action()
        except Exception as error:  # a guest's fault is reported, not shared
            self._lose(delivery, loses, f"{type(error).__name__}: {error}")
        else:
            if loses:
                self._delivered(delivery)
        finally:
            self._serving = None

    def _delivered(self, delivery: Delivery) -> None:
        with self._wake:
            delivery.delivered += 1
            recovered = delivery.failing and delivery.delivered >= STEADY_EVENTS
            if recovered:
                delivery.failing = False
        if recovered:
            self._report(delivery, "recovered", "")
            delivery.lost = delivery.reported = 0

    def _lose(self, delivery: Delivery, count: int, message: str) -> None:
        with self._wake:
            first = not delivery.failing
            delivery.failing = True
            delivery.delivered = 0
            delivery.lost += count
        if first:
            self._report(delivery, "failing", message)

    def _report_rest(self, delivery: Delivery, message: str) -> None:
        """The final count of a provider that never recovered."""
        if delivery.failing and delivery.lost > delivery.reported:
            self._report(delivery, "failing", message)

    def _report(self, delivery: Delivery, state: str, message: str) -> None:
        delivery.reported = delivery.lost
        # A file that can't be written stops the run where it trains, not here.
        with self._file, contextlib.suppress(RunError):
            if not self._closed:
                self._writer.emit(
                    "telemetry", provider=delivery.name, state=state, lost=delivery.lost, message=message[:500]
                )

    def _past_deadline(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline


def build_emitter(
    config: RunConfig,
    run: RunDir,
    rank: int,
    load: Callable[[Literal["telemetry"], str], Extension[TelemetryProvider]] = plugins.load,
) -> Emitter:
    """The emitter of one rank with the providers its configuration names.

    `load(kind, name)` gives the extension of a plugin; its errors are raised. A provider that can't be built (its port is
    taken, its client missing) is reported as a `telemetry` event and left out: telemetry doesn't stop a run.
    """
    spec = TelemetrySpec(run=run.name, directory=run.path, rank=rank, config=config)
    extensions = [(choice, load("telemetry", choice.name)) for choice in config.telemetry]
    writer = EventWriter(run.events_dir / f"rank{rank}.jsonl", rank=rank)
    providers: list[tuple[str, TelemetryProvider]] = []
    for choice, extension in extensions:
        try:
            providers.append((choice.name, extension.build(extension.options.model_validate(choice.options), spec)))
        except Exception as error:
            message = f"it can't be started: {type(error).__name__}: {error}"[:500]
            writer.emit("telemetry", provider=choice.name, state="failing", lost=0, message=message)
    return Emitter(writer, providers)
