"""Packing: full rows, no prediction twice, long documents together, honest losses."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mccore.data.batches.packing import Packed, pack_text, pack_whole, window_starts

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


def _pack(pack, lengths: list[int], width: int) -> Packed:
    return pack(lengths, width, np.random.default_rng(7))


@given(LENGTHS, st.integers(2, 24))
def test_text_rows_are_full_and_predict_nothing_twice(lengths: list[int], width: int) -> None:
    packed = _pack(pack_text, lengths, width)
    predicted: set[tuple[int, int]] = set()
    covered: set[tuple[int, int]] = set()
    for row in packed.rows:
        assert sum(piece.length for piece in row) == width
        for document, start, stop in row:
            assert 0 <= start < stop <= lengths[document]
            for at in range(start, stop):
                covered.add((document, at))
                if at > start:
                    assert (document, at) not in predicted
                    predicted.add((document, at))
    assert packed.lost == sum(lengths) - len(covered)


@given(LENGTHS, st.integers(2, 24))
def test_long_documents_lose_nothing_but_an_unfilled_last_row(lengths: list[int], width: int) -> None:
    packed = _pack(pack_text, lengths, width)
    covered = {(p.document, at) for row in packed.rows for p in row for at in range(p.start, p.stop)}
    missing = [
        (document, at)
        for document, length in enumerate(lengths)
        if length > width
        for at in range(length)
        if (document, at) not in covered
    ]
    assert len(missing) < width
    assert len({document for document, _ in missing}) <= 1


@given(LENGTHS, st.integers(2, 24))
def test_a_documents_rows_are_consecutive_and_begin_with_its_continuation(lengths: list[int], width: int) -> None:
    packed = pack_text(lengths, width, np.random.default_rng(7), together=True)
    for document, length in enumerate(lengths):
        at = [(number, piece) for number, row in enumerate(packed.rows) for piece in row if piece.document == document]
        parts = [(number, piece) for number, piece in at if piece.length > 1 or length == 1]
        for (before, first), (after, second) in pairwise(parts):
            assert after == before + 1
            assert second.start == first.stop - 1
            assert packed.rows[after][0] == second
    for row in packed.rows:  # everything else begins at a document's BOS
        assert all(piece.start == 0 for piece in row[1:])


def test_rows_are_mixed_unless_documents_are_to_stay_together() -> None:
    lengths = [400] * 10
    mixed, ordered = (pack_text(lengths, 11, np.random.default_rng(7), together=flag) for flag in (False, True))
    assert sorted(mixed.rows) == sorted(ordered.rows)

    def changes(rows: list) -> int:
        return sum(left[-1].document != right[0].document for left, right in pairwise(rows))

    assert changes(mixed.rows) > 0.7 * len(mixed.rows)
    assert changes(ordered.rows) < len(lengths)


def test_a_gap_takes_the_largest_document_that_fits() -> None:
    packed = _pack(pack_text, [6, 4, 3, 2], 10)
    row = next(row for row in packed.rows if any(piece.document == 0 for piece in row))
    assert {piece.document for piece in row} == {0, 1}


def test_the_shortest_document_is_cropped_when_none_fits() -> None:
    packed = _pack(pack_text, [7, 7, 5], 10)
    assert len(packed.rows) == 1
    cropped = packed.rows[0][-1]
    assert cropped.document == 2 or packed.rows[0][0].document == 2
    assert packed.lost == 19 - 10


def test_packing_is_a_function_of_its_arguments() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 200).tolist()
    again = pack_text(lengths, 16, np.random.default_rng(3))
    assert pack_text(lengths, 16, np.random.default_rng(3)) == again
    assert pack_text(lengths, 16, np.random.default_rng(4)).rows != again.rows


def test_web_like_documents_lose_little() -> None:
    """Documents of about 500 tokens, a tenth of them long, in rows of 2,049."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(6.0, 1.0, 1500).astype(int), 2, None).tolist()
    packed = pack_text(lengths, 2049, np.random.default_rng(1))
    assert packed.lost / sum(lengths) < 0.02


@given(LENGTHS, st.integers(2, 24))
def test_whole_sequences_are_never_cropped(lengths: list[int], width: int) -> None:
    packed = _pack(pack_whole, lengths, width)
    seen = sorted(piece.document for row in packed.rows for piece in row)
    assert seen == list(range(len(lengths)))
    for row in packed.rows:
        assert row
        assert sum(piece.length for piece in row) <= width
        assert all(piece == (piece.document, 0, min(lengths[piece.document], width)) for piece in row)
    assert packed.lost == sum(max(0, length - width) for length in lengths)


@given(LENGTHS, st.integers(1, 500))
def test_windows_cover_the_order_in_pieces(lengths: list[int], tokens: int) -> None:
    order = np.random.default_rng(0).permutation(len(lengths))
    starts = window_starts(np.array(lengths), order, tokens)
    assert starts[0] == 0
    assert (np.diff(starts) > 0).all()
    assert starts[-1] < len(order)


@pytest.mark.parametrize("pack", [pack_text, pack_whole])
def test_nothing_gives_nothing(pack) -> None:
    assert _pack(pack, [], 8) == Packed([], 0)
