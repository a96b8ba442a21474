"""The chat evaluation of a run: held-out multiple choice and free answers, as one result."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mccore.data.conversation import Conversation
from mccore.eval.choices import RULES, ChoiceResult, Rule, best_rule, evaluate_choices
from mccore.eval.generated import TaskResult, evaluate_generated
from mccore.eval.statistics import Accuracy, share
from mccore.tasks.catalogue import multiple_choice_questions, open_conversations, source_names

if TYPE_CHECKING:
    from mccore.config import EvalConfig
    from mccore.generate.engine import Engine
    from mccore.megacontext.sessions.session import Session

__all__ = [
    "RULES",
    "ChoiceResult",
    "Rule",
    "TaskResult",
    "best_rule",
    "evaluate_chat",
    "evaluate_choices",
    "evaluate_generated",
]

RULE_QUESTIONS = 400  # validation questions that the scoring rule is chosen on


def evaluate_chat(
    engine: Engine,
    config: EvalConfig,
    *,
    seed: int = 0,
    max_new_tokens: int = 128,
    new_session: Callable[[], Session] | None = None,
) -> dict[str, Any]:
    """Evaluate on the held-out test questions of the embedded conversations; plain data for the run's results.

    With `new_session`, free answers come from sessions, as in a chat with MegaContext.

    choice: multiple choice by the rule that is best on validation questions, or None when none are asked for.
    generated: free answers by task.
    metrics: the same by their names in METRICS.
    """
    model, tokenizer = engine.model, engine.tokenizer
    choice: dict[str, Any] | None = None
    metrics: dict[str, float] = {}
    if config.choice_questions:
        limit = min(RULE_QUESTIONS, config.choice_questions)
        tuning = evaluate_choices(
            model, tokenizer, multiple_choice_questions("val", seed=seed, limit=limit), batch_rows=config.batch_rows
        )
        questions = multiple_choice_questions("test", seed=seed, limit=config.choice_questions)
        result = evaluate_choices(model, tokenizer, questions, rule=best_rule(tuning), batch_rows=config.batch_rows)
        choice = result.to_json()
        choice["chosen_on"] = {"n": tuning.overall.n, "rules": {rule: tuning.rules[rule].accuracy for rule in RULES}}
        overall = result.overall
        metrics |= _accuracy_metrics("choice_accuracy", overall)
    tasks = evaluate_generated(
        engine,
        held_out_conversations(config.generated_questions, seed=seed),
        max_new_tokens=max_new_tokens,
        batch_rows=config.batch_rows,
        new_session=new_session,
    )
    answers = [answer for task in tasks.values() for answer in task.answers]
    together = share([answer.scores["correct"] >= 1 for answer in answers])
    metrics |= _accuracy_metrics("generated_accuracy", together)
    return {
        "choice": choice,
        "generated": {name: task.to_json() for name, task in tasks.items()},
        "metrics": metrics,
    }


def _accuracy_metrics(name: str, found: Accuracy) -> dict[str, float]:
    values = {name: found.accuracy, f"{name}_stderr": found.stderr}
    return {metric: value for metric, value in values.items() if value is not None}


def held_out_conversations(per_task: int, *, seed: int = 0) -> list[Conversation]:
    """`per_task` test questions of each embedded source; questions answered by a letter are left to multiple choice."""
    if not per_task:
        return []
    chosen: list[Conversation] = []
    for name in source_names():
        # Letter questions are mixed in with the others, at most one for each of those.
        pool = open_conversations(name, "test", seed=seed, limit=4 * per_task)
        chosen += [conversation for conversation in pool if "/mc/" not in conversation["id"]][:per_task]
    return chosen
