"""ChatCORE: six benchmarks of chats, each accuracy centred by what guessing gives, and their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mccore.eval.core import centred_mean
from mccore.eval.runner import Runner
from mccore.eval.statistics import Accuracy, share
from mccore.tasks.catalogue import CHATCORE, open_task

GUESSES: Mapping[str, float] = {
    name: 0.25 if name in ("arc_easy", "arc_challenge", "mmlu") else 0.0 for name in CHATCORE
}
"""The six tasks and the accuracy of guessing, as nanochat has them."""

SPELLING_BEE_QUESTIONS = 256  # of a task without an end


@dataclass(frozen=True)
class BenchmarkResult:
    """One benchmark: its accuracy and how many questions were too long for the model, which are in no figure."""

    name: str
    accuracy: Accuracy
    skipped: int

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"skipped": self.skipped, **asdict(self.accuracy)}


def evaluate_benchmark(runner: Runner, name: str, *, limit: int | None = None, seed: int = 0) -> BenchmarkResult:
    """The accuracy of a model at a task's test questions; at most `limit` of them. Raises DataError where they can't be had."""
    task = open_task(name)
    if limit is None and name == "spelling_bee":
        limit = SPELLING_BEE_QUESTIONS
    requests = task.requests("test", seed=seed, limit=limit)
    judged = runner.ask(task, requests)
    answered = [one.judgement for one in judged if one.judgement is not None]
    return BenchmarkResult(name, share([one.scores["correct"] >= 1 for one in answered]), len(judged) - len(answered))


def chatcore_metric(results: Sequence[BenchmarkResult]) -> tuple[float, float | None] | None:
    """ChatCORE and its standard error; None unless all six have been measured."""
    by_name = {each.name: each.accuracy for each in results}
    if any(name not in by_name or by_name[name].accuracy is None for name in GUESSES):
        return None
    return centred_mean([(by_name[name], guess) for name, guess in GUESSES.items()])
