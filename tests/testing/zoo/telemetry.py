"""Telemetry providers that are wrong in one way each, and healthy ones: see test_suites.py."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

from mccore.api import EventsLost, Extension, Options, TelemetrySpec
from mccore.events import Event
from mccore.testing import TelemetryProviderSuite


class LinesTelemetry:
    """A healthy provider: one file of lines per rank."""

    def __init__(self, options: Options, spec: TelemetrySpec) -> None:
        self.path = spec.directory / f"sent-{spec.rank}.jsonl"
        self.lines: list[str] = []

    def record(self, event: Event) -> None:
        self.lines.append(event.to_json())

    def flush(self) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in self.lines)
        self.lines.clear()

    def close(self) -> None:
        self.flush()


class ZooTelemetry(TelemetryProviderSuite):
    provider: ClassVar[type]

    def extension(self) -> Extension[Any]:
        return Extension(build=self.provider, summary="a provider of the zoo")


class TestHealthyTelemetry(ZooTelemetry):
    provider = LinesTelemetry


class TestFiniteOnly(ZooTelemetry):
    """Chokes on a metric that isn't finite."""

    caught_by = "test_takes_every_type_of_event"

    class provider(LinesTelemetry):
        def record(self, event: Event) -> None:
            self.lines.append(json.dumps(dict(event.metrics), allow_nan=False))


class TestBareEventsOnly(ZooTelemetry):
    """Has no place for an event without a step."""

    caught_by = "test_takes_every_type_of_event"

    class provider(LinesTelemetry):
        def record(self, event: Event) -> None:
            self.lines.append(f"{event.step:d}")


class TestOneFlush(ZooTelemetry):
    """Can be flushed once."""

    caught_by = "test_takes_events_between_flushes"

    class provider(LinesTelemetry):
        def flush(self) -> None:
            super().flush()
            del self.lines


class TestNeedsAnEvent(ZooTelemetry):
    """Opens its connection at the first event and closes one that isn't there."""

    caught_by = "test_closes_without_an_event"

    class provider(LinesTelemetry):
        def record(self, event: Event) -> None:
            self.connection = object()

        def flush(self) -> None:
            pass

        def close(self) -> None:
            del self.connection


class TestNeedsAFlush(ZooTelemetry):
    """Can't be closed with events in its buffer."""

    caught_by = "test_closes_with_events_not_flushed"

    class provider(LinesTelemetry):
        def close(self) -> None:
            assert not self.lines


class TestEditsEvents(ZooTelemetry):
    """Takes the data out of the event, which every other provider is given too."""

    caught_by = "test_leaves_events_as_they_are"

    class provider(LinesTelemetry):
        def record(self, event: Event) -> None:
            event.data.clear()  # type: ignore[attr-defined]


class TestBoundToItsThread(ZooTelemetry):
    """Holds a connection that only the thread that made it may use."""

    caught_by = "test_is_used_from_a_background_thread"

    class provider(LinesTelemetry):
        def __init__(self, options: Options, spec: TelemetrySpec) -> None:
            super().__init__(options, spec)
            self.database = sqlite3.connect(":memory:")

        def record(self, event: Event) -> None:
            self.database.execute("select 1")


class TestOneRank(ZooTelemetry):
    """Gives every rank the same file, for itself alone."""

    caught_by = "test_several_ranks_can_speak"

    class provider(LinesTelemetry):
        def __init__(self, options: Options, spec: TelemetrySpec) -> None:
            super().__init__(options, spec)
            open(spec.directory / "sent.jsonl", "x").close()


class TestStaysAlive(ZooTelemetry):
    """Leaves a thread running that a process would wait for."""

    caught_by = "test_never_keeps_the_process_alive"

    class provider(LinesTelemetry):
        def __init__(self, options: Options, spec: TelemetrySpec) -> None:
            super().__init__(options, spec)
            self.done = threading.Event()
            self.thread = threading.Thread(target=self.done.wait, args=(2,))  # a real one wouldn't end
            self.thread.start()

        def close(self) -> None:
            super().close()
            self.done.set()
            self.thread.join()


class TestTalkative(ZooTelemetry):
    """Prints what it sends."""

    caught_by = "test_is_silent"

    class provider(LinesTelemetry):
        def record(self, event: Event) -> None:
            print(event.type)


class TestNoFlush(ZooTelemetry):
    """Lacks a method."""

    caught_by = "test_is_a_telemetry_provider"

    class provider:
        def __init__(self, options: Options, spec: TelemetrySpec) -> None:
            pass

        def record(self, event: Event) -> None:
            pass

        def close(self) -> None:
            pass


class TestLongGoodbye(ZooTelemetry):
    """Waits for an answer at the end, however long it takes."""

    caught_by = "test_closes_within_its_patience"

    class provider(LinesTelemetry):
        def close(self) -> None:
            super().close()
            threading.Event().wait(5)  # a real one would wait longer


class TestGoodbyeOfACopy(ZooTelemetry):
    """Ends its connection when it is collected, in whatever process that is."""

    caught_by = "test_a_fork_does_no_harm"

    class provider(LinesTelemetry):
        def __init__(self, options: Options, spec: TelemetrySpec) -> None:
            super().__init__(options, spec)
            self.ours, self.theirs = socket.socketpair()

        def record(self, event: Event) -> None:
            self.ours.send(b"x")

        def __del__(self) -> None:
            self.ours.shutdown(socket.SHUT_RDWR)


class Wire:
    """Where providers of the zoo send to. One for all: tests don't run side by side here."""

    down = False

    @classmethod
    def send(cls, lines: list[str]) -> None:
        if cls.down:
            raise ConnectionRefusedError("nobody there")
        lines.clear()


class WireTelemetry(LinesTelemetry):
    """A healthy provider that sends what it has buffered, and keeps it while that fails."""

    def flush(self) -> None:
        Wire.send(self.lines)

    def close(self) -> None:
        count = len(self.lines)
        try:
            self.flush()
        except ConnectionError as error:
            raise EventsLost(count, str(error)) from error


class ZooSender(ZooTelemetry):
    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        Wire.down = True
        try:
            yield
        finally:
            Wire.down = False


class TestHealthySender(ZooSender):
    provider = WireTelemetry


class TestSilentOutage(ZooSender):
    """Keeps an outage to itself."""

    caught_by = "test_an_outage_is_told_and_outlived"

    class provider(WireTelemetry):
        def flush(self) -> None:
            with contextlib.suppress(ConnectionError):
                super().flush()


class TestStubborn(ZooSender):
    """Tries again and again at the end."""

    caught_by = "test_an_outage_at_the_end_costs_no_more_than_its_patience"

    class provider(WireTelemetry):
        def close(self) -> None:
            end = time.monotonic() + 5  # a real one would go on
            while Wire.down and time.monotonic() < end:
                time.sleep(0.1)
            super().close()


class TestCountsTwice(ZooSender):
    """Counts an event as lost when it can't be sent, and once more when it is thrown away."""

    caught_by = "test_events_lost_in_an_outage_are_no_more_than_were_taken"

    class provider(WireTelemetry):
        def flush(self) -> None:
            count = len(self.lines)
            try:
                super().flush()
            except ConnectionError as error:
                raise EventsLost(count, str(error)) from error
