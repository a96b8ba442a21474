"""What emitting an event needs: where in a stage it happens, and an emitter for those who write none."""

from __future__ import annotations

from typing import Protocol

from mccore.events import Event


class Place(Protocol):
    """A step of a stage, and its training tokens so far."""

    @property
    def step(self) -> int: ...

    @property
    def tokens(self) -> int: ...


class Unheard:
    """An emitter for what looks at a run without being part of it: nothing is written."""

    def emit(self, event: Event, *, durable: bool = False) -> None:
        """Nothing."""
