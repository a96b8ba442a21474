"""A curve in bounded memory: extremes are kept, the last value is exact.

A trace holds at most `CAPACITY` buckets. When it is full, neighbours are joined, so a curve of a million points keeps its
spikes. Each bucket remembers the lowest, the highest, the last value and the mean of its points.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

CAPACITY = 512  # buckets; even

Axis = Literal["step", "tokens", "time"]


@dataclass(slots=True)
class Bucket:
    """Neighbouring points as one. Positions are those of the last point; `first_step` that of the first."""

    first_step: float
    step: float
    tokens: float
    time: float
    low: float
    high: float
    last: float
    total: float
    count: int

    def at(self, axis: Axis) -> float:
        """The position of the bucket on an axis."""
        return self.step if axis == "step" else self.tokens if axis == "tokens" else self.time

    @property
    def mean(self) -> float:
        return self.total / self.count

    def take(self, other: Bucket) -> None:
        """Add the points of the bucket behind this one."""
        self.step, self.tokens, self.time, self.last = other.step, other.tokens, other.time, other.last
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.total += other.total
        self.count += other.count


@dataclass(slots=True)
class Trace:
    """One metric of one stage. Values that aren't finite are counted, and have no place on the curve."""

    buckets: list[Bucket] = field(default_factory=list)
    width: int = 1  # points per bucket
    last: float = math.nan  # also when it isn't finite
    points: int = 0
    not_finite: int = 0

    def add(self, value: float, *, step: float, tokens: float, time: float) -> None:
        """Append a point. One that lies before the end replaces what is behind it: a resumed run repeats lost steps."""
        self.points += 1
        self.last = value
        if value - value != 0.0:  # not finite
            self.not_finite += 1
            if self.buckets and step <= self.buckets[-1].step:
                self._cut(step)
            return
        if self.buckets:
            end = self.buckets[-1]
            if step <= end.step:
                self._cut(step)
            elif (
                end.count < self.width
            ):  # the common case of a long run, by hand: a call for each part takes twice as long
                end.step, end.tokens, end.time, end.last = step, tokens, time, value
                if value < end.low:
                    end.low = value
                if value > end.high:
                    end.high = value
                end.total += value
                end.count += 1
                return
        self.buckets.append(Bucket(step, step, tokens, time, value, value, value, value, 1))
        if len(self.buckets) > CAPACITY:
            self._halve()

    def extremes(self, axis: Axis, start: float = -math.inf, stop: float = math.inf) -> Iterator[Bucket]:
        """The buckets that lie in `[start, stop]` on an axis, in order."""
        return (bucket for bucket in self.buckets if start <= bucket.at(axis) <= stop)

    def _cut(self, step: float) -> None:
        while self.buckets and self.buckets[-1].step >= step:
            bucket = self.buckets.pop()
            self.points -= bucket.count

    def _halve(self) -> None:
        joined = []
        for first, second in zip(self.buckets[0::2], self.buckets[1::2], strict=False):
            first.take(second)
            joined.append(first)
        if len(self.buckets) % 2:
            joined.append(self.buckets[-1])
        self.buckets = joined
        self.width *= 2


def smoothed(values: Iterable[float], weight: float = 0.9) -> list[float]:
    """An exponential moving mean, corrected for its start; `weight` is that of what came before."""
    found, mean, norm = [], 0.0, 0.0
    for value in values:
        mean = weight * mean + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        found.append(mean / norm)
    return found
