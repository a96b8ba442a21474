"""Packing: which tokens of which document go into which training row.

Pure functions over lengths. A row holds `width = T + 1` tokens: T inputs, each with the token after it as target. Pieces
are cut so that a document's consecutive rows share one token (the last target of one row is the first input of the next):
every next-token prediction inside a document is trained at most once, and none is lost at a row boundary.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Slice(NamedTuple):
    """Tokens `[start, stop)` of a document, counted from its own first token."""

    document: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


Row = list[Slice]


@dataclass
class Packed:
    """Rows in training order, and what became of the tokens that aren't in them."""

    rows: list[Row] = field(default_factory=list)
    lost: int = 0  # tokens cropped, or left over at the end


def pack_text(lengths: Sequence[int], width: int, rng: np.random.Generator, *, together: bool = False) -> Packed:
    """Fill rows of exactly `width` tokens from documents 0..n-1 of these lengths, each beginning with a BOS.

    A document longer than a row runs through consecutive rows, in order. Whatever room its last row leaves, and every
    other row, is filled by best fit: a short document drawn by `rng`, then always the largest that fits. A gap that no
    short document fits is filled by the head of the next long document, which goes on in the rows that follow; when none
    is left, by cropping the shortest document. Only the last row, when it can't be filled, is lost.

    Rows come out in an order shuffled by `rng`. With `together` the rows of one document stay next to each other; batches
    then hold few documents, which cost a small model 0.2 bits per byte (see docs/LOG.md).
    """
    packed = Packed()
    long = [i for i, length in enumerate(lengths) if length > width]
    long.reverse()  # popped from the end: documents in the order given
    short = sorted((length, i) for i, length in enumerate(lengths) if 2 <= length <= width)
    packed.lost += sum(length for length in lengths if length < 2)  # nothing to predict
    groups: list[list[Row]] = []  # runs of rows that share a document
    while long or short:
        group: list[Row] = []
        carried: Slice | None = None  # the rest of a long document, which opens the next row
        while True:
            row, carried = _fill_row(lengths, width, long, short, carried, rng)
            if sum(piece.length for piece in row) == width:
                group.append(row)
            else:
                packed.lost += sum(piece.length - (piece.start > 0) for piece in row)
            if carried is None:
                break
        groups.append(group)
    if not together:
        groups = [[row] for group in groups for row in group]
    for index in rng.permutation(len(groups)):
        packed.rows.extend(groups[index])
    packed.lost += _cropped(lengths, packed.rows, short_of=width)
    return packed


def _fill_row(
    lengths: Sequence[int],
    width: int,
    long: list[int],
    short: list[tuple[int, int]],
    carried: Slice | None,
    rng: np.random.Generator,
) -> tuple[Row, Slice | None]:
    """One row, and the rest of the long document it ends in (None when it ends with a whole or cropped one)."""
    row: Row = []
    room = width
    if carried is not None:
        piece = Slice(carried.document, carried.start, min(carried.stop, carried.start + width))
        row.append(piece)
        room -= piece.length
        if piece.stop < carried.stop:
            return row, Slice(piece.document, piece.stop - 1, carried.stop)
    while room:
        at = bisect_right(short, (room, len(lengths)))
        if at:
            # Largest first in every row would sort the rows of a window by document size, and batches with them.
            length, document = short.pop(at - 1 if row else int(rng.integers(at)))
            row.append(Slice(document, 0, length))
            room -= length
        elif long:
            document = long[-1]
            row.append(Slice(document, 0, room))
            if room == 1:  # its BOS ends the row as a target; the document itself begins later
                return row, None
            long.pop()
            # The next row starts at the last token placed, whose successor is its first target.
            return row, Slice(document, room - 1, lengths[document])
        elif short:
            _, document = short.pop(0)
            row.append(Slice(document, 0, room))
            room = 0
        else:
            break
    return row, None


def _cropped(lengths: Sequence[int], rows: list[Row], *, short_of: int) -> int:
    """Tokens of short documents that were placed in part."""
    return sum(
        lengths[piece.document] - piece.length for row in rows for piece in row if lengths[piece.document] <= short_of
    )


def pack_whole(lengths: Sequence[int], width: int, rng: np.random.Generator) -> Packed:
    """Put whole sequences of at most `width` tokens into rows by best fit, never cropping; rows may end with free room.

    For conversations. Longer lengths count as `width`: the caller keeps their first `width` tokens.
    """
    packed = Packed()
    pool: list[tuple[int, int]] = []
    for index, length in enumerate(lengths):
        if length > 0:
            insort(pool, (min(length, width), index))
        packed.lost += max(0, length - width)
    rows: list[Row] = []
    while pool:
        row: Row = []
        room = width
        while at := bisect_right(pool, (room, len(lengths))):
            length, document = pool.pop(at - 1)
            row.append(Slice(document, 0, length))
            room -= length
        rows.append(row)
    packed.rows = [rows[index] for index in rng.permutation(len(rows))]
    return packed


def window_starts(lengths: NDArray[np.int64], order: NDArray[np.int64], tokens: int) -> NDArray[np.int64]:
    """Where each window begins in `order`: [windows], the first 0. Windows hold nearly equal numbers of tokens."""
    if len(order) == 0:
        return np.zeros(0, dtype=np.int64)
    ends = np.cumsum(lengths[order])
    count = max(1, round(int(ends[-1]) / tokens))
    marks = np.arange(1, count) * (int(ends[-1]) / count)
    starts = np.searchsorted(ends, marks, side="left") + 1
    return np.unique(np.concatenate(([0], starts[starts < len(order)]))).astype(np.int64)
