"""What the training loop trains: a callable from a batch to its losses. And the plain one, next-token prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mccore.data.batches.loader import Batch
from mccore.model.gpt import GPT
from mccore.train.step_metrics import StepMetrics
from mccore.train.timings import Timings


class Losses(NamedTuple):
    """What an objective makes of a batch. `loss`: the batch's share of the step's mean, so that the sum over all forward
    passes and ranks is the step's loss."""

    loss: Tensor
    metrics: StepMetrics


class Probe(NamedTuple):
    """A kind of forward pass, for measuring how much memory rows take."""

    run: Callable[[Batch], Losses]
    share: float  # of a step's rows that need a pass of this kind


class Objective(Protocol):
    """The seam between the loop and what is trained."""

    @property
    def metric_names(self) -> Sequence[str]:
        """Every metric that a pass may report, on all ranks alike."""
        ...

    @property
    def timings(self) -> Timings:
        """Where the time of a step goes, when someone measures it."""
        ...

    def __call__(self, batch: Batch) -> Losses: ...

    def describe(self, step: int, progress: float, rows: int) -> Mapping[str, float]:
        """Metrics of step number `step`, at `progress` in [0, 1) of the stage, that need no forward pass; steps have `rows`
        rows."""
        ...

    def probes(self) -> Sequence[Probe]:
        """The kinds of passes whose memory decides how many rows fit into one, the cheapest first and with a share of 1; none
        where the configured number is taken as it is."""
        ...


class NextTokenObjective:
    """Plain language modelling: the mean next-token loss over the step's trained targets."""

    metric_names = ("token_loss",)

    def __init__(self, gpt: GPT, *, compiled: bool = False) -> None:
        self.gpt = gpt
        self.timings = Timings()
        self._hidden: Callable[[Tensor], Tensor] = torch.compile(gpt.hidden, dynamic=False) if compiled else gpt.hidden

    def __call__(self, batch: Batch) -> Losses:
        nll = self.gpt.hidden_loss(self._hidden(batch.inputs), batch.targets, reduction="sum")
        metrics = StepMetrics(self.metric_names)
        metrics.add("token_loss", nll, (batch.targets >= 0).sum())
        return Losses(nll / batch.step_targets, metrics)

    def describe(self, step: int, progress: float, rows: int) -> dict[str, float]:
        """Nothing beside what the loop knows."""
        return {}

    def probes(self) -> tuple[Probe, ...]:
        """None: a plain pass takes the memory that the configuration was chosen for."""
        return ()
