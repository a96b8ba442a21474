"""What the training loop trains: a callable from a batch to its losses, and the plain one, next-token prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from mccore.data.batches.loader import Batch
from mccore.model.gpt import GPT
from mccore.model.ops.cross_entropy import Losses


class Objective(Protocol):
    """The seam between the loop and what is trained."""

    def __call__(self, batch: Batch) -> Losses: ...


def next_token_objective(gpt: GPT, *, compiled: bool = False) -> Objective:
    """Plain language modelling: the mean next-token loss over the step's trained targets."""
    hidden: Callable[[Tensor], Tensor] = torch.compile(gpt.hidden, dynamic=False) if compiled else gpt.hidden

    def objective(batch: Batch) -> Losses:
        nll = gpt.hidden_loss(hidden(batch.inputs), batch.targets, reduction="sum")
        loss = nll / batch.step_targets
        return Losses(loss, {"token_loss": (nll.detach(), (batch.targets >= 0).sum())})

    return objective
