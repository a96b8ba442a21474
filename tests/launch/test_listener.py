"""A listener whose output goes away is left alone, and the run goes on."""

from __future__ import annotations

from typing import Any

import pytest

from mccore.events import Event
from mccore.launch.listener import Audience


class Pipe:
    """Notes what it is told, until it breaks."""

    def __init__(self, error: Exception | None = None) -> None:
        self.told: list[Any] = []
        self.error = error

    def event(self, event: Event) -> None:
        self._tell(event.type)

    def notice(self, text: str) -> None:
        self._tell(text)

    def tick(self) -> None:
        self._tell("tick")

    def _tell(self, what: str) -> None:
        self.told.append(what)
        if self.error is not None:
            raise self.error


def tell(audience: Audience) -> None:
    audience.event(Event.now("run.start", None, {}))
    audience.notice("a line")
    audience.tick()


def test_everything_is_passed_on() -> None:
    pipe = Pipe()
    tell(Audience(pipe))
    assert pipe.told == ["run.start", "a line", "tick"]
    tell(Audience(None))


def test_a_broken_pipe_is_told_nothing_more() -> None:
    pipe = Pipe(BrokenPipeError())
    tell(Audience(pipe))
    assert pipe.told == ["run.start"]


def test_a_mistake_of_the_listener_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        tell(Audience(Pipe(ZeroDivisionError())))
