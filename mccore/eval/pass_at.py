"""pass@k: how likely one of k replies is right, of models whose replies are drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mccore.eval.statistics import mean_and_stderr


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The chance that k of `samples` replies, `right` of which are right, hold a right one: 1 - C(n - c, k) / C(n, k), which is
    unbiased (arXiv 2107.03374). Raises ValueError for more than there are.

    >>> pass_at_k(8, 2, 1), pass_at_k(8, 2, 7), pass_at_k(8, 0, 8)
    (0.25, 1.0, 0.0)
    """
    if not 0 < k <= samples or not 0 <= right <= samples:
        raise ValueError(f"pass@{k} of {samples} replies, {right} of them right")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def curve_points(samples: int) -> tuple[int, ...]:
    """The k that pass@k is told for: 1, 2, 4, ... and the number of replies."""
    powers = [2**power for power in range(samples.bit_length()) if 2**power < samples]
    return (*powers, samples)


@dataclass(frozen=True)
class PassAt:
    """pass@k of one task, or of all: `right` of `samples` replies to each question."""

    samples: int
    right: tuple[int, ...]

    def curve(self) -> dict[int, tuple[float | None, float | None]]:
        """k -> mean over the questions and its standard error; None where the questions are too few for either."""
        return {
            k: mean_and_stderr([pass_at_k(self.samples, right, k) for right in self.right])
            for k in curve_points(self.samples)
        }

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        curve = {str(k): {"mean": mean, "stderr": stderr} for k, (mean, stderr) in self.curve().items()}
        return {"questions": len(self.right), "samples": self.samples, "pass_at": curve}


def together(found: Sequence[PassAt]) -> PassAt:
    """Several tasks as one, each question counting alike. All have the same number of samples."""
    return PassAt(found[0].samples, tuple(right for one in found for right in one.right))
