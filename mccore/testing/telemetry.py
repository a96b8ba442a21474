"""The contract of `mccore.api.TelemetryProvider` as tests."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from mccore.api import EventsLost, Extension, TelemetryProvider, TelemetrySpec
from mccore.config import RunConfig
from mccore.events import EVENT_TYPES, METRICS, Event, check_event
from mccore.testing.extensions import ExtensionSuite

_EXAMPLES: dict[str, Any] = {
    "integer": 2**40,
    "number": math.nan,
    "text": "eine Zeile – größer, 大",
    "boolean": True,
    "list": [[0, 64], [1, 8.5], []],
    "object": {"größe": "大", "inner": {"values": [1, math.inf, None]}},
}


def example_events() -> list[Event]:
    """One bare and one full event of every type, among them values that aren't finite and text that isn't ASCII."""
    events = []
    for number, kind in enumerate(EVENT_TYPES.values()):
        metrics: dict[str, float] = {}
        if kind.metrics:
            metrics = {name: float(place) for place, name in enumerate(METRICS)}
            metrics |= {"loss": math.nan, "grad_norm": math.inf, "lod_loss/1": 2.5}
        events.append(Event(kind.name, 1_700_000_000.0 + number))
        events.append(
            Event(
                kind.name,
                1_700_000_000.5 + number,
                rank=3,
                stage="base",
                step=number,
                tokens=number * 524_288,
                metrics=metrics,
                data={name: _EXAMPLES[field.kind] for name, field in kind.data.items()},
            )
        )
    for event in events:
        check_event(event)
    return events


_PATIENCE_SECONDS = 2.5
_SLACK_SECONDS = 2.0  # for a busy machine; what is looked for are waits of ten seconds and more
_RECOVERY_SECONDS = 60.0


class TelemetryProviderSuite(ExtensionSuite):
    """Subclass it and override `extension`; override `options` to point the provider at something that answers, and `outage`
    to let that fail."""

    def extension(self) -> Extension[TelemetryProvider]:
        """What your `mccore_telemetry_provider` hook returns. Override this."""
        provider: Extension[TelemetryProvider] = super().extension()
        return provider

    def outage(self) -> AbstractContextManager[None] | None:
        """While it is entered, what `options` points at doesn't answer. None for a provider that asks nobody."""
        return None

    def open(self, directory: Path, *, rank: int = 0) -> TelemetryProvider:
        """A provider of a run in `directory`, with the suite's options."""
        directory.mkdir(parents=True, exist_ok=True)
        spec = TelemetrySpec(
            "a-run", directory, rank, RunConfig(), run_id=f"{0xA:032x}", patience_seconds=_PATIENCE_SECONDS
        )
        return self.extension().build(self.options(), spec)

    def test_is_a_telemetry_provider(self, tmp_path: Path) -> None:
        provider = self.open(tmp_path)
        assert isinstance(provider, TelemetryProvider)
        provider.close()

    def test_takes_every_type_of_event(self, tmp_path: Path) -> None:
        provider = self.open(tmp_path)
        for event in example_events():
            provider.record(event)
        provider.flush()
        provider.close()

    def test_takes_events_between_flushes(self, tmp_path: Path) -> None:
        provider = self.open(tmp_path)
        provider.flush()
        for _ in range(3):
            for event in example_events():
                provider.record(event)
            provider.flush()
            provider.flush()
        provider.close()

    def test_closes_without_an_event(self, tmp_path: Path) -> None:
        self.open(tmp_path).close()

    def test_closes_with_events_not_flushed(self, tmp_path: Path) -> None:
        provider = self.open(tmp_path)
        for event in example_events():
            provider.record(event)
        provider.close()

    def test_leaves_events_as_they_are(self, tmp_path: Path) -> None:
        events = example_events()
        provider = self.open(tmp_path)
        for event in events:
            provider.record(event)
        provider.close()
        assert [event.to_json() for event in events] == [event.to_json() for event in example_events()]

    def test_is_used_from_a_background_thread(self, tmp_path: Path) -> None:
        provider = self.open(tmp_path)
        failures: list[BaseException] = []

        def speak() -> None:
            try:
                for event in example_events():
                    provider.record(event)
                provider.flush()
                provider.close()
            except BaseException as failure:  # reported by the test's own thread
                failures.append(failure)

        thread = threading.Thread(target=speak)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]

    def test_several_ranks_can_speak(self, tmp_path: Path) -> None:
        providers = [self.open(tmp_path, rank=rank) for rank in range(2)]
        for provider in providers:
            for event in example_events():
                provider.record(event)
            provider.flush()
        for provider in providers:
            provider.close()

    def test_never_keeps_the_process_alive(self, tmp_path: Path) -> None:
        before = set(threading.enumerate())
        provider = self.open(tmp_path)
        for event in example_events():
            provider.record(event)
        provider.flush()
        open_threads = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
        assert not open_threads, f"threads that aren't daemons: {open_threads}"
        provider.close()
        left = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
        assert not left, f"threads that aren't daemons after close: {left}"

    def test_is_silent(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        provider = self.open(tmp_path)
        for event in example_events():
            provider.record(event)
        provider.flush()
        provider.close()
        printed = capfd.readouterr()
        assert printed.out == "", "standard output belongs to the command"

    def test_closes_within_its_patience(self, tmp_path: Path) -> None:
        provider = self.open(tmp_path)
        for event in example_events():
            provider.record(event)
        assert seconds_of(provider.close) < _PATIENCE_SECONDS + _SLACK_SECONDS

    def test_a_fork_does_no_harm(self, tmp_path: Path) -> None:
        provider = self.open(tmp_path)
        for event in example_events():
            provider.record(event)
        child = os.fork()
        if child == 0:  # as a worker of a loader ends: without a word to the provider
            with contextlib.suppress(BaseException):
                del provider
                gc.collect()
            os._exit(0)
        end = time.monotonic() + _RECOVERY_SECONDS
        while not (ended := os.waitpid(child, os.WNOHANG)[0]) and time.monotonic() < end:
            time.sleep(0.01)
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert ended, "a process forked off hangs"
        for event in example_events():
            provider.record(event)
        provider.flush()
        provider.close()

    def test_an_outage_is_told_and_outlived(self, tmp_path: Path) -> None:
        outage = self._outage()
        provider = self.open(tmp_path)
        deliver(provider)
        with outage:
            assert fault_of(lambda: deliver(provider)), "an outage has to be raised by `record` or `flush`"
        end = time.monotonic() + _RECOVERY_SECONDS
        while fault := fault_of(lambda: deliver(provider)):
            assert time.monotonic() < end, f"it still fails: {fault}"
            time.sleep(0.05)
        provider.close()

    def test_an_outage_at_the_end_costs_no_more_than_its_patience(self, tmp_path: Path) -> None:
        outage = self._outage()
        provider = self.open(tmp_path)
        events = example_events()
        with outage:
            for event in events:
                with contextlib.suppress(Exception):
                    provider.record(event)
            assert seconds_of(provider.close) < _PATIENCE_SECONDS + _SLACK_SECONDS

    def test_events_lost_in_an_outage_are_no_more_than_were_taken(self, tmp_path: Path) -> None:
        outage = self._outage()
        provider = self.open(tmp_path)
        lost = 0
        calls: list[Callable[[], None]] = [lambda event=event: provider.record(event) for event in example_events()]
        with outage:
            for call in (*calls, provider.flush, provider.close):
                try:
                    call()
                except EventsLost as error:
                    lost += error.count
                except Exception:
                    lost += call in calls
        assert lost <= len(calls)

    def _outage(self) -> AbstractContextManager[None]:
        outage = self.outage()
        if outage is None:
            pytest.skip("outage() isn't overridden: the provider asks nobody who could be away")
        return outage


def deliver(provider: TelemetryProvider) -> None:
    """Hand over a few events and have them sent."""
    for event in example_events():
        provider.record(event)
    provider.flush()


def fault_of(action: Callable[[], None]) -> str:
    """What a call raises, in words, or nothing."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def seconds_of(action: Callable[[], None]) -> float:
    """How long a call takes; what it raises doesn't matter."""
    began = time.monotonic()
    fault_of(action)
    return time.monotonic() - began
