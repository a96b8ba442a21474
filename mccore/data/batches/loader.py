"""The loader: an endless, deterministic stream of training rows, cut into optimizer steps and dealt to ranks.

The order of rows depends on (seed, epoch) alone, never on the number of ranks or the size of a forward pass: step n trains
on the same rows everywhere. Every rank walks the whole order, which costs microseconds a row, and reads only the tokens of
its own rows.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mccore.data.batches.packing import Row
from mccore.data.batches.rows import Position, Rows
from mccore.errors import DataError


@dataclass
class Batch:
    """What one forward pass reads. `step_targets` counts the trained targets of the whole optimizer step, over all ranks
    and forward passes: a sum over a batch divided by it is that batch's share of the step's mean.

    inputs, targets: int64 [B, T]; targets are IGNORED where nothing is trained. `first_row` is the number of the batch's
    first row within the step, over all ranks. `weights`, fp32 [B, T], are those of the targets where they differ;
    `step_targets` is then their sum.
    """

    inputs: Tensor
    targets: Tensor
    step_targets: float
    first_row: int = 0
    step: int = 0
    progress: float = 0.0  # share of the stage done when the step begins
    weights: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`; from pinned memory the copy runs in the background."""
        if device == self.inputs.device:
            return self
        return replace(
            self,
            inputs=self.inputs.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            weights=None if self.weights is None else self.weights.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class StepData:
    """One rank's part of an optimizer step, and the position after it."""

    batches: list[Batch]
    position: Position
    epoch: float  # passes over the data, with fraction
    waited: float = 0.0  # seconds the training thread waited for it
    tokens: int | None = None  # of the step, over all ranks, where steps differ


class StepShape(NamedTuple):
    """How an optimizer step is dealt out: `rows` over all ranks, in forward passes of up to `micro_rows`."""

    rows: int
    micro_rows: int
    rank: int = 0
    world_size: int = 1


class Loader:
    """Deals `rows` into optimizer steps, of which this rank gets a consecutive part.

    Iterating starts a background thread that keeps two steps ready; `close` ends it.
    """

    def __init__(self, rows: Rows, shape: StepShape, *, position: Position | None = None, pin: bool = False) -> None:
        if shape.rows % shape.world_size:
            raise DataError(f"{shape.rows} rows per step don't divide among {shape.world_size} ranks")
        self.rows = rows
        self.shape = shape
        self.start = position or Position()
        self._pin = pin
        self._ready: queue.Queue[StepData | BaseException] = queue.Queue(maxsize=2)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def next(self) -> StepData:
        """The next step's part of this rank. What the background thread met is raised here."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._produce, name="loader", daemon=True)
            self._thread.start()
        started = time.perf_counter()
        item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        return replace(item, waited=time.perf_counter() - started)

    def close(self) -> None:
        """End the background thread."""
        self._closing.set()
        while self._thread is not None and self._thread.is_alive():
            try:
                self._ready.get(timeout=0.05)
            except queue.Empty:
                continue

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _produce(self) -> None:
        try:
            for step in self.steps():
                self._ready.put(step)
                if self._closing.is_set():
                    return
        except BaseException as error:  # handed to the training thread, which raises it
            self._ready.put(error)

    def steps(self) -> Iterator[StepData]:
        """The steps from the start on, made here and now."""
        walk = self.rows.walk(self.start)
        shape = self.shape
        own = shape.rows // shape.world_size
        start = shape.rank * own
        while True:
            drawn = [next(walk) for _ in range(shape.rows)]
            count = sum(self.rows.row_targets(row) for row, _ in drawn)
            batches = [
                self._batch([row for row, _ in drawn[first : min(first + shape.micro_rows, start + own)]], first, count)
                for first in range(start, start + own, shape.micro_rows)
            ]
            position = drawn[-1][1]
            yield StepData(batches, position, self.rows.passes(position))

    def _batch(self, rows: list[Row], first: int, count: int) -> Batch:
        inputs, targets = stack_rows(self.rows, rows, pin=self._pin)
        return Batch(inputs, targets, count, first)


def stack_rows(rows: Rows, chosen: Sequence[Row], *, pin: bool = False) -> tuple[Tensor, Tensor]:
    """Inputs and targets, int64 [B, T], of these rows."""
    inputs = torch.empty(len(chosen), rows.length, dtype=torch.int64, pin_memory=pin)
    targets = torch.empty(len(chosen), rows.length, dtype=torch.int64, pin_memory=pin)
    for index, row in enumerate(chosen):
        rows.fill(row, inputs[index].numpy(), targets[index].numpy())
    return inputs, targets


def validation_batches(
    rows: Rows, tokens: int, batch_rows: int, *, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """The first `tokens` tokens of the rows (all of one epoch if there are fewer), always the same ones, as (inputs,
    targets) batches; rank r takes every `world_size`-th row from the r-th on.
    """
    wanted = max(1, tokens // rows.length)
    chosen: list[Row] = []
    for number, (row, position) in enumerate(rows.walk(Position())):
        if position.epoch > 0 or number >= wanted:
            break
        if number % world_size == rank:
            chosen.append(row)
        if len(chosen) == batch_rows:
            yield stack_rows(rows, chosen)
            chosen = []
    if chosen:
        yield stack_rows(rows, chosen)


def parts_of(batches: Iterable[tuple[Tensor, Tensor]], length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs [B, T] as pairs of rows of `length`, what is left over of a row left out."""
    for inputs, targets in batches:
        whole = inputs.size(1) // length * length
        yield inputs[:, :whole].reshape(-1, length), targets[:, :whole].reshape(-1, length)
