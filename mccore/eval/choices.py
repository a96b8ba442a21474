"""Accuracies over one set of multiple-choice questions, by rule and by kind of question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mccore.eval.runner import Judged
from mccore.eval.statistics import Accuracy, share
from mccore.tasks.choice import RULES, Rule
from mccore.tasks.task import LikelihoodRequest

Choice = Judged[LikelihoodRequest]


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
    answers: tuple[Choice, ...]

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
                "id": answer.request.id,
                "question": answer.request.asked,
                "chosen": answer.judgement.said if answer.judgement else "",
                "right": answer.request.right_reply,
            }
            for answer in self.answers[:examples]
        ]
        return record


def summarise_choices(answers: Sequence[Choice], rule: Rule) -> ChoiceResult:
    """The result of questions that a `ChoiceTask` of this rule judged."""
    kinds = sorted({answer.request.kind for answer in answers})
    return ChoiceResult(
        rule=rule,
        overall=_accuracy(answers, rule),
        kinds={kind: _accuracy([one for one in answers if one.request.kind == kind], rule) for kind in kinds},
        with_overlap=_accuracy(_tagged(answers, "overlap"), rule),
        without_overlap=_accuracy(_tagged(answers, "no overlap"), rule),
        rules={name: _accuracy(answers, name) for name in RULES},
        letters=_accuracy(answers, "letter"),
        cropped=sum(_is_cropped(answer) for answer in answers),
        answers=tuple(answers),
    )


def best_rule(result: ChoiceResult) -> Rule:
    """The rule with the most right answers, the earlier of RULES on a tie. Only for questions of the validation split:
    choosing by the questions that are reported would flatter the result."""
    return max(RULES, key=lambda rule: result.rules[rule].accuracy or 0.0)


def _tagged(answers: Sequence[Choice], tag: str) -> list[Choice]:
    return [answer for answer in answers if tag in answer.request.tags]


def _accuracy(answers: Sequence[Choice], score: str) -> Accuracy:
    right = [answer.judgement is not None and answer.judgement.scores[score] >= 1 for answer in answers]
    return share(right, [1 / len(answer.request.choices) for answer in answers])


def _is_cropped(answer: Choice) -> bool:
    assert answer.response is not None
    return any(score.cropped for score in answer.response.options[: len(answer.request.choices)])
