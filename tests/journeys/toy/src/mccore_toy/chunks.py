"""A tree that keeps what it was given, chunk by chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mccore.api import Extension, TreeBackend, TreeSpec
from mccore.hookspecs import hookimpl


class Chunks:
    """Joins its chunks when somebody reads."""

    def __init__(self, options: object, spec: TreeSpec) -> None:
        self._spec = spec
        self._chunks = [[np.empty((0, *level.shape), dtype=level.dtype)] for level in spec.levels]

    def length(self, level: int) -> int:
        return sum(map(len, self._level(level)))

    def append(self, level: int, rows: NDArray[Any]) -> None:
        like = self._level(level)[0]
        if rows.ndim != like.ndim or rows.shape[1:] != like.shape[1:] or rows.dtype != like.dtype:
            raise ValueError(f"{rows.dtype} {rows.shape} doesn't fit {like.dtype} {like.shape[1:]}")
        self._level(level).append(rows.copy())

    def read(self, level: int, start: int, stop: int) -> NDArray[Any]:
        if not 0 <= start <= stop <= self.length(level):
            raise IndexError(f"no rows [{start}, {stop})")
        self._chunks[level] = [np.concatenate(self._level(level))]
        return self._chunks[level][0][start:stop].copy()

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _level(self, level: int) -> list[NDArray[Any]]:
        if not 0 <= level < len(self._chunks):
            raise IndexError(f"no level {level}")
        return self._chunks[level]


@hookimpl
def mccore_tree_backend() -> Extension[TreeBackend]:
    return Extension(build=Chunks, summary="chunks in memory")
