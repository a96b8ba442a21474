"""Multiple choice as a task: which of the given answers does the model find likeliest as its own reply?

Small models can't bind letters to choices, so the primary score ranks the choices' texts, each as a whole reply in the chat
format, by one of four rules; the letter a model would answer with is measured beside it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mccore.data.conversation import Conversation, Message, Split, exchange
from mccore.errors import DataError
from mccore.tasks.task import Judgement, LikelihoodRequest, Option, Response, Task

LETTERS = "ABCD"

Rule = Literal["sum", "token", "byte", "calibrated"]
RULES: tuple[Rule, ...] = ("sum", "token", "byte", "calibrated")
DEFAULT_RULE: Rule = "calibrated"


@dataclass(frozen=True)
class MultipleChoice:
    """A question with four choices, one right. `lexical_overlap`: subject and right choice share a word, a hint."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    subject: str
    kind: str
    lexical_overlap: bool


@dataclass(frozen=True)
class Phrasing:
    """How a choice is said in reply to a question of one kind, and a question and reply that tell nothing of the subject.

    `{choice}` stands for the choice, `{last}` for the last component of the subject's name.
    """

    reply: str = "{choice}"
    neutral_question: str = "Answer the question."
    neutral_reply: str = "{choice}"


def render_multiple_choice(question: MultipleChoice) -> str:
    """The question as a user's message; the reply expected is the bare letter.

    The letter follows its choice as `=A` without a space: small models bind it better to what stands before it, and the token
    is the one they answer with (nanochat, render_mc).
    """
    letters = LETTERS[: len(question.choices)]
    lines = [f"- {choice}={letter}" for choice, letter in zip(question.choices, letters, strict=True)]
    return "\n".join([question.question, *lines, "Answer with the letter only."])


def letter_conversation(task: str, question: MultipleChoice) -> Conversation:
    """A question with its choices, answered by the letter, as a conversation of `task`."""
    letter = LETTERS[question.answer]
    turn = (render_multiple_choice(question), letter)
    return exchange(task, f"{task}/{question.id}", turn, subject=question.subject, answer=letter)


class ChoiceTask(Task[LikelihoodRequest]):
    """Ranks the texts of the choices by `rule`; scores by the other rules and by letter stand beside `correct`.

    The rules score a choice by the log-likelihood of the reply that says it, closing marker included: `sum` as it is, `token`
    and `byte` per token and per byte of the reply, `calibrated` less the log-likelihood of the same choice after a
    question that tells nothing, which takes out how common the text is (domain-conditional PMI, arXiv 2104.08315).
    Subclasses give `questions`, and `phrasing` where a choice isn't a reply by itself.
    """

    def __init__(self, rule: Rule = DEFAULT_RULE) -> None:
        if rule not in RULES:
            raise DataError(f"unknown scoring rule {rule!r}", hint=f"use one of {', '.join(RULES)}")
        self.rule = rule

    @abstractmethod
    def questions(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[MultipleChoice]:
        """The questions of a split, in an order fixed by `seed`."""

    def phrasing(self, kind: str) -> Phrasing:
        """How choices are said in reply to questions of this kind."""
        return Phrasing()

    def conversations(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Conversation]:
        """Every question with its choices and the right letter as the reply."""
        return [letter_conversation(self.name, one) for one in self.questions(split, seed=seed)[:limit]]

    def requests(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[LikelihoodRequest]:
        return [self.request(question) for question in self.questions(split, seed=seed, limit=limit)]

    def request(self, question: MultipleChoice) -> LikelihoodRequest:
        """Options in three groups of as many as there are choices: as replies, as neutral replies, as letters."""
        said, last = self.phrasing(question.kind), question.subject.rpartition(".")[2]
        ask, neutral = _user(question.question), _user(said.neutral_question)
        lettered = _user(render_multiple_choice(question))
        replies = [Option(ask, said.reply.format(choice=choice, last=last)) for choice in question.choices]
        neutrals = [Option(neutral, said.neutral_reply.format(choice=choice)) for choice in question.choices]
        letters = [Option(lettered, LETTERS[i], complete=False) for i in range(len(question.choices))]
        return LikelihoodRequest(
            id=question.id,
            options=(*replies, *neutrals, *letters),
            right=question.answer,
            asked=question.question,
            choices=question.choices,
            kind=question.kind,
            tags=frozenset({"overlap" if question.lexical_overlap else "no overlap"}),
        )

    def judge(self, request: LikelihoodRequest, response: Response) -> Judgement:
        """`correct` goes by this task's rule; the scores of every rule and of the letter bear their names."""
        picks = self.picks(request, response)
        scores = {name: float(pick == request.right) for name, pick in picks.items()}
        return Judgement({"correct": scores[self.rule], **scores}, request.choices[picks[self.rule]])

    def picks(self, request: LikelihoodRequest, response: Response) -> dict[str, int]:
        """The index of the choice that wins by each rule and by `letter`; the first one on a tie."""
        n = len(request.choices)
        replies, neutral, letters = (response.options[start : start + n] for start in (0, n, 2 * n))
        sizes = [len(option.reply.encode()) for option in request.options[:n]]
        values: dict[str, list[float]] = {
            "sum": [score.logprob for score in replies],
            "token": [score.logprob / score.tokens for score in replies],
            "byte": [score.logprob / size for score, size in zip(replies, sizes, strict=True)],
            "calibrated": [score.logprob - base.logprob for score, base in zip(replies, neutral, strict=True)],
            "letter": [score.logprob for score in letters],
        }
        return {name: max(range(n), key=found.__getitem__) for name, found in values.items()}


def _user(text: str) -> tuple[Message]:
    return ({"role": "user", "content": text},)
