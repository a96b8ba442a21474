"""Asking, and counting what was right: by kind, size and depth, with the interval that a share of so few may lie in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mccore.eval.context.probes.probe import HistoryProbe
from mccore.eval.statistics import share


class ProbeReader(Protocol):
    """Who answers: one model, under several conditions."""

    def read(self, probe: HistoryProbe) -> Iterable[tuple[str, Tensor]]:
        """Condition -> logits fp32 [A, V] of the answer's tokens, each after the history and the right tokens before it."""


@dataclass(frozen=True)
class ProbeOutcome:
    """One question under one condition.

    nll: nats per counted token of the answer. right: the share of its counted parts whose every token is the likeliest; each is
    judged behind the right tokens before it, so at 1 the answer is what the model would have written.
    """

    probe: HistoryProbe
    condition: str
    nll: float
    right: float


def judge(probe: HistoryProbe, condition: str, logits: Tensor) -> ProbeOutcome:
    """What logits [A, V] come to."""
    wanted = torch.from_numpy(probe.ids[probe.history :]).to(logits.device)
    nll = torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="none").cpu()
    hit = (logits.argmax(dim=1) == wanted).cpu()
    counted = [slice(*part) for part in probe.counted]
    parts = [bool(hit[part].all()) for part in counted]
    return ProbeOutcome(
        probe, condition, float(torch.cat([nll[part] for part in counted]).mean()), sum(parts) / len(parts)
    )


def ask(
    reader: ProbeReader, probes: Iterable[HistoryProbe], on_progress: Callable[[int], None] = lambda done: None
) -> list[ProbeOutcome]:
    """The outcome of every probe under every condition that the reader has for it."""
    found: list[ProbeOutcome] = []
    for number, probe in enumerate(probes):
        found += [judge(probe, condition, logits) for condition, logits in reader.read(probe)]
        on_progress(number + 1)
    return found


def tally(outcomes: Sequence[ProbeOutcome], *by: str) -> list[dict[str, Any]]:
    """Rows {condition, what `by` names of probes, n, accuracy, low, high, right, nll}, in the order in which they came.

    accuracy: the share of answers that are right as a whole, `low` to `high` its 95 % interval (Wilson); right: the mean share
    of parts that are; nll: nats per counted token.
    """
    groups: dict[tuple[Any, ...], list[ProbeOutcome]] = {}
    for each in outcomes:
        groups.setdefault((each.condition, *(vars(each.probe)[name] for name in by)), []).append(each)
    rows = []
    for key, mine in groups.items():
        accuracy = share([each.right == 1 for each in mine])
        row = dict(zip(("condition", *by), key, strict=True))
        row |= {"n": accuracy.n, "accuracy": accuracy.accuracy, "low": accuracy.low, "high": accuracy.high}
        row |= {
            "right": float(np.mean([each.right for each in mine])),
            "nll": float(np.mean([each.nll for each in mine])),
        }
        rows.append(row)
    return rows
