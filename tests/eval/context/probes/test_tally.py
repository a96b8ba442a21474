"""The harness tells who surely remembers from who surely doesn't, and says how sure it is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from mccore.eval.context.probes.kinds import depths, draw_probes
from mccore.eval.context.probes.probe import HistoryProbe
from mccore.eval.context.probes.tally import ProbeOutcome, ask, judge, tally
from tests.eval.context.probes.test_kinds import FILLER, SIZE, encode

WINDOW = 200


class Copier:
    """Says what followed the longest earlier match of the newest tokens, the newest of such, within what it remembers."""

    def __init__(self, remembers: int) -> None:
        self.remembers = remembers

    def read(self, probe: HistoryProbe) -> Iterator[tuple[str, Tensor]]:
        logits = torch.zeros(probe.answer, 256)
        for number in range(probe.answer):
            ids = probe.ids[: probe.history + number][-self.remembers :]
            logits[number, self._next(ids)] = 20.0
        yield "copier", logits

    @staticmethod
    def _next(ids: np.ndarray) -> int:
        places = np.flatnonzero(ids[:-1] == ids[-1])
        best, back = -1, 1  # the first token, for want of a better one
        while len(places):
            best, back = int(places[-1]), back + 1
            places = places[places >= back - 1]
            places = places[ids[places - back + 1] == ids[len(ids) - back]] if back <= len(ids) else places[:0]
        return int(ids[best + 1])


@pytest.fixture(scope="module")
def probes() -> list[HistoryProbe]:
    return list(draw_probes(encode, FILLER, [SIZE], depths(10)))


def accuracies(outcomes: list[ProbeOutcome]) -> dict[str, float]:
    return {f"{row['kind']} {row['variant']}".strip(): row["accuracy"] for row in tally(outcomes, "kind", "variant")}


def test_who_surely_remembers_is_told_from_who_surely_does_not(probes: list[HistoryProbe]) -> None:
    remembering = accuracies(ask(Copier(SIZE + 100), probes))
    copied = (
        "needle single",
        "needle multi-key",
        "needle updated",
        "associative 4 pairs",
        "associative 64 pairs",
        "copy",
    )
    assert {name: remembering[name] for name in copied} == dict.fromkeys(copied, 1.0)
    assert remembering["variables"] == 0  # no copying gets there
    far = [probe for probe in probes if probe.told[-1][1] < SIZE - WINDOW]
    forgetting = accuracies(ask(Copier(WINDOW), far))
    assert max(forgetting.values()) == 0


def test_a_window_is_right_where_the_answer_is_near(probes: list[HistoryProbe]) -> None:
    rows = tally(ask(Copier(WINDOW), probes), "kind", "variant", "depth")
    single = [row for row in rows if (row["kind"], row["variant"]) == ("needle", "single")]
    assert [row["accuracy"] for row in single] == [0.0] * 9 + [1.0]


def test_parts_of_an_answer_are_counted() -> None:
    ids = np.array([9, 9, 1, 5, 2])
    probe = HistoryProbe("needle", "multi-value", 2, 0.5, ids, 3, ((0, 1),), ((0, 1), (2, 3)))
    logits = torch.full((3, 10), -30.0)
    logits[0, 1] = logits[1, 7] = logits[2, 3] = 0.0
    found = judge(probe, "one", logits)
    assert found.right == 0.5
    assert found.nll == pytest.approx(15.0, abs=0.01)
    logits[2, 3], logits[2, 2] = -30.0, 0.0
    found = judge(probe, "one", logits)
    assert (found.right, found.nll) == (1.0, pytest.approx(0.0, abs=1e-4))  # what isn't counted may be wrong


def test_the_interval_says_how_little_ten_answers_tell(probes: list[HistoryProbe]) -> None:
    outcomes = ask(Copier(SIZE + 100), [probe for probe in probes if probe.kind == "copy"])
    (row,) = tally(outcomes, "kind")
    assert (row["n"], row["accuracy"], row["high"]) == (10, 1.0, pytest.approx(1.0))
    assert row["low"] == pytest.approx(0.722, abs=1e-3)  # Wilson, 10 of 10
