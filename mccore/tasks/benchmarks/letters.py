"""Multiple choice answered by a letter: MMLU and ARC.

All choices are shown with their letters, and the letter that the model finds likeliest as its reply is its answer.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mccore.data.conversation import Conversation, Message, Split, exchange
from mccore.data.corpora.document import Progress
from mccore.errors import DataError
from mccore.tasks.hub import HubTable, Row
from mccore.tasks.task import Judgement, LikelihoodRequest, Option, Response, Task


@dataclass(frozen=True)
class LetterQuestion:
    """A question, its choices with their letters, and which one is right."""

    text: str
    letters: tuple[str, ...]
    choices: tuple[str, ...]
    right: int
    kind: str = ""

    def render(self) -> str:
        """The question as a user's message, worded as nanochat's models learned it.

        The letter stands behind its choice, without a space: small models bind it better so, and it is the token that they
        answer with.
        """
        lines = [f"- {choice}={letter}" for choice, letter in zip(self.choices, self.letters, strict=True)]
        listed = "\n".join([f"Multiple Choice question: {self.text}", *lines])
        return f"{listed}\n\nRespond only with the letter of the correct answer."


class LetterTask(Task[LikelihoodRequest]):
    """Questions of a table; subclasses turn its rows into questions."""

    table: HubTable
    on_hub = True

    @abstractmethod
    def question(self, row: Row) -> LetterQuestion:
        """The question of a row. Raises KeyError, TypeError, ValueError or IndexError for a row of another shape."""

    def _questions(self, split: Split, seed: int, limit: int | None) -> Sequence[tuple[str, LetterQuestion]]:
        return [(id, self._read(id, row)) for id, row in self.table.rows(split, seed=seed, limit=limit)]

    def _read(self, id: str, row: Row) -> LetterQuestion:
        try:
            return self.question(row)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(
                f"{self.table.repository}, {id}: it isn't a question of {self.name}: {error!r}",
                hint="the data set has changed its form: take an older commit of it",
            ) from error

    def conversations(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Conversation]:
        """Every question, answered by the letter."""
        return [
            exchange(
                self.name,
                f"{self.name}/{id}",
                (question.render(), question.letters[question.right]),
                subject=question.text,
                answer=question.letters[question.right],
            )
            for id, question in self._questions(split, seed, limit)
        ]

    def requests(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[LikelihoodRequest]:
        return [_request(f"{self.name}/{id}", question) for id, question in self._questions(split, seed, limit)]

    def judge(self, request: LikelihoodRequest, response: Response) -> Judgement:
        """`correct`: the right letter is the likeliest; the first one on a tie."""
        values = [option.logprob for option in response.options]
        pick = values.index(max(values))
        return Judgement({"correct": float(pick == request.right)}, request.options[pick].reply)

    def check(self) -> None:
        self.table.check()

    def fetch(self, progress: Progress) -> None:
        self.table.fetch(progress)

    def fingerprint(self) -> dict[str, Any]:
        return self.table.fingerprint()


def _request(id: str, question: LetterQuestion) -> LikelihoodRequest:
    prompt: tuple[Message] = ({"role": "user", "content": question.render()},)
    return LikelihoodRequest(
        id=id,
        options=tuple(Option(prompt, letter, complete=False) for letter in question.letters),
        right=question.right,
        asked=question.text,
        choices=question.choices,
        kind=question.kind,
    )


class MMLU(LetterTask):
    """57 subjects, four choices each (arXiv 2009.03300). Trained on are the 100,000 questions of its `auxiliary_train`."""

    name = "mmlu"
    table = HubTable(
        "cais/mmlu",
        {"train": "all/auxiliary_train-*.parquet", "val": "all/validation-*.parquet", "test": "all/test-*.parquet"},
    )

    def question(self, row: Row) -> LetterQuestion:
        choices = tuple(map(str, row["choices"]))
        letters = tuple("ABCD"[: len(choices)])
        return LetterQuestion(
            str(row["question"]), letters, choices, range(len(letters))[row["answer"]], str(row["subject"])
        )


class _Arc(LetterTask):
    """Science questions of schools with three to five choices (arXiv 1803.05457)."""

    def question(self, row: Row) -> LetterQuestion:
        letters = tuple(map(str, row["choices"]["label"]))  # A to E, or 1 to 5
        choices = tuple(map(str, row["choices"]["text"]))
        if len(letters) != len(choices):
            raise ValueError(f"{len(choices)} choices have {len(letters)} letters")
        return LetterQuestion(str(row["question"]), letters, choices, letters.index(row["answerKey"]))


def _arc(name: str) -> HubTable:
    splits: dict[Split, str] = {"train": "train", "val": "validation", "test": "test"}
    return HubTable("allenai/ai2_arc", {split: f"{name}/{file}-*.parquet" for split, file in splits.items()})


class ArcEasy(_Arc):
    """Those that simple methods get right."""

    name = "arc_easy"
    table = _arc("ARC-Easy")


class ArcChallenge(_Arc):
    """Those that a retrieval and a co-occurrence method both get wrong."""

    name = "arc_challenge"
    table = _arc("ARC-Challenge")
