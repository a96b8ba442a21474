"""The emitter: a provider may block, raise or be slow; the file has everything and a step waits for nothing."""

from __future__ import annotations

import itertools
import os
import threading
import time

import pytest

from mccore.events import AlertWatch, Event, EventWriter, read_events
from mccore.telemetry.delivery import STEADY_EVENTS
from mccore.telemetry.emitter import Emitter


class Recorder:
    """Takes everything."""

    def __init__(self):
        self.steps, self.flushed, self.closed = [], threading.Event(), 0

    def record(self, event):
        self.steps.append(event.step)

    def flush(self):
        self.flushed.set()

    def close(self):
        self.closed += 1


class Raising(Recorder):
    """Raises while `down`."""

    down = True

    def record(self, event):
        if self.down:
            raise ConnectionRefusedError("nobody there")
        super().record(event)


class Blocking(Recorder):
    """Hangs in `record` until it is let go."""

    def __init__(self):
        super().__init__()
        self.entered, self.gate = threading.Event(), threading.Event()

    def record(self, event):
        self.entered.set()
        assert self.gate.wait(60)
        super().record(event)


@pytest.fixture
def make(tmp_path):
    emitters = []

    def build(*providers, **options):
        emitters.append(Emitter(EventWriter(tmp_path / "rank0.jsonl"), providers, **options))
        return emitters[-1]

    yield build
    for emitter in emitters:
        emitter.close(0.1)


def steps(emitter, numbers):
    for number in numbers:
        emitter.emit(Event.now("step", {"loss": 1.0}, step=number, stage="base"))


def reports(tmp_path):
    return [
        (e.data["provider"], e.data["state"], e.data["lost"]) for e in read_events(tmp_path) if e.type == "telemetry"
    ]


def written(tmp_path):
    return [e.step for e in read_events(tmp_path) if e.type == "step"]


def wait_for(condition):
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def test_everything_arrives_in_order_and_close_is_called_once(make, tmp_path):
    one, two = Recorder(), Recorder()
    emitter = make(("one", one), ("two", two))
    steps(emitter, range(500))
    emitter.close()
    emitter.close()
    assert one.steps == two.steps == written(tmp_path) == list(range(500))
    assert (one.closed, two.closed) == (1, 1)
    assert reports(tmp_path) == []


def test_without_providers_there_is_no_thread(make, tmp_path):
    before = threading.active_count()
    emitter = make()
    steps(emitter, [1])
    assert threading.active_count() == before
    assert written(tmp_path) == [1]


def test_an_event_is_in_the_file_before_a_provider_sees_it(make, tmp_path):
    blocking = Blocking()
    emitter = make(("slow", blocking))
    steps(emitter, [1])
    assert blocking.entered.wait(30)
    assert written(tmp_path) == [1]
    blocking.gate.set()


def test_a_raising_provider_is_reported_once_and_the_others_go_on(make, tmp_path):
    good, bad = Recorder(), Raising()
    emitter = make(("bad", bad), ("good", good))
    steps(emitter, range(50))
    emitter.close()
    assert good.steps == list(range(50))
    # told when it began, and at the end how much was lost
    assert reports(tmp_path) == [("bad", "failing", 1), ("bad", "failing", 50)]


def test_a_provider_that_comes_back_is_reported_with_what_was_lost(make, tmp_path):
    flaky = Raising()
    emitter = make(("flaky", flaky))
    steps(emitter, range(10))
    wait_for(lambda: not emitter._queues[0]._events)
    flaky.down = False
    steps(emitter, range(10, 10 + 2 * STEADY_EVENTS))
    emitter.close()
    (_, began, first), (_, ended, lost) = reports(tmp_path)
    assert (began, ended, first) == ("failing", "recovered", 1)
    assert lost + len(flaky.steps) == 10 + 2 * STEADY_EVENTS
    assert 9 <= lost <= 11


