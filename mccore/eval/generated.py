"""Scores of one task's free answers, by kind of question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mccore.eval.runner import Judged
from mccore.eval.statistics import Accuracy, mean_and_stderr, share
from mccore.tasks.task import GenerationRequest


@dataclass(frozen=True)
class Answered:
    """One question with what the model said, what is right, and its scores."""

    id: str
    question: str
    reply: str
    right: str
    scores: Mapping[str, float]
    kind: str


@dataclass(frozen=True)
class TaskResult:
    """One task: accuracy by `correct`, mean and standard error of every score, accuracy by kind of question.

    `skipped` counts questions that, with their answer, are longer than the model's context: they are in no figure.
    """

    task: str
    accuracy: Accuracy
    scores: dict[str, tuple[float | None, float | None]]
    kinds: dict[str, Accuracy]
    skipped: int
    answers: tuple[Answered, ...] = field(repr=False)

    def to_json(self, examples: int = 4) -> dict[str, Any]:
        """The result as plain data, with the first `examples` answers."""
        record: dict[str, Any] = asdict(self.accuracy)
        record["scores"] = {name: {"mean": mean, "stderr": stderr} for name, (mean, stderr) in self.scores.items()}
        record["kinds"] = {kind: asdict(accuracy) for kind, accuracy in self.kinds.items()}
        record["skipped"] = self.skipped
        record["examples"] = [asdict(answer) for answer in self.answers[:examples]]
        for example in record["examples"]:
            del example["kind"]
        return record


def summarise_answers(task: str, judged: Sequence[Judged[GenerationRequest]]) -> TaskResult:
    """The result of one task's free answers."""
    answered = [
        Answered(
            id=one.request.id,
            question=one.request.asked,
            reply=one.judgement.said,
            right=one.request.right_reply,
            scores=one.judgement.scores,
            kind=one.request.kind,
        )
        for one in judged
        if one.judgement is not None
    ]
    kinds = sorted({answer.kind for answer in answered if answer.kind})
    names = dict.fromkeys(name for answer in answered for name in answer.scores)
    return TaskResult(
        task=task,
        accuracy=accuracy(answered),
        scores={name: mean_and_stderr([answer.scores[name] for answer in answered]) for name in names},
        kinds={kind: accuracy([answer for answer in answered if answer.kind == kind]) for kind in kinds},
        skipped=len(judged) - len(answered),
        answers=tuple(answered),
    )


def accuracy(answers: Sequence[Answered]) -> Accuracy:
    """The share of answers judged correct."""
    return share([answer.scores["correct"] >= 1 for answer in answers])
