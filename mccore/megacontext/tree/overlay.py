"""A history that begins with the rows of another: rows of a base that many share, and behind them rows of its own.

This is how sessions mount a saved context, and how a session branches: nothing is copied, and nothing is written to the base,
which may go on growing. Levels end at different rows, and in the middle of a block there are tokens without a gist: each
level is divided on its own, and a block that begins in the base and ends behind it gets its gist there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mccore.api import SharedTree, TreeBackend, TreeSpec
from mccore.errors import MccoreError


class OverlayError(MccoreError):
    """A base that has fewer rows than an overlay was made over."""


class _Part(NamedTuple):
    """Rows of every level up to `stop`, stored from their own row 0 on, which is row `start` of the overlay."""

    backend: TreeBackend
    start: tuple[int, ...]
    stop: tuple[int, ...]


def lengths_at(tokens: int, block_size: int, levels: int) -> tuple[int, ...]:
    """The rows that each of `levels` levels has when the history has so many tokens."""
    return tuple(tokens // block_size**level for level in range(levels))


def mount(trees: Callable[[TreeSpec], TreeBackend], spec: TreeSpec) -> SharedTree:
    """Open the tree in a directory read-only, to put others over it. Raises OverlayError for a backend that can't."""
    backend = trees(replace(spec, read_only=True, salvage=False))
    if not isinstance(backend, SharedTree):
        backend.close()
        raise OverlayError(
            f"a {type(backend).__name__} can't be opened by several at once",
            hint="choose the `disk` tree for what is shared",
        )
    return backend


class OverlayTree:
    """A `TreeBackend` that reads rows `[0, lengths[k])` of level k from `base` and keeps what is appended in `own`.

    Args:
        base: any backend, another overlay included; it stays open while this one is used, and is closed by whoever opened it.
        own: a backend of the same levels, empty or with what an earlier overlay over the same rows appended.
        lengths: how much of each level of the base counts; by default what it has now. To open the same overlay again,
            give the same lengths again: `lengths_at` names those of a point in a history.

    Raises OverlayError when the base has fewer rows. Closing it closes `own`.
    """

    def __init__(self, base: TreeBackend, own: TreeBackend, lengths: Sequence[int] | None = None) -> None:
        levels = _levels(base)
        self.base_lengths = tuple(base.length(level) for level in range(levels)) if lengths is None else tuple(lengths)
        if len(self.base_lengths) != levels:
            raise ValueError(f"{len(self.base_lengths)} lengths for a base of {levels} levels")
        for level, length in enumerate(self.base_lengths):
            if not 0 <= length <= base.length(level):
                raise OverlayError(
                    f"the history begins with {length} rows of level {level} of its base, which has {base.length(level)}",
                    hint="this isn't the base that it was made over, or it was cut by a repair",
                )
        self._own = own
        self._shared = _divide(base, self.base_lengths)

    def length(self, level: int) -> int:
        """Rows of a level, those of the base included. Raises IndexError for a level outside the spec."""
        own = self._own.length(level)
        return self.base_lengths[level] + own

    def append(self, level: int, rows: NDArray[Any]) -> None:
        """Add rows behind those of the base, as `own` does it."""
        self._own.append(level, rows)

    def read(self, level: int, start: int, stop: int) -> NDArray[Any]:
        """Rows `[start, stop)`: of one part a view where its backend gives views, of several a copy."""
        if not 0 <= start <= stop <= self.length(level):
            raise IndexError(f"rows [{start}, {stop}) of level {level}, which has {self.length(level)}")
        border = self.base_lengths[level]
        if start >= border:
            return self._own.read(level, start - border, stop - border)
        pieces = [
            part.backend.read(level, max(start, first) - first, min(stop, last) - first)
            for part in self._shared
            if max(start, first := part.start[level]) < min(stop, last := part.stop[level])
        ]
        if stop > border:
            pieces.append(self._own.read(level, 0, stop - border))
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else self._own.read(level, 0, 0)

    def flush(self) -> None:
        """Make what was appended survive, as `own` does it."""
        self._own.flush()

    def close(self) -> None:
        """Close `own`."""
        self._own.close()


def _divide(base: TreeBackend, lengths: tuple[int, ...]) -> list[_Part]:
    """The parts that hold the first `lengths` rows of a base: a branch of a branch reads each row from where it is."""
    if not isinstance(base, OverlayTree):
        return [_Part(base, (0,) * len(lengths), lengths)]
    whole = [*base._shared, _Part(base._own, base.base_lengths, lengths)]
    return [
        _Part(part.backend, part.start, tuple(min(stop, cut) for stop, cut in zip(part.stop, lengths, strict=True)))
        for part in whole
    ]


def _levels(backend: TreeBackend) -> int:
    """How many levels a backend has: the contract makes the one behind the last an error."""
    if isinstance(backend, OverlayTree):
        return len(backend.base_lengths)
    levels = 0
    while True:
        try:
            backend.length(levels)
        except IndexError:
            return levels
        levels += 1