def test_a_blocking_provider_costs_no_step_and_the_oldest_are_dropped(make, tmp_path):
    blocking = Blocking()
    emitter = make(("slow", blocking), queue_events=10)
    steps(emitter, [0])
    assert blocking.entered.wait(30)
    steps(emitter, range(1, 101))  # returns although nothing is taken
    assert written(tmp_path) == list(range(101))
    assert reports(tmp_path) == [("slow", "failing", 1)]
    blocking.gate.set()
    steps(emitter, [])
    emitter.close(30)
    assert blocking.steps == [0, *range(91, 101)]
    assert reports(tmp_path)[-1] == ("slow", "recovered", 90)


def test_close_keeps_its_deadline_with_a_provider_that_hangs(make, tmp_path):
    blocking = Blocking()
    emitter = make(("stuck", blocking))
    steps(emitter, range(5))
    assert blocking.entered.wait(30)
    began = time.monotonic()
    emitter.close(0.2)
    assert time.monotonic() - began < 10  # it hangs for ever
    assert reports(tmp_path)[-1] == ("stuck", "failing", 5)
    assert written(tmp_path) == list(range(5))
    blocking.gate.set()  # its late awakening writes nothing into the closed file


def test_close_gives_up_on_a_provider_that_is_too_slow(make, tmp_path):
    class Slow(Recorder):
        def record(self, event):
            self.closing.wait(0.05)
            super().record(event)

    slow = Slow()
    slow.closing = threading.Event()
    emitter = make(("slow", slow), patience_seconds=0.1)
    steps(emitter, range(200))
    emitter.close(0.5)
    slow.closing.set()
    lost = reports(tmp_path)[-1]
    assert lost[:2] == ("slow", "failing")
    assert 0 < lost[2] < 200
    assert slow.closed == 1


def test_one_that_hangs_holds_up_no_other(make, tmp_path):
    blocking, good = Blocking(), Recorder()
    emitter = make(("stuck", blocking), ("good", good))
    steps(emitter, range(500))
    wait_for(lambda: len(good.steps) == 500)
    emitter.close(0.2)
    assert reports(tmp_path) == [("stuck", "failing", 500)]
    assert good.closed == 1
    blocking.gate.set()


def test_a_fork_neither_sends_nor_hangs(make, tmp_path):
    recorder = Recorder()
    emitter = make(("one", recorder))
    steps(emitter, range(3))
    child = os.fork()
    if child == 0:
        emitter.close(60)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    steps(emitter, range(3, 5))
    emitter.close()
    assert recorder.steps == written(tmp_path) == [0, 1, 2, 3, 4]


def test_providers_are_flushed_while_the_run_is_silent(make):
    recorder = Recorder()
    make(("quiet", recorder), flush_seconds=0.01)
    assert recorder.flushed.wait(30)


def test_an_event_outside_the_schema_reaches_nobody(make, tmp_path):
    recorder = Recorder()
    emitter = make(("one", recorder))
    with pytest.raises(ValueError, match="unknown event type"):
        emitter.emit(Event.now("nonsense"))
    emitter.close()
    assert recorder.steps == []


def test_alerts_go_where_everything_goes(tmp_path, monkeypatch):
    recorder, clock = Recorder(), itertools.count(0.0, 100.0)
    taken = []
    recorder.record = taken.append
    monkeypatch.setattr("time.time", lambda: next(clock))
    with Emitter(EventWriter(tmp_path / "chat.jsonl"), [("p", recorder)], alerts=AlertWatch()) as emitter:
        for _ in range(4):
            emitter.emit(Event.now("inference_update", {"swap_rate": 0.9}, stage="chat"))
    (alert,) = [event for event in taken if event.type == "alert"]
    assert (alert.stage, alert.data["metric"], alert.data["since"]) == ("chat", "swap_rate", 200.0)
    assert [event.type for event in read_events(tmp_path)].count("alert") == 1
