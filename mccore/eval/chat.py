"""The chat evaluation of a run: held-out multiple choice and free answers, as one result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mccore.eval.choices import ChoiceResult, best_rule, summarise_choices
from mccore.eval.generated import TaskResult, accuracy, summarise_answers
from mccore.eval.runner import Runner, judge_all
from mccore.eval.statistics import Accuracy
from mccore.tasks.catalogue import free_tasks
from mccore.tasks.choice import RULES, ChoiceTask
from mccore.tasks.stdlib.choice import StdlibChoice
from mccore.tasks.task import FreeAnswers

if TYPE_CHECKING:
    from mccore.config import EvalConfig

RULE_QUESTIONS = 400  # validation questions that the scoring rule is chosen on


def evaluate_chat(runner: Runner, config: EvalConfig, *, seed: int = 0) -> dict[str, Any]:
    """Evaluate on the held-out test questions of the embedded tasks; plain data for the run's results.

    choice: multiple choice by the rule that is best on validation questions, or None when none are asked for.
    generated: free answers by task.
    metrics: the same by their names in METRICS.
    """
    choice: dict[str, Any] | None = None
    metrics: dict[str, float] = {}
    if config.choice_questions:
        result, tuning = answer_choices(runner, StdlibChoice(), config.choice_questions, seed=seed)
        choice = result.to_json()
        choice["chosen_on"] = {"n": tuning.overall.n, "rules": {rule: tuning.rules[rule].accuracy for rule in RULES}}
        metrics |= _accuracy_metrics("choice_accuracy", result.overall)
    found = answer_freely(runner, free_tasks() if config.generated_questions else [], config.generated_questions, seed)
    together = accuracy([answer for task in found for answer in task.answers])
    metrics |= _accuracy_metrics("generated_accuracy", together)
    return {"choice": choice, "generated": {task.task: task.to_json() for task in found}, "metrics": metrics}


def answer_choices(runner: Runner, task: ChoiceTask, count: int, *, seed: int = 0) -> tuple[ChoiceResult, ChoiceResult]:
    """Results on `count` test questions, by the rule that does best on validation questions, and on the latter."""
    tuning_requests = task.requests("val", seed=seed, limit=min(RULE_QUESTIONS, count))
    requests = task.requests("test", seed=seed, limit=count)
    responses = runner.respond([*tuning_requests, *requests])
    tuned, answered = responses[: len(tuning_requests)], responses[len(tuning_requests) :]
    tuning = summarise_choices(judge_all(task, tuning_requests, tuned), task.rule)
    chosen = type(task)(best_rule(tuning))
    return summarise_choices(judge_all(chosen, requests, answered), chosen.rule), tuning


def answer_freely(runner: Runner, tasks: Sequence[FreeAnswers], count: int, seed: int = 0) -> list[TaskResult]:
    """Results on `count` test questions of each task; those of all tasks are asked together."""
    requests = [task.requests("test", seed=seed, limit=count) for task in tasks]
    responses = iter(runner.respond([request for one in requests for request in one]))
    return [
        summarise_answers(task.name, judge_all(task, asked, [next(responses) for _ in asked]))
        for task, asked in zip(tasks, requests, strict=True)
    ]


def _accuracy_metrics(name: str, found: Accuracy) -> dict[str, float]:
    values = {name: found.accuracy, f"{name}_stderr": found.stderr}
    return {metric: value for metric, value in values.items() if value is not None}
