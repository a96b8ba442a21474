"""Who watches a launch, and how it is told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from mccore.events import Event


class Listener(Protocol):
    """Someone who watches a launch. A listener whose output has gone away (OSError) is left alone; the run goes on."""

    def event(self, event: Event) -> None:
        """An event of the launcher or a rank."""

    def notice(self, text: str) -> None:
        """A line for a human."""

    def tick(self) -> None:
        """Some time passed."""


class Audience:
    """A listener as the launcher tells it: nobody where none was given, and nobody from its first OSError on."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener

    def event(self, event: Event) -> None:
        with self._listening() as listener:
            if listener is not None:
                listener.event(event)

    def notice(self, text: str) -> None:
        with self._listening() as listener:
            if listener is not None:
                listener.notice(text)

    def tick(self) -> None:
        with self._listening() as listener:
            if listener is not None:
                listener.tick()

    @contextlib.contextmanager
    def _listening(self) -> Iterator[Listener | None]:
        try:
            yield self._listener
        except OSError:  # the terminal or the pipe went away; training goes on
            self._listener = None
