"""Training rows: the deterministic order of everything a training stage reads, window by packed window.

The order depends on (seed, epoch) alone. A window is packed by itself, so a position in the data is three numbers and going
on from it costs one window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mccore.data.batches.packing import Packed, Row, pack_text, pack_whole, window_starts
from mccore.data.batches.store import TokenSplit
from mccore.errors import DataError

IGNORED = -1  # a target that isn't trained on
WINDOW_ROWS = 2**14  # packed and mixed together, in a third of a second; see docs/LOG.md for what smaller ones cost


@dataclass(frozen=True)
class Position:
    """Where in the data training stands: `row` of `window` of `epoch` comes next. All there is to save."""

    epoch: int = 0
    window: int = 0
    row: int = 0

    def to_json(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Position:
        """Read `to_json`. Raises DataError for anything else."""
        try:
            position = cls(**value)
            if not all(isinstance(number, int) and number >= 0 for number in asdict(position).values()):
                raise TypeError
        except TypeError:
            raise DataError(f"{value!r} is no position in training data") from None
        return position


class Rows:
    """The rows of a token split: packed window by window, in an order given by (seed, epoch).

    Documents are packed into full rows. With `chat` whole conversations are, padded with ignored targets, and it says which
    of their tokens are trained on; those longer than a row keep their first T + 1 tokens, and those left without a trained
    target are passed over.
    """

    def __init__(
        self,
        split: TokenSplit,
        length: int,
        *,
        seed: int = 0,
        chat: Literal["all", "assistant"] | None = None,
        shuffle: bool = True,
        window_rows: int = WINDOW_ROWS,
    ) -> None:
        if chat == "assistant" and split.mask is None:
            raise DataError(f"the {split.name} split has no mask of assistant tokens", hint="train on all tokens")
        self.split = split
        self.length = length  # T
        self.width = length + 1
        self.seed = seed
        self.chat = chat is not None
        self.shuffle = shuffle
        self.window_tokens = window_rows * self.width
        self._mask = split.mask if chat == "assistant" else None
        self._lengths = split.lengths
        self._documents = np.arange(split.documents)
        self.truncated = 0
        self.unusable = 0
        if self.chat:
            self._lengths = np.minimum(self._lengths, self.width)
            self.truncated = int((split.lengths > self.width).sum())
            self.targets = self._count_targets()
            self._documents = np.flatnonzero(self.targets)
            self.unusable = split.documents - len(self._documents)
        self._order_of: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        self._packed_of: tuple[int, int, Packed] | None = None
        if not self.windows(0) or not any(self.pack(0, window).rows for window in range(self.windows(0))):
            raise DataError(
                f"the {split.name} data, {int(split.lengths.sum())} tokens, don't fill one row of {self.width}",
                hint="give more data or a smaller model.max_seq_len",
            )

    def _count_targets(self) -> NDArray[np.int64]:
        """Trained targets of each conversation: int64 [documents]. Its first token is never one: nothing comes before it."""
        if self._mask is None:
            return np.maximum(self._lengths - 1, 0)
        ends = np.concatenate(([0], np.cumsum(self._mask, dtype=np.int64)))
        starts = self.split.offsets[:-1]
        first = np.minimum(starts + 1, starts + self._lengths)
        return np.asarray(ends[starts + self._lengths] - ends[first])

    def windows(self, epoch: int) -> int:
        """Windows of an epoch."""
        return len(self._order(epoch)[1])

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if self._order_of is None or self._order_of[0] != epoch:
            order = self._documents
            if self.shuffle:
                order = np.random.default_rng((self.seed, epoch)).permutation(order)
            self._order_of = (epoch, order, window_starts(self._lengths, order, self.window_tokens))
        return self._order_of[1:]

    def pack(self, epoch: int, window: int) -> Packed:
        """The rows of one window; pieces name documents of the split."""
        if self._packed_of is None or self._packed_of[:2] != (epoch, window):
            order, starts = self._order(epoch)
            stop = starts[window + 1] if window + 1 < len(starts) else len(order)
            documents = order[starts[window] : stop].tolist()
            rng = np.random.default_rng((self.seed, epoch, window))
            pack = pack_whole if self.chat else pack_text
            packed = pack([int(self._lengths[document]) for document in documents], self.width, rng)
            packed.rows = [[piece._replace(document=documents[piece.document]) for piece in row] for row in packed.rows]
            self._packed_of = (epoch, window, packed)
        return self._packed_of[2]

    def count(self, epoch: int = 0) -> int:
        """Rows of an epoch. Packs all of it."""
        return sum(len(self.pack(epoch, window).rows) for window in range(self.windows(epoch)))

    def walk(self, position: Position) -> Iterator[tuple[Row, Position]]:
        """All rows from `position` on, epoch after epoch, each with the position behind it."""
        epoch, window, row = position.epoch, position.window, position.row
        while True:
            if window >= self.windows(epoch):
                epoch, window, row = epoch + 1, 0, 0
                continue
            rows = self.pack(epoch, window).rows
            for index in range(row, len(rows)):
                yield rows[index], Position(epoch, window, index + 1)
            window, row = window + 1, 0

    def passes(self, position: Position) -> float:
        """Passes over the data at `position`, with the fraction in windows."""
        windows = self.windows(position.epoch)
        rows = 0
        if position.window < windows:
            rows = len(self.pack(position.epoch, position.window).rows)
        return position.epoch + min(1.0, (position.window + (position.row / rows if rows else 0)) / windows)

    def row_targets(self, row: Row) -> int:
        """Trained targets of a row."""
        if not self.chat:
            return self.length
        return int(sum(self.targets[piece.document] for piece in row))

    def fill(self, row: Row, inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> None:
        """Write a row's tokens to `inputs` [T] and `targets` [T]."""
        tokens = np.empty(self.width, dtype=np.int64)
        labels = np.full(self.width, IGNORED, dtype=np.int64)
        at = 0
        for document, start, stop in row:
            first = self.split.offsets[document] + start
            end = at + stop - start
            tokens[at:end] = self.split.tokens[first : first + stop - start]
            if not self.chat:
                labels[at:end] = tokens[at:end]
            else:  # a conversation's first token follows another conversation, or nothing
                labels[at + 1 : end] = tokens[at + 1 : end]
                if self._mask is not None:
                    trained = self._mask[first + 1 : first + stop - start] != 0
                    labels[at + 1 : end] = np.where(trained, tokens[at + 1 : end], IGNORED)
            at = end
        tokens[at:] = tokens[0] if at else 0  # padding: any id that exists
        inputs[:] = tokens[:-1]
        targets[:] = labels[1:]

    def report(self, epoch: int = 0) -> dict[str, Any]:
        """What packing makes of an epoch, in tokens: rows, their use, what is lost, how much is in long documents.

        `utilization`: share of row entries that hold data. `lost`: share of tokens in no row (cropped, truncated, left
        over). `long`: share in documents longer than a row. Packs the whole epoch.
        """
        packed = [self.pack(epoch, window) for window in range(self.windows(epoch))]
        rows = sum(len(part.rows) for part in packed)
        held = sum(piece.length for part in packed for row in part.rows for piece in row)
        lengths = self.split.lengths
        total = int(lengths.sum())
        kept = int(self._lengths[self._documents].sum())
        result: dict[str, Any] = {
            "rows": rows,
            "tokens": total,
            "documents": self.split.documents,
            "utilization": held / (rows * self.width),
            "lost": (total - kept + sum(part.lost for part in packed)) / total,
            "long": float(lengths[lengths > self.width].sum()) / total,
        }
        if self.chat:
            trained = int(self.targets.sum())
            result |= {"truncated": self.truncated, "unusable": self.unusable, "trained_tokens": trained}
        return result
