"""Tasks that are wrong in one way each, and healthy ones: see test_suites.py."""

from __future__ import annotations

from typing import Any, ClassVar

from mccore.api import Extension, Options, Question, TaskSpec
from mccore.testing import TaskSuite


class Sums:
    """A healthy task: sums, answered freely."""

    def __init__(self, options: Options, spec: TaskSpec) -> None:
        self.asked = 0

    def questions(self) -> Any:
        return [Question(f"{n}", f"What is {n} + 1?", str(n + 1)) for n in range(5)]

    def score(self, question: Question, said: str) -> float:
        return float(said == question.answer)


class ZooTask(TaskSuite):
    product: ClassVar[type]

    def extension(self) -> Extension[Any]:
        return Extension(build=self.product, summary="a task of the zoo")


class TestHealthyTask(ZooTask):
    product = Sums


class TestHealthyChoices(ZooTask):
    class product(Sums):
        def questions(self) -> Any:
            return [Question(f"{n}", f"{n} + 1?", str(n + 1), choices=(str(n), str(n + 1))) for n in range(5)]


class TestAsksPairs(ZooTask):
    """Gives pairs of text where questions are wanted."""

    caught_by = "test_questions_are_questions"

    class product(Sums):
        def questions(self) -> Any:
            return [("What is 1 + 1?", "2")] * 3


class TestAsksTwo(ZooTask):
    """Has too few questions for three splits."""

    caught_by = "test_there_are_enough_to_hold_some_out"

    class product(Sums):
        def questions(self) -> Any:
            return super().questions()[:2]


class TestOneIdForAll(ZooTask):
    """Names all its questions alike: what is trained on would be asked."""

    caught_by = "test_ids_are_of_one_question_each"

    class product(Sums):
        def questions(self) -> Any:
            return [Question("sum", one.text, one.answer) for one in super().questions()]


class TestAnswerIsNoChoice(ZooTask):
    """Leaves the right answer out of the choices."""

    caught_by = "test_all_have_choices_or_none"

    class product(Sums):
        def questions(self) -> Any:
            return [Question(one.id, one.text, one.answer, choices=("x", "y")) for one in super().questions()]


class TestDraws(ZooTask):
    """Asks something else every time: no two ranks would agree."""

    caught_by = "test_the_same_every_time"

    class product(Sums):
        def questions(self) -> Any:
            self.asked += 5
            return [Question(f"{n}", f"{n} + 1?", str(n + 1)) for n in range(self.asked, self.asked + 5)]


class TestCountsPoints(ZooTask):
    """Gives points instead of a share."""

    caught_by = "test_scores_lie_between_0_and_1"

    class product(Sums):
        def score(self, question: Question, said: str) -> float:
            return 10.0 * (said == question.answer)


class TestNeverRight(ZooTask):
    """Doesn't accept the reply that it trains on."""

    caught_by = "test_the_reply_that_is_trained_on_is_right"

    class product(Sums):
        def score(self, question: Question, said: str) -> float:
            return 0.0
