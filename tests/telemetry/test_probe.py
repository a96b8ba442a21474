"""Trying providers: the reason that is known is told, whatever else takes its time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from mccore import plugins
from mccore.config import Choice, RunConfig
from mccore.events import Event
from mccore.telemetry.probe import Tried, probe


class Provider:
    """Takes everything. A subclass has faults; `over` ends what hangs."""

    def __init__(self, over: threading.Event) -> None:
        self.over = over

    def record(self, event: Event) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Refused(Provider):
    def flush(self) -> None:
        raise ConnectionRefusedError("connection refused")

    def close(self) -> None:
        self.over.wait(60)


class RefusedAtOnce(Refused):
    def record(self, event: Event) -> None:
        raise ConnectionRefusedError("connection refused")


class Silent(Provider):
    def flush(self) -> None:
        self.over.wait(60)


class FailsAtTheEnd(Provider):
    def close(self) -> None:
        raise OSError("403 forbidden")


class SlowToLoad(Provider):
    def __init__(self, over: threading.Event) -> None:
        super().__init__(over)
        over.wait(0.3)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Tried]]:
    """What a probe of one provider says, with so many seconds for answers."""
    over = threading.Event()

    def try_one(kind: type[Provider], seconds: float) -> Tried:
        monkeypatch.setattr(plugins, "build", lambda slot, choice, spec: kind(over))
        (found,) = probe([Choice(name="one")], RunConfig(), seconds)
        return found

    yield try_one
    over.set()


@pytest.mark.parametrize("kind", [Refused, RefusedAtOnce])
def test_a_reason_that_is_known_is_told_though_the_provider_hangs_then(
    tried: Callable[..., Tried], monkeypatch: pytest.MonkeyPatch, kind: type[Provider]
) -> None:
    monkeypatch.setattr("mccore.telemetry.probe.CLOSE_SECONDS", 0.1)
    found = tried(kind, 30.0)
    assert (found.arrived, found.detail) == (False, "connection refused")
    assert "start the server" in found.hint


def test_one_that_never_answers_is_told_as_that(tried: Callable[..., Tried]) -> None:
    assert tried(Silent, 0.2).detail == "no answer within 0 s"


def test_what_fails_at_the_end_has_failed(tried: Callable[..., Tried]) -> None:
    found = tried(FailsAtTheEnd, 30.0)
    assert (found.arrived, found.detail) == (False, "403 forbidden")
    assert "credentials" in found.hint


def test_the_time_for_answers_begins_when_a_client_is_loaded(
    tried: Callable[..., Tried], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tried(SlowToLoad, 30.0) == Tried("one", True, "5 events sent and accepted")
    monkeypatch.setattr("mccore.telemetry.probe.LOAD_SECONDS", 0.1)
    assert tried(SlowToLoad, 30.0).detail == "it didn't begin within 0 s"
