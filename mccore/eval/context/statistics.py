"""Numbers that compare contexts row by row: paired means, ratios of differences, and how well scores rank utilities.

Rows of one document aren't independent: standard errors are those of a mean over clusters, which are documents where they are
known and rows otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

CERTAIN = 3.0  # standard errors that a denominator has to differ from 0 by


@dataclass(frozen=True)
class MeanEstimate:
    """A mean and its standard error over `n` independent units; None where there are too few."""

    mean: float | None
    stderr: float | None
    n: int

    @property
    def z(self) -> float | None:
        """The mean in standard errors."""
        if self.mean is None or self.stderr is None:
            return None
        return self.mean / self.stderr if self.stderr else math.copysign(math.inf, self.mean) if self.mean else 0.0


def estimate(values: Values, clusters: NDArray[np.int64] | None = None) -> MeanEstimate:
    """The mean over rows and its standard error over clusters [R]; NaN rows are left out.

    With G clusters and e their sums of deviations from the mean: `sqrt(G / (G - 1) * sum(e^2)) / R`, which is `s / sqrt(R)`
    where every row is a cluster of its own.
    """
    there = ~np.isnan(values)
    values = values[there]
    groups = np.arange(len(values)) if clusters is None else np.unique(clusters[there], return_inverse=True)[1]
    count = int(groups.max()) + 1 if len(values) else 0
    if not count:
        return MeanEstimate(None, None, 0)
    mean = float(values.mean())
    if count == 1:
        return MeanEstimate(mean, None, 1)
    sums = np.bincount(groups, weights=values - mean, minlength=count)
    return MeanEstimate(mean, float(math.sqrt(count / (count - 1) * float(np.square(sums).sum())) / len(values)), count)


def ratio(numerator: Values, denominator: Values, clusters: NDArray[np.int64] | None = None) -> MeanEstimate | None:
    """`mean(numerator) / mean(denominator)` over rows [R], with the delta method's standard error; None unless the
    denominator's mean is more than `CERTAIN` standard errors above 0."""
    below = estimate(denominator, clusters)
    if below.mean is None or below.stderr is None or below.mean <= CERTAIN * below.stderr or below.mean <= 0:
        return None
    quotient = float(numerator.mean()) / below.mean
    residual = estimate((numerator - quotient * denominator) / below.mean, clusters)
    return MeanEstimate(quotient, residual.stderr, residual.n)


def ranks(values: Values) -> Values:
    """Ranks from 0 along the last axis of [R, J]; those alike share the mean of theirs."""
    less = (values[..., None, :] < values[..., :, None]).sum(axis=-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(axis=-1)
    out: Values = less + (equal - 1) / 2
    return out


def spearman(scores: Values, utilities: Values) -> Values:
    """Rank correlation of each row of [R, J]: [R], NaN where either side is constant."""
    found = np.full(len(scores), np.nan)
    for row, (score, utility) in enumerate(zip(scores, utilities, strict=True)):
        x, y = ranks(score), ranks(utility)
        x, y = x - x.mean(), y - y.mean()
        scale = math.sqrt(float((x * x).sum() * (y * y).sum()))
        if scale > 0:
            found[row] = float((x * y).sum()) / scale
    return found


def recall_at(scores: Values, utilities: Values, k: int) -> Values:
    """Share of the k blocks of highest utility that are among the k of highest score, by row of [R, J]: [R]. Of those alike
    the newer, last one counts as higher, on both sides."""

    def best(values: Values) -> NDArray[np.bool_]:
        order = np.argsort(values, axis=1, kind="stable")[:, -k:]
        chosen = np.zeros(values.shape, dtype=bool)
        np.put_along_axis(chosen, order, True, axis=1)
        return chosen

    shared: Values = (best(scores) & best(utilities)).sum(axis=1) / k
    return shared


@dataclass(frozen=True)
class Comparison:
    """Losses of every condition on the same tokens, and what follows from them. Standard errors go by document where those
    are known, else by row."""

    losses: Mapping[str, Values]  # condition -> loss of each scored token [R, H], nats
    documents: NDArray[np.int64] | None  # of each row [R]
    scores: Mapping[str, Values]  # who chooses -> scores of the candidates [R, J]
    utilities: Values | None  # of the candidates [R, J]: what showing each alone as tokens saves, nats per scored token

    @cached_property
    def nll(self) -> Mapping[str, Values]:
        """Condition -> mean loss of each row [R], nats per token."""
        return {name: values.mean(axis=1) for name, values in self.losses.items()}

    def difference(self, one: str, other: str, *, by_document: bool = True) -> MeanEstimate:
        """The paired difference of two conditions, nats per token: above 0 where `one` is worse."""
        return estimate(self.nll[one] - self.nll[other], self.documents if by_document else None)

    def gap_closed(self, condition: str) -> MeanEstimate | None:
        """The share of the gap from the window to the full context; None without the latter, or unless that gap exceeds 3
        standard errors."""
        return self._share("window", condition, "full")

    def focus_gap_closed(self, condition: str) -> MeanEstimate | None:
        """The share of the gap from random to oracle; None without both, or unless that gap exceeds 3 standard errors."""
        return self._share("random", condition, "oracle")

    def rank_correlation(self, name: str) -> MeanEstimate | None:
        """Spearman correlation of scores with the true utilities over the candidates of a row, mean over rows."""
        if self.utilities is None or name not in self.scores:
            return None
        return estimate(spearman(self.scores[name], self.utilities), self.documents)

    def recall(self, name: str, k: int) -> MeanEstimate | None:
        """Share of the k most useful candidates that are among the first k by score; None where there are no more than k."""
        if self.utilities is None or name not in self.scores or self.utilities.shape[1] <= k:
            return None
        return estimate(recall_at(self.scores[name], self.utilities, k), self.documents)

    def _share(self, start: str, condition: str, end: str) -> MeanEstimate | None:
        nll = self.nll
        if start not in nll or end not in nll:
            return None
        return ratio(nll[start] - nll[condition], nll[start] - nll[end], self.documents)
