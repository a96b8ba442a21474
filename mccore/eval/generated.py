"""Questions answered in free text, greedily, and how each task's answers are judged.

A task is conversations whose last reply is known, and a scorer: a function from (conversation, what the model said) to
named scores of 0 to 1, of which `correct` decides. Add one to SCORERS, or pass `scorers`, for a benchmark of your own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mccore.data.conversation import Conversation
from mccore.data.tokenizer.chat_format import render_for_completion
from mccore.data.tokenizer.reply import Piece, split_reply
from mccore.eval.statistics import Accuracy, mean_and_stderr, share
from mccore.generate.answer import batch
from mccore.generate.sampling import Sampling
from mccore.tasks.judges import SCORERS, Scorer, right_reply, score_contained

if TYPE_CHECKING:
    from mccore.generate.engine import Engine
    from mccore.megacontext.sessions.session import Session


@dataclass(frozen=True)
class Answered:
    """One question with what the model said, what is right, and its scores."""

    id: str
    question: str
    reply: str
    right: str
    scores: Mapping[str, float]


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
        return record


def evaluate_generated(
    engine: Engine,
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int = 128,
    batch_rows: int = 32,
    scorers: Mapping[str, Scorer] | None = None,
    new_session: Callable[[], Session] | None = None,
) -> dict[str, TaskResult]:
    """Ask the last question of every conversation, greedily, with the tool, and judge the replies; results by task.

    Questions are answered side by side, `batch_rows` at a time, similar lengths together. With `new_session` every one is
    asked in a session of its own, as a chat with MegaContext does, and none is too long.
    """
    scorers = SCORERS if scorers is None else scorers
    tokenizer = engine.tokenizer
    prompts = [render_for_completion(tokenizer, conversation["messages"]) for conversation in conversations]
    room = [engine.max_tokens - len(prompt) for prompt in prompts]
    fits = [
        new_session is not None or free > len(tokenizer.encode(right_reply(conversation)))
        for free, conversation in zip(room, conversations, strict=True)
    ]
    order = sorted((i for i, fit in enumerate(fits) if fit), key=lambda i: len(prompts[i]))
    sampling, said = Sampling(max_new_tokens=max_new_tokens), dict[int, list[Piece]]()
    for start in range(0, len(order), batch_rows):
        chosen = order[start : start + batch_rows]
        requests = batch([prompts[i] for i in chosen], sampling)
        if new_session is not None:
            requests = [replace(request, session=new_session()) for request in requests]
        for i, answer in zip(chosen, engine.run(requests), strict=True):
            said[i] = split_reply(answer.tokens, tokenizer)
    results = {}
    for task in dict.fromkeys(conversation["task"] for conversation in conversations):
        mine = [i for i, conversation in enumerate(conversations) if conversation["task"] == task]
        answered = [_judge(conversations[i], said[i], scorers.get(task, score_contained)) for i in mine if fits[i]]
        results[task] = _summarise(task, answered, skipped=len(mine) - len(answered))
    return results


def _judge(conversation: Conversation, parts: Sequence[Piece], scorer: Scorer) -> Answered:
    shown = "".join(f"[{part.text}]" if part.type != "text" else part.text for part in parts)
    return Answered(
        id=conversation["id"],
        question=str(conversation["messages"][-2]["content"]),
        reply=shown.strip(),
        right=right_reply(conversation),
        scores=scorer(conversation, parts),
    )


def _summarise(task: str, answered: list[Answered], skipped: int) -> TaskResult:
    def accuracy(chosen: list[Answered]) -> Accuracy:
        return share([answer.scores["correct"] >= 1 for answer in chosen])

    kinds = {answer.id.split("/")[1] for answer in answered} if task in _TASKS_WITH_KINDS else set()
    names = list(dict.fromkeys(name for answer in answered for name in answer.scores))
    return TaskResult(
        task=task,
        accuracy=accuracy(answered),
        scores={name: mean_and_stderr([answer.scores[name] for answer in answered]) for name in names},
        kinds={
            kind: accuracy([answer for answer in answered if answer.id.split("/")[1] == kind]) for kind in sorted(kinds)
        },
        skipped=skipped,
        answers=tuple(answered),
    )


_TASKS_WITH_KINDS = ("stdlib_qa", "needle")  # their ids read task/kind/...
