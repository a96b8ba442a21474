"""How free answers are judged."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mccore.data.conversation import Conversation, exchange
from mccore.data.tokenizer.reply import Piece
from mccore.tasks.catalogue import open_task
from mccore.tasks.judges import says, token_f1
from mccore.tasks.task import AnyTask, GenerationRequest, Response


def text(said: str) -> list[Piece]:
    return [Piece("text", said)]


def scores(task: AnyTask, conversation: Conversation, parts: list[Piece]) -> Mapping[str, float]:
    return task.judge(GenerationRequest(conversation), Response(parts=tuple(parts))).scores


def test_token_f1_by_hand() -> None:
    assert token_f1("Return a copy.", "return a copy") == 1.0
    assert token_f1("a a b", "a b c d") == pytest.approx(2 * 2 / 7)
    assert token_f1("", "a") == token_f1("x", "y") == 0.0


@pytest.mark.parametrize(
    ("said", "answer", "expected"),
    [
        ("The default value of x is None.", "None", True),
        ("It is Nonesuch.", "None", False),
        ("That is os.path.join.", "os.path.join", True),
        ("That is os.path.join.", "os.path", False),
        ("That is my.os.path.", "os.path", False),
        ("defined in the module re.", "re", True),
        ("It is 'utf-8'.", "'utf-8'", True),
        ("It is -5.", "5", True),
        ("It is 15.", "5", False),
        ("Return   a\ncopy.", "Return a copy.", True),
        ("anything", "", False),
    ],
)
def test_whole_words_are_looked_for(said: str, answer: str, expected: bool) -> None:
    assert says(said, answer) is expected


def test_scores_of_each_task() -> None:
    arithmetic, spelling, qa = (open_task(name) for name in ("arithmetic", "spelling", "stdlib_qa"))
    sum_ = exchange("arithmetic", "a/1", ("12*3?", "12 * 3 = 36"), subject="s", answer="36")
    with_tool = [Piece("python", "12*3"), Piece("python_output", "36"), Piece("text", "12 * 3 = 36")]
    assert scores(arithmetic, sum_, with_tool) == {"correct": 1.0, "tool": 1.0}
    assert scores(arithmetic, sum_, text("36 is not 12")) == {"correct": 0.0, "tool": 0.0}
    assert scores(arithmetic, sum_, text("no number")) == {"correct": 0.0, "tool": 0.0}
    big = exchange("arithmetic", "a/2", ("?", "1250"), subject="s", answer="1250")
    assert scores(arithmetic, big, text("That is 1,250."))["correct"] == 1.0
    spelled = exchange("spelling", "s/1", ("Spell cat.", "c, a, t"), subject="cat", answer="c, a, t")
    assert scores(spelling, spelled, text("C, A, T"))["correct"] == 1.0
    assert scores(spelling, spelled, text("c, t, a"))["correct"] == 0.0
    assert scores(spelling, spelled, text("cat"))["correct"] == 0.0
    counted = exchange("spelling", "s/2", ("How many?", "It appears twice."), subject="x", answer="2")
    for said, right in (("The letter t appears twice in kitten.", 1.0), ("2", 1.0), ("once", 0.0), ("3 times", 0.0)):
        assert scores(spelling, counted, text(said))["correct"] == right
    module = exchange(
        "stdlib_qa", "q/module/x", ("?", "dedent is defined in the module textwrap."), subject="x", answer="textwrap"
    )
    assert scores(qa, module, text("dedent is defined in the module textwrap")) == {
        "correct": 1.0,
        "exact": 1.0,
        "f1": 1.0,
    }
    wrong = scores(qa, module, text("dedent is defined in the module re."))
    assert (wrong["correct"], wrong["exact"], wrong["f1"]) == (0.0, 0.0, pytest.approx(6 / 7))
