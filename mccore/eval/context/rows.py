"""Which ends of long documents are predicted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mccore.errors import DataError


@dataclass(frozen=True)
class HistoryRows:
    """Ends of histories in documents, evenly spaced. With `chunks` every end stands for so many, a horizon apart: as many
    refocuses, each judged by the tokens behind it."""

    history: int  # tokens of a history
    horizon: int  # tokens that are predicted behind it
    every: int = 1300  # tokens between two ends in a document
    offset: int = 0  # tokens by which all ends are moved: other rows of the same documents
    per_document: int = 24  # ends of a document, at most
    chunks: int = 1

    def of(self, documents: Iterable[NDArray[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Token ids [R, history + horizon] of these documents' ids, and the number of the document of each row [R]. Raises
        DataError where none is long enough."""
        length = self.history + self.horizon
        rows: list[NDArray[np.int64]] = []
        numbers: list[int] = []
        for number, ids in enumerate(documents):
            ends = np.arange(length + self.offset, len(ids) + 1 - (self.chunks - 1) * self.horizon, self.every)
            if len(ends) > self.per_document:
                ends = ends[np.linspace(0, len(ends) - 1, self.per_document).astype(int)]
            ends = (ends[:, None] + np.arange(self.chunks) * self.horizon).ravel()
            rows += [np.asarray(ids[end - length : end], dtype=np.int64) for end in ends]
            numbers += [number] * len(ends)
        if not rows:
            raise DataError(
                f"no document has the {length:,} tokens of a history and what is predicted behind it",
                hint="lower --history, or train on a corpus with longer documents",
            )
        return np.stack(rows), np.array(numbers)
