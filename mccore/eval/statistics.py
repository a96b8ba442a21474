"""Standard errors and chance levels of right/wrong answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mccore.units import share_interval


@dataclass(frozen=True)
class Accuracy:
    """The share of right answers of `n` questions, its standard error, and how far it is from guessing.

    `low` and `high` are the ends of its 95 % interval (Wilson). `stderr` is None where all answers came out alike: the formula
    gives 0 then, and nobody knows that. `chance` is the accuracy expected from guessing; `z` the distance from it in standard
    deviations of a guesser. All are None where they can't be known: without questions, or where guessing has no chance to
    speak of.
    """

    n: int
    accuracy: float | None
    stderr: float | None
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    z: float | None = None


def share(right: Sequence[bool], chances: Sequence[float] | None = None) -> Accuracy:
    """The accuracy over right/wrong answers; `chances` holds each question's probability of a lucky guess.

    The standard error is that of a proportion, `sqrt(p (1 - p) / n)`; `z` uses the exact variance of a guesser,
    `sum(c (1 - c)) / n**2`, so questions may differ in the number of choices.
    """
    n = len(right)
    if n == 0:
        return Accuracy(0, None, None)
    p = sum(right) / n
    stderr = math.sqrt(p * (1 - p) / n) if 0 < p < 1 else None
    low, high = share_interval(p, n)
    if chances is None:
        return Accuracy(n, p, stderr, low, high)
    if len(chances) != n:
        raise ValueError(f"{n} answers but {len(chances)} chances")
    chance = sum(chances) / n
    variance = sum(c * (1 - c) for c in chances) / n**2
    return Accuracy(n, p, stderr, low, high, chance, (p - chance) / math.sqrt(variance) if variance > 0 else None)


def mean_and_stderr(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean of a sample and its standard error, `s / sqrt(n)`; None where the sample is too small for either, or has no
    spread: values that are all alike, as few right or wrong answers easily are, don't show how far off their mean may be."""
    n = len(values)
    if n == 0:
        return None, None
    mean = sum(values) / n
    if n == 1 or all(value == values[0] for value in values):
        return mean, None
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)
