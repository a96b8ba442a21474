"""Multiple choice: which of the given answers does the model find likeliest as its own reply?

Small models can't bind letters to choices, so the primary score ranks the choices' texts, each as a whole reply in the chat
format, by one of four rules; the letter a model would answer with is measured beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from mccore.data.conversation import Message
from mccore.data.tokenizer.chat_format import render_for_completion
from mccore.errors import DataError
from mccore.eval.likelihood import Continuation, next_token_logits, score_continuations
from mccore.eval.statistics import Accuracy, share
from mccore.tasks.task import LETTERS, MultipleChoice, render_multiple_choice

if TYPE_CHECKING:
    from mccore.data.tokenizer.tokenizer import Tokenizer
    from mccore.model.gpt import GPT

Rule = Literal["sum", "token", "byte", "calibrated"]
RULES: tuple[Rule, ...] = ("sum", "token", "byte", "calibrated")
DEFAULT_RULE: Rule = "calibrated"


@dataclass(frozen=True)
class Phrasing:
    """How a choice is said in reply to a question of one kind, and a question and reply that tell nothing of the subject.

    `{choice}` stands for the choice, `{last}` for the last component of the subject's name.
    """

    reply: str = "{choice}"
    neutral_question: str = "Answer the question."
    neutral_reply: str = "{choice}"


# The wording of the replies that the same questions have in training (mccore.tasks.stdlib.qa).
PHRASINGS: dict[str, Phrasing] = {
    "describe": Phrasing("{choice}", "What does it do?", "{choice}"),
    "name": Phrasing("That is {choice}.", "Which one is it?", "That is {choice}."),
    "module": Phrasing(
        "{last} is defined in the module {choice}.", "Where is it defined?", "It is defined in the module {choice}."
    ),
}


@dataclass(frozen=True)
class ChoiceAnswer:
    """What the model chose: the index of a choice by each rule, and by letter."""

    question: MultipleChoice
    picks: dict[Rule, int]
    letter: int


@dataclass(frozen=True)
class ChoiceResult:
    """Accuracies over one set of questions. `overall` and its breakdowns go by `rule`; `rules` has every rule for comparison.

    Questions of one group share their choices, so their errors aren't independent; the standard errors take them as if.
    """

    rule: Rule
    overall: Accuracy
    kinds: dict[str, Accuracy]
    with_overlap: Accuracy
    without_overlap: Accuracy
    rules: dict[Rule, Accuracy]
    letters: Accuracy
    cropped: int  # questions whose beginning didn't fit into the model's context
    answers: tuple[ChoiceAnswer, ...]

    def to_json(self, examples: int = 8) -> dict[str, Any]:
        """The result as plain data, with the first `examples` answers."""
        record: dict[str, Any] = {"rule": self.rule, **asdict(self.overall)}
        record["kinds"] = {kind: asdict(accuracy) for kind, accuracy in self.kinds.items()}
        record["with_overlap"] = asdict(self.with_overlap)
        record["without_overlap"] = asdict(self.without_overlap)
        record["rules"] = {rule: asdict(accuracy) for rule, accuracy in self.rules.items()}
        record["letters"] = asdict(self.letters)
        record["cropped"] = self.cropped
        record["examples"] = [
            {
                "id": answer.question.id,
                "question": answer.question.question,
                "chosen": answer.question.choices[answer.picks[self.rule]],
                "right": answer.question.choices[answer.question.answer],
            }
            for answer in self.answers[:examples]
        ]
        return record


def evaluate_choices(
    model: GPT,
    tokenizer: Tokenizer,
    questions: Sequence[MultipleChoice],
    *,
    rule: Rule = DEFAULT_RULE,
    batch_rows: int = 32,
) -> ChoiceResult:
    """Answer every question by each rule and by letter; the batch size changes nothing but speed.

    The rules score a choice by the log-likelihood of the reply that says it, closing marker included: `sum` as it is, `token`
    and `byte` per token and per byte of the reply, `calibrated` less the log-likelihood of the same choice after a
    question that tells nothing, which takes out how common the text is (domain-conditional PMI, arXiv 2104.08315).
    """
    if rule not in RULES:
        raise DataError(f"unknown scoring rule {rule!r}", hint=f"use one of {', '.join(RULES)}")
    replies = [_replies(question) for question in questions]
    contexts = [_user_turn(question.question, tokenizer) for question in questions]
    items = [
        Continuation(context, _reply_ids(reply, tokenizer))
        for context, choices in zip(contexts, replies, strict=True)
        for reply in choices
    ]
    neutral: dict[tuple[str, str], Continuation] = {}
    for question in questions:
        asked = _phrasing(question).neutral_question
        for reply in _neutral_replies(question):
            if (asked, reply) not in neutral:
                neutral[asked, reply] = Continuation(_user_turn(asked, tokenizer), _reply_ids(reply, tokenizer))
    scored = score_continuations(model, [*items, *neutral.values()], batch_rows=batch_rows)
    baseline = {key: score.logprob for key, score in zip(neutral, scored[len(items) :], strict=True)}
    letters = _letters(model, tokenizer, questions, batch_rows)

    answers = []
    cropped = start = 0
    for question, choices, letter in zip(questions, replies, letters, strict=True):
        mine = scored[start : start + len(choices)]
        sums = [score.logprob for score in mine]
        asked = _phrasing(question).neutral_question
        values: dict[Rule, list[float]] = {
            "sum": sums,
            "token": [
                value / len(item.tokens) for value, item in zip(sums, items[start : start + len(choices)], strict=True)
            ],
            "byte": [value / len(reply.encode()) for value, reply in zip(sums, choices, strict=True)],
            "calibrated": [
                value - baseline[asked, reply] for value, reply in zip(sums, _neutral_replies(question), strict=True)
            ],
        }
        answers.append(ChoiceAnswer(question, {name: _argmax(values[name]) for name in RULES}, letter))
        cropped += any(score.cropped for score in mine)
        start += len(choices)
    return _summarise(answers, rule, cropped)


def best_rule(result: ChoiceResult) -> Rule:
    """The rule with the most right answers, the earlier of RULES on a tie. Only for questions of the validation split:
    choosing by the questions that are reported would flatter the result."""
    return max(RULES, key=lambda rule: result.rules[rule].accuracy or 0.0)


def _summarise(answers: list[ChoiceAnswer], rule: Rule, cropped: int) -> ChoiceResult:
    def accuracy(chosen: list[ChoiceAnswer], by: Rule | None = rule) -> Accuracy:
        picks = [answer.picks[by] if by else answer.letter for answer in chosen]
        right = [pick == answer.question.answer for pick, answer in zip(picks, chosen, strict=True)]
        return share(right, [1 / len(answer.question.choices) for answer in chosen])

    return ChoiceResult(
        rule=rule,
        overall=accuracy(answers),
        kinds={
            kind: accuracy([answer for answer in answers if answer.question.kind == kind])
            for kind in sorted({answer.question.kind for answer in answers})
        },
        with_overlap=accuracy([answer for answer in answers if answer.question.lexical_overlap]),
        without_overlap=accuracy([answer for answer in answers if not answer.question.lexical_overlap]),
        rules={name: accuracy(answers, name) for name in RULES},
        letters=accuracy(answers, None),
        cropped=cropped,
        answers=tuple(answers),
    )


def _letters(model: GPT, tokenizer: Tokenizer, questions: Sequence[MultipleChoice], batch_rows: int) -> list[int]:
    """The choice whose letter is the likeliest next token when all choices are shown with their letters."""
    tokens = [tokenizer.encode(letter) for letter in LETTERS]
    assert all(len(ids) == 1 for ids in tokens), "single letters are single tokens in a byte-level vocabulary"
    contexts = [_user_turn(render_multiple_choice(question), tokenizer) for question in questions]
    logits = next_token_logits(model, contexts, batch_rows=batch_rows)
    letters = logits[:, [ids[0] for ids in tokens]]
    return [int(row[: len(question.choices)].argmax()) for row, question in zip(letters, questions, strict=True)]


def _user_turn(text: str, tokenizer: Tokenizer) -> list[int]:
    message: Message = {"role": "user", "content": text}
    return render_for_completion(tokenizer, [message])


def _reply_ids(reply: str, tokenizer: Tokenizer) -> list[int]:
    return [*tokenizer.encode(reply), tokenizer.special("assistant_end")]


def _phrasing(question: MultipleChoice) -> Phrasing:
    return PHRASINGS.get(question.kind, Phrasing())


def _replies(question: MultipleChoice) -> list[str]:
    phrasing, last = _phrasing(question), question.subject.rpartition(".")[2]
    return [phrasing.reply.format(choice=choice, last=last) for choice in question.choices]


def _neutral_replies(question: MultipleChoice) -> list[str]:
    return [_phrasing(question).neutral_reply.format(choice=choice) for choice in question.choices]


def _argmax(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
