"""One answer: what has been generated of it, and what is kept between answers."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mccore.errors import MccoreError

if TYPE_CHECKING:
    from mccore.model.kv_cache import KVCache


Finish = Literal["stop", "length", "context"]


class ContextOverflow(MccoreError):
    """A prompt leaves no room in the model's context for an answer."""


@dataclass
class Completion:
    """What a model added to one prompt. `forced[i]` marks tokens that a tool wrote; the stop token is not among `tokens`.

    `finish`: "stop" (a stop token), "length" (as many tokens as asked for), "context" (no room left), None while it runs.
    """

    tokens: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    finish: Finish | None = None


class Generation(Iterator[int]):
    """The tokens of one answer as they come; `completion` holds them so far and says in the end why it ended."""

    def __init__(self, row: Row, steps: Iterator[list[tuple[int, int]]]) -> None:
        self.completion = row.completion
        self._steps = steps

    def __next__(self) -> int:
        for added in self._steps:
            if added:
                return added[0][1]
        raise StopIteration

    def close(self) -> None:
        """Stop here: what was generated stays, and a session it came from holds all of it."""
        if isinstance(self._steps, Generator):
            self._steps.close()


class Prefix:
    """The tokens a model has read for one conversation and their keys and values, to be reused by the next prompt."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.cache: KVCache | None = None

    def reuse(self, ids: Sequence[int]) -> int:
        """How many leading tokens of `ids` needn't be read again; the cache is cut back to them."""
        if self.cache is None:
            return 0
        most = min(len(self.ids), len(ids) - 1)  # the last token is always read: its output is what comes next
        same = next((i for i in range(most) if self.ids[i] != ids[i]), most)
        self.cache.truncate(same)
        del self.ids[same:]
        return same


@dataclass
class Row:
    """One row of a running batch: its random stream, its tool state and what it has produced."""

    index: int
    prompt_length: int
    limit: int
    full: Finish  # why it ends when it reaches the limit
    draws: random.Random
    completion: Completion = field(default_factory=Completion)
    queue: deque[int] = field(default_factory=deque)  # tool output still to be written
    expression: list[int] | None = None  # tokens since python_start
