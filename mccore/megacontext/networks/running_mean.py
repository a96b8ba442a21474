"""A running mean and spread that is part of a model, saved with it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class RunningMean(nn.Module):
    """An exponential mean over steps, the same however a step is split into passes and ranks.

    What the passes of a step bring is gathered and taken in when the next step begins; all passes of a step read the same
    value, 0 before there is one. `all_reduce` sums over the ranks. Everything is in buffers, so a checkpoint keeps it.
    """

    value: Tensor
    weight: Tensor
    total: Tensor
    count: Tensor
    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("value", "weight", "total", "count"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("step", torch.full((), -1.0))  # the step that `total` and `count` are of

    @torch.no_grad()
    def forward(
        self, total: Tensor, count: Tensor, beta: float, step: int, all_reduce: Callable[[Tensor], None] | None = None
    ) -> Tensor:
        """Gather a pass's sum and count, scalars, at `step`; returns the mean over the steps before."""
        begins = torch.full((), step, device=self.step.device) != self.step
        there = begins & (self.count > 0)
        mean = self.total / self.count.clamp(min=1)
        self.value.copy_(torch.where(there, beta * self.value + (1 - beta) * mean, self.value))
        self.weight.copy_(torch.where(there, beta * self.weight + (1 - beta), self.weight))
        self.total.mul_(~begins)
        self.count.mul_(~begins)
        self.step.fill_(step)
        found = torch.stack((total.detach().float(), count.detach().float()))
        if all_reduce is not None:
            all_reduce(found)
        self.total.add_(found[0])
        self.count.add_(found[1])
        return self.value / self.weight.clamp(min=1e-12)
