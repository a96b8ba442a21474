"""Metrics of a step: sums over passes and ranks, whatever each of them has counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mccore.train.step_metrics import StepMetrics
from mccore.train.world import World


class OtherRank(World):
    """A world in which one more rank brings these numbers; notes the lengths of what was added up."""

    def __init__(self, numbers: list[float]) -> None:
        super().__init__(size=2)
        object.__setattr__(self, "numbers", numbers)
        object.__setattr__(self, "lengths", [])

    def sum(self, tensor: Tensor) -> None:
        self.lengths.append(len(tensor))  # type: ignore[attr-defined]
        tensor += torch.tensor(self.numbers, dtype=tensor.dtype)  # type: ignore[attr-defined]


def scalars(*values: float) -> list[Tensor]:
    return [torch.tensor(value) for value in values]


def test_means_over_passes() -> None:
    step = StepMetrics(["b", "a", "never"])
    for totals in ((3.0, 10.0), (5.0, 20.0)):
        one = StepMetrics(["a", "b", "never"])
        one.add("a", *scalars(totals[0], 2.0))
        one.add("b", *scalars(totals[1], 1.0))
        one.add("b", *scalars(1.0, 1.0))
        step.merge(one)
    assert {name: pair.tolist() for name, pair in step.sums.items()} == {"a": [8, 4], "b": [32, 4]}
    means, others = step.fetch(World(), scalars(1.5), scalars(7.0, 8.0))
    assert means == {"a": 2.0, "b": 8.0}
    assert others == [1.5, 7.0, 8.0]


def test_a_rank_without_a_metric_takes_part_in_its_sum() -> None:
    step = StepMetrics(["a", "b", "none"])
    step.add("b", *scalars(6.0, 2.0))
    world = OtherRank([10.0, 3.0, 1.0, 4.0, 2.0, 0.0, 0.0])  # a scalar; then a, b and none, each as sum and count
    means, others = step.fetch(world, scalars(1.0), scalars(5.0))
    assert means == {"a": 3.0, "b": 2.5}
    assert others == [11.0, 5.0]
    empty = OtherRank([0.0] * 7)
    StepMetrics(["none", "b", "a"]).fetch(empty, scalars(1.0))
    assert world.lengths == empty.lengths == [7]  # type: ignore[attr-defined]


def test_what_nobody_declared_is_refused() -> None:
    with pytest.raises(KeyError, match="'c' isn't among those that were declared: a, b"):
        StepMetrics(["a", "b"]).add("c", *scalars(1.0, 1.0))


def test_no_gradient_is_kept_and_sums_are_exact() -> None:
    step = StepMetrics(["a"])
    total = torch.tensor(2.0**24, requires_grad=True)
    step.add("a", total, torch.tensor(1))
    step.add("a", torch.tensor(1.0), torch.tensor(1))  # lost in fp32
    assert not step.sums["a"].requires_grad
    assert step.sums["a"].tolist() == [2**24 + 1, 2]
