"""What counts as lost, to the event, for providers that send at once and for those that send later."""

from __future__ import annotations

import threading
import time

import pytest

from mccore.api import EventsLost
from mccore.events import Event
from mccore.telemetry.delivery import STEADY_EVENTS, Delivery, Queue, close_all


class Batching:
    """Keeps what it takes until a flush; `fault` is raised there, and by `close`."""

    def __init__(self):
        self.waiting, self.sent = [], []
        self.fault, self.flushed = None, threading.Event()

    def record(self, event):
        self.waiting.append(event.step)

    def flush(self):
        self.flushed.set()
        if self.fault is not None:
            raise self.fault
        self.sent += self.waiting
        self.waiting = []

    def close(self):
        self.flush()


class Bench:
    """A delivery with its queue, and what it reported."""

    def __init__(self, provider, **options):
        self.provider, self.queue, self.reports = provider, Queue(10_000), []
        options = {"flush_seconds": 3600.0} | options
        self.delivery = Delivery("one", provider, self.queue, self.reports.append, **options)
        self.step = 0

    def put(self, count):
        for _ in range(count):
            self.queue.put(Event("step", 0.0, step=self.step))
            self.step += 1

    def close(self, seconds=30.0):
        close_all([self.delivery], seconds)

    @property
    def said(self):
        return [(report.state, report.lost) for report in self.reports]


def wait_for(condition):
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class Local(Batching):
    """Knows where its events go once it took one."""

    def place(self):
        return "kept here: there is no key" if self.waiting else ""


def test_a_provider_that_keeps_events_here_says_so_once():
    bench = Bench(Local())
    bench.put(3)
    bench.close()
    assert [(report.state, report.lost, report.message) for report in bench.reports] == [
        ("ready", 0, "kept here: there is no key")
    ]


def test_what_a_later_flush_delivers_was_never_lost():
    bench = Bench(Batching())
    bench.put(20)
    bench.close()
    assert bench.provider.sent == list(range(20))
    assert bench.said == []


def test_trouble_that_keeps_its_events_is_told_and_loses_none():
    provider = Batching()
    provider.fault = OSError("nobody there")
    bench = Bench(provider, flush_seconds=0.01)
    bench.put(20)
    wait_for(lambda: bench.said)
    assert bench.said == [("failing", 0)]
    assert bench.reports[0].message == "OSError: nobody there"
    provider.fault = None
    bench.put(STEADY_EVENTS)
    wait_for(lambda: len(bench.said) == 2)
    bench.close()
    assert bench.said == [("failing", 0), ("recovered", 0)]
    assert provider.sent == list(range(20 + STEADY_EVENTS))


def test_events_given_up_are_counted_as_the_provider_says():
    provider = Batching()
    provider.fault = EventsLost(3, "413 too large")
    bench = Bench(provider, flush_seconds=0.01)
    bench.put(5)
    wait_for(lambda: not bench.queue._events)
    wait_for(lambda: bench.said)
    assert bench.said[0] == ("failing", 3)


@pytest.mark.parametrize(("after", "said"), [(2, ("recovered", 3)), (0, ("failing", 3))])
def test_a_fault_that_is_over_when_the_run_ends_is_said_to_be_over(after, said):
    class Sending(Batching):
        def record(self, event):
            if self.fault is not None:
                raise self.fault
            super().record(event)

    provider = Sending()
    provider.fault = OSError("away")
    bench = Bench(provider)
    bench.put(3)
    wait_for(lambda: bench.delivery._lost == 3)
    provider.fault = None
    bench.put(after)  # fewer than it takes while a run goes on
    bench.close()
    assert bench.said[-1] == said


def test_a_provider_that_cant_close_loses_what_it_took_since_its_last_good_flush():
    provider = Batching()
    bench = Bench(provider, flush_seconds=0.01)
    bench.put(7)
    wait_for(lambda: len(provider.sent) == 7)
    wait_for(lambda: bench.delivery._open == 0)
    bench.delivery._flush_seconds = 3600.0
    provider.flushed.clear()
    assert provider.flushed.wait(30)  # the flush that was due already
    provider.fault = OSError("gone")
    bench.put(4)
    bench.close()
    assert bench.said[-1] == ("failing", 4)


def test_one_that_hangs_in_close_loses_what_wasnt_confirmed():
    class Hanging(Batching):
        gate = threading.Event()

        def close(self):
            self.gate.wait(60)

    bench = Bench(Hanging(), patience_seconds=0.1)
    bench.put(6)
    began = time.monotonic()
    bench.close(0.3)
    assert time.monotonic() - began < 10
    assert bench.said == [("failing", 6)]
    bench.provider.gate.set()
    bench.delivery._thread.join()
    assert bench.said == [("failing", 6)], "it is counted once"


@pytest.mark.parametrize("count", [0, 5])
def test_a_queue_gives_what_waits_before_it_ends(count):
    queue = Queue(10)
    for step in range(count):
        queue.put(Event("step", 0.0, step=step))
    queue.wake()
    taken = []
    while (event := queue.next(3600.0)) is not None:
        taken.append(event.step)
    assert taken == list(range(count))


def test_a_full_queue_drops_the_oldest_and_says_so():
    queue = Queue(2)
    assert [queue.put(Event("step", 0.0, step=step)) for step in range(3)] == [True, True, False]
    assert queue.next(0.0).step == 1
    assert queue.rest() == 1
    assert queue.next(0.0) is None
