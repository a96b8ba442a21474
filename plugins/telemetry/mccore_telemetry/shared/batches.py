"""Waiting without growing, and trying again without hammering: for providers that send in batches."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Backlog(Generic[T]):
    """What waits to be sent, oldest first, `limit` items at most: of more the oldest go, counted in `dropped`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.dropped = 0
        self._items: deque[T] = deque()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def oldest(self) -> T | None:
        """What was added first of all that waits."""
        return self._items[0] if self._items else None

    def add(self, item: T) -> None:
        self._items.append(item)
        self._shorten()

    def take(self, count: int) -> list[T]:
        """Remove and return up to `count` of the oldest."""
        return [self._items.popleft() for _ in range(min(count, len(self._items)))]

    def give_back(self, items: Iterable[T]) -> None:
        """Put what was taken and not sent in front again, in the order it was taken."""
        self._items.extendleft(reversed(list(items)))
        self._shorten()

    def take_dropped(self) -> int:
        """Items dropped since the last call."""
        dropped, self.dropped = self.dropped, 0
        return dropped

    def _shorten(self) -> None:
        while len(self._items) > self.limit:
            self._items.popleft()
            self.dropped += 1


class Backoff:
    """When to try again: after `first` seconds, then twice as long each time, `longest` at most."""

    def __init__(
        self, first: float = 0.5, longest: float = 30.0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._first = first
        self._longest = longest
        self._clock = clock
        self._pause = 0.0
        self._until = 0.0

    @property
    def ready(self) -> bool:
        """Whether the pause is over."""
        return self._clock() >= self._until

    def failed(self, at_least: float = 0.0) -> None:
        """Begin the next pause, no shorter than what the other side asked for (`Retry-After`)."""
        self._pause = min(self._longest, max(self._first, 2 * self._pause))
        self._until = self._clock() + max(self._pause, at_least)

    def succeeded(self) -> None:
        """Begin again with short pauses."""
        self._pause = self._until = 0.0
