"""Tasks of other packages (`mccore.api.QuestionSource`), as tasks of ours.

Questions are read once a process and checked: a fault is told with the package that it is from. What is held out is decided here,
by the hash of each question's id, so a plugin can't train on what it is asked.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from mccore import api, plugins
from mccore.config import Choice
from mccore.data.conversation import Conversation, Split, exchange, split_of
from mccore.data.corpora.document import Progress
from mccore.errors import PluginError
from mccore.host.paths import cache_dir
from mccore.tasks.benchmarks.letters import LetterQuestion, LetterTask
from mccore.tasks.hub import Row
from mccore.tasks.task import FreeAnswers, GenerationRequest, Judgement, Response

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class _Plugged(NamedTuple):
    """A task of a plugin and all its questions."""

    name: str
    task: api.QuestionSource
    questions: tuple[api.Question, ...]

    def of(self, split: Split, seed: int, limit: int | None) -> list[api.Question]:
        """The questions of a split, in an order fixed by `seed`. Raises PluginError where there is none."""
        chosen = [question for question in self.questions if split_of(f"{self.name}/{question.id}") == split]
        if not chosen:
            raise _fault(self.name, f"none of its {len(self.questions)} questions falls into the {split} split")
        random.Random(f"{self.name}:{seed}").shuffle(chosen)
        return chosen[:limit]

    def fingerprint(self) -> dict[str, Any]:
        """What identifies its content: how many questions, and their SHA-256."""
        digest = hashlib.sha256("".join(map(repr, self.questions)).encode("utf-8", "surrogatepass"))
        return {"questions": len(self.questions), "sha256": digest.hexdigest()}


def open_plugged(name: str) -> PluggedQuestions | PluggedChoices:
    """The task that a plugin of this name gives. Raises PluginError for a faulty one."""
    found = _read(name)
    return PluggedChoices(found) if found.questions[0].choices else PluggedQuestions(found)


@lru_cache(maxsize=16)
def _read(name: str) -> _Plugged:
    task = plugins.build("task", Choice(name=name), api.TaskSpec(cache_dir() / "tasks" / name))
    with plugins.contained(plugins.find("task", name), "its questions were read"):
        questions = tuple(task.questions())
    if not questions:
        raise _fault(name, "it has no questions")
    for question in questions:
        if problem := _problem(question):
            raise _fault(name, problem)
    if len({question.id for question in questions}) != len(questions):
        raise _fault(name, "two of its questions have one id")
    if len({bool(question.choices) for question in questions}) > 1:
        raise _fault(name, "some of its questions have choices and others none")
    return _Plugged(name, task, questions)


def _problem(question: Any) -> str:
    """What is wrong with a question; empty for a sound one."""
    if not isinstance(question, api.Question):
        return f"it asks an object of type {type(question).__name__} instead of a Question"
    fields = (question.id, question.text, question.answer, question.reply, question.kind, *question.choices)
    if not all(isinstance(text, str) for text in fields) or not (question.id and question.text and question.answer):
        return f"the question {question.id!r:.60} lacks its id, its text or its answer, or they aren't text"
    if question.choices and (question.choices.count(question.answer) != 1 or len(question.choices) > len(_LETTERS)):
        return f"the answer to the question {question.id!r:.60} isn't one of at most {len(_LETTERS)} choices"
    return ""


def _fault(name: str, what: str) -> PluginError:
    row = plugins.find("task", name)
    return PluginError(f"task {name!r} can't be used: {what}", blame=row.blame, hint=f"report it to {row.distribution}")


class PluggedQuestions(FreeAnswers):
    """Questions that are answered freely."""

    def __init__(self, found: _Plugged) -> None:
        self.name, self._found = found.name, found
        self._by_id = {f"{found.name}/{question.id}": question for question in found.questions}

    def fingerprint(self) -> dict[str, Any]:
        return self._found.fingerprint()

    def conversations(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Conversation]:
        return [
            exchange(
                self.name,
                f"{self.name}/{question.id}",
                (question.text, question.reply or question.answer),
                subject=question.id,
                answer=question.answer,
            )
            for question in self._found.of(split, seed, limit)
        ]

    def kind_of(self, conversation: Conversation) -> str:
        return self._by_id[conversation["id"]].kind

    def judge(self, request: GenerationRequest, response: Response) -> Judgement:
        """`correct`: what the plugin says of the reply. Raises PluginError for what is no score."""
        with plugins.contained(plugins.find("task", self.name), "a reply was judged"):
            score = self._found.task.score(self._by_id[request.id], response.prose)
            if isinstance(score, bool | int | float) and 0 <= score <= 1:
                return Judgement({"correct": float(score)}, response.shown)
        raise _fault(self.name, f"its score is {score!r:.60}, not a number from 0 to 1")


class PluggedChoices(LetterTask):
    """Questions with choices, answered by their letter."""

    on_hub = False

    def __init__(self, found: _Plugged) -> None:
        self.name, self._found = found.name, found

    def question(self, row: Row) -> LetterQuestion:
        raise NotImplementedError("its questions don't come from a table")

    def _questions(self, split: Split, seed: int, limit: int | None) -> Sequence[tuple[str, LetterQuestion]]:
        return [
            (
                question.id,
                LetterQuestion(
                    question.text,
                    tuple(_LETTERS[: len(question.choices)]),
                    question.choices,
                    question.choices.index(question.answer),
                    question.kind,
                ),
            )
            for question in self._found.of(split, seed, limit)
        ]

    def check(self) -> None:
        """Nothing: its questions are here."""

    def fetch(self, progress: Progress) -> None:
        """Nothing: its questions are here."""

    def fingerprint(self) -> dict[str, Any]:
        return self._found.fingerprint()
