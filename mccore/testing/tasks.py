"""The contract of tasks (`mccore.api.QuestionSource`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from mccore.api import Question, QuestionSource, TaskSpec
from mccore.testing.extensions import ExtensionSuite


class TaskSuite(ExtensionSuite):
    """Subclass it and override `extension`."""

    @pytest.fixture
    def task(self, tmp_path: Path) -> QuestionSource:
        """The task, built with `options`."""
        product = self.extension().build(self.options(), TaskSpec(tmp_path / "task"))
        assert isinstance(product, QuestionSource)
        return product

    @pytest.fixture
    def questions(self, task: QuestionSource) -> list[Question]:
        """Everything it asks."""
        return list(task.questions())

    def test_questions_are_questions(self, questions: list[Question]) -> None:
        for question in questions:
            assert isinstance(question, Question)
            texts = (question.id, question.text, question.answer, question.reply, question.kind, *question.choices)
            assert all(isinstance(text, str) for text in texts), f"{question.id!r}: every field is text"
            for name in ("id", "text", "answer"):
                assert getattr(question, name).strip(), f"{question!r} has an empty {name}"

    def test_there_are_enough_to_hold_some_out(self, questions: list[Question]) -> None:
        assert len({question.id for question in questions}) >= 3, "with fewer than 3 questions no split can be made"

    def test_ids_are_of_one_question_each(self, questions: list[Question]) -> None:
        ids = [question.id for question in questions]
        assert len(set(ids)) == len(ids), "two questions have one id"

    def test_all_have_choices_or_none(self, questions: list[Question]) -> None:
        assert len({bool(question.choices) for question in questions}) <= 1
        for question in questions:
            if question.choices:
                assert len(question.choices) <= 26, f"{question.id!r} has more choices than letters"
                assert question.choices.count(question.answer) == 1, f"{question.id!r}: one choice is the answer"

    def test_the_same_every_time(self, task: QuestionSource, questions: list[Question], tmp_path: Path) -> None:
        again = self.extension().build(self.options(), TaskSpec(tmp_path / "another"))
        assert list(task.questions()) == questions
        assert list(again.questions()) == questions

    def test_scores_lie_between_0_and_1(self, task: QuestionSource, questions: list[Question]) -> None:
        for question in [one for one in questions if not one.choices][:100]:
            said = ("", "\x1b[2J", "no idea " * 500, question.text, question.answer, question.reply)
            assert all(0 <= task.score(question, text) <= 1 for text in said), f"{question.id!r}"

    def test_the_reply_that_is_trained_on_is_right(self, task: QuestionSource, questions: list[Question]) -> None:
        for question in [one for one in questions if not one.choices][:100]:
            assert task.score(question, question.reply or question.answer) == 1, f"{question.id!r}"
