"""The metrics of an optimizer step: sums and counts that stay on the device until the step is over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mccore.train.world import World


class StepMetrics:
    """Sums and counts by metric name, of one forward pass or of all those of a step.

    The names are declared beforehand and are the same on every rank, so that ranks add the same vector of numbers whatever
    each of them has counted.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(sorted(names))
        self.sums: dict[str, Tensor] = {}  # fp64 [2], sum and count; only names that something was added to

    def add(self, name: str, total: Tensor, count: Tensor) -> None:
        """Add a sum of `count` numbers, both scalars; no gradient is kept. Raises KeyError for a name that isn't declared."""
        if name not in self.names:
            raise KeyError(f"the metric {name!r} isn't among those that were declared: {', '.join(self.names)}")
        pair = torch.stack((total.detach().double(), count.detach().double()))
        self.sums[name] = self.sums[name] + pair if name in self.sums else pair

    def merge(self, other: StepMetrics) -> None:
        """Add what another forward pass has gathered."""
        for name, pair in other.sums.items():
            self.sums[name] = self.sums[name] + pair if name in self.sums else pair

    def fetch(
        self, world: World, summed: Sequence[Tensor], own: Sequence[Tensor] = ()
    ) -> tuple[dict[str, float], list[float]]:
        """The mean of every metric that a rank has counted, and the values of other scalars that travel along: `summed`, at
        least one, are added up over the ranks, `own` are this rank's. One all-reduce, one wait for the device."""
        device = summed[0].device
        nothing = torch.zeros(2, dtype=torch.float64, device=device)
        numbers = torch.cat(
            [
                torch.stack([each.detach().double() for each in summed]),
                *(self.sums.get(name, nothing) for name in self.names),
            ]
        )
        world.sum(numbers)
        values = torch.cat([numbers, *(each.double().reshape(1) for each in own)]).tolist()
        pairs = values[len(summed) : len(numbers)]
        means = {}
        for index, name in enumerate(self.names):
            total, count = pairs[2 * index], pairs[2 * index + 1]
            if count:
                means[name] = total / count
        return means, [*values[: len(summed)], *values[len(numbers) :]]
