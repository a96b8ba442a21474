"""What one level stores: the type of its rows, and the checks that both backends make."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mccore.api import LevelSpec


class RowType:
    """Shape and dtype of a level's rows. Raises ValueError for a dtype whose rows aren't plain bytes."""

    def __init__(self, level: int, spec: LevelSpec) -> None:
        self.level = level
        self.shape = spec.shape
        # Stored little-endian, which is the native order of every machine that trains.
        self.dtype = np.dtype(spec.dtype).newbyteorder("<")
        self.row_bytes = int(np.prod(spec.shape, dtype=np.int64)) * self.dtype.itemsize
        if self.dtype.hasobject or self.row_bytes == 0:
            raise ValueError(f"level {level}: rows {list(spec.shape)} of {spec.dtype} can't be stored")

    def check(self, rows: NDArray[Any]) -> None:
        """Raise ValueError unless `rows` is an array `[m, *shape]` of exactly this dtype."""
        if (
            not isinstance(rows, np.ndarray)
            or rows.dtype != self.dtype
            or rows.ndim == 0
            or rows.shape[1:] != self.shape
        ):
            given = f"{rows.dtype} {list(rows.shape)}" if isinstance(rows, np.ndarray) else type(rows).__name__
            raise ValueError(f"level {self.level} takes {self.dtype} {['m', *self.shape]}, not {given}")

    def empty(self, rows: int) -> NDArray[Any]:
        """An array for so many rows, its content undefined."""
        return np.empty((rows, *self.shape), dtype=self.dtype)
