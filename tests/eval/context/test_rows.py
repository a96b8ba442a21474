"""Which ends of documents are predicted."""

from __future__ import annotations

import numpy as np
import pytest

from mccore.errors import DataError
from mccore.eval.context.rows import HistoryRows


def test_ends_are_evenly_spaced_and_rows_are_what_stands_before_them() -> None:
    documents = [np.arange(100), np.arange(25), np.arange(1000, 1031)]
    rows, numbers = HistoryRows(history=20, horizon=10, every=30).of(documents)
    assert numbers.tolist() == [0, 0, 0, 2]
    assert rows[:, -1].tolist() == [29, 59, 89, 1029]
    assert rows.shape == (4, 30)
    assert all((np.diff(row) == 1).all() for row in rows)
    moved, _ = HistoryRows(history=20, horizon=10, every=30, offset=7).of(documents)
    assert moved[:, -1].tolist() == [36, 66, 96]


def test_a_document_gives_so_many_ends_at_most_over_its_whole_length() -> None:
    rows, _ = HistoryRows(history=5, horizon=5, every=10, per_document=3).of([np.arange(1000)])
    assert rows[:, -1].tolist() == [9, 499, 999]


def test_chunks_follow_each_other_a_horizon_apart() -> None:
    rows, _ = HistoryRows(history=20, horizon=10, every=50, chunks=3).of([np.arange(100)])
    assert rows[:, -1].tolist() == [29, 39, 49, 79, 89, 99]


def test_documents_that_are_too_short_are_told() -> None:
    with pytest.raises(DataError, match="no document has the 40 tokens") as error:
        HistoryRows(history=30, horizon=10).of([np.arange(39)])
    assert "--history" in str(error.value.hint)
