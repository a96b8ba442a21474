"""Benchmarks of the hub as tasks: their rows become conversations and questions, and answers are judged."""

from __future__ import annotations

import pytest

from mccore.data.tokenizer.reply import Piece
from mccore.errors import DataError
from mccore.stages.preflight import check_sources
from mccore.tasks.benchmarks.free import final_answer, worked
from mccore.tasks.benchmarks.humaneval import code_of, imports_of
from mccore.tasks.catalogue import check_source, mix_conversations, open_conversations, open_task
from mccore.tasks.task import OptionScore, Response
from tests.support.benchmarks import WORKED, add_benchmarks, mmlu
from tests.support.hub import Fault, hub, parquet

__all__ = ["hub"]

HUB_TASKS = ("arc_challenge", "arc_easy", "gsm8k", "humaneval", "mmlu", "smoltalk")


@pytest.fixture(autouse=True)
def benchmarks(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path / "base"))
    # Reading all of the standard library takes longer than these tests together; tests/tasks/test_catalogue.py does it.
    monkeypatch.setattr("mccore.tasks.benchmarks.words.words", lambda split: (f"apple{split}", f"banana{split}"))
    add_benchmarks(hub)
    return hub


def said(text: str) -> Response:
    return Response(parts=(Piece("text", text),))


def chosen(index: int, of: int) -> Response:
    return Response(options=tuple(OptionScore(0.0 if i == index else -1.0, 1) for i in range(of)))


@pytest.mark.parametrize("name", HUB_TASKS)
def test_questions_come_in_an_order_that_the_seed_fixes(name):
    requests = open_task(name).requests("test", seed=3)
    assert requests == open_task(name).requests("test", seed=3)
    assert sorted(request.id for request in requests) == sorted(
        request.id for request in open_task(name).requests("test")
    )
    assert len(open_task(name).requests("test", limit=2)) == 2
    assert len({request.id for request in requests}) == len(requests)


@pytest.mark.parametrize("name", [name for name in HUB_TASKS if name != "humaneval"])
def test_splits_have_nothing_in_common(name):
    splits = {
        split: {repr(one["messages"]) for one in open_conversations(name, split)} for split in ("train", "val", "test")
    }
    assert all(splits.values())
    assert sum(map(len, splits.values())) == len(set.union(*splits.values()))


def test_a_letter_is_the_answer():
    (request, *_) = [one for one in open_task("arc_easy").requests("test") if one.asked == "Which is test 2?"]
    task = open_task("arc_easy")
    assert [option.reply for option in request.options] == ["1", "2", "3", "4"]
    assert request.options[0].prompt[0]["content"] == (
        "Multiple Choice question: Which is test 2?\n- test choice 2.0=1\n- test choice 2.1=2\n- test choice 2.2=3\n"
        "- test choice 2.3=4\n\nRespond only with the letter of the correct answer."
    )
    assert task.judge(request, chosen(2, 4)).reward == 1
    assert task.judge(request, chosen(0, 4)).reward == 0
    assert task.judge(request, chosen(0, 4)).said == "1"
    three = next(one for one in task.requests("test") if one.asked == "Which is test 1?")
    assert (len(three.options), three.right) == (3, 1)


def test_mmlu_trains_on_its_auxiliary_questions_and_is_asked_by_subject():
    assert all("auxiliary_train" in one["messages"][0]["content"] for one in open_conversations("mmlu", "train"))
    assert {request.kind for request in open_task("mmlu").requests("test")} == {"anatomy"}
    example = next(one for one in open_conversations("mmlu", "test") if "test 6?" in one["messages"][0]["content"])
    assert example["messages"][1]["content"] == "C"


def test_gsm8k_uses_the_calculator():
    (shown,) = [one for one in open_conversations("gsm8k", "test") if "Weng" in one["messages"][0]["content"]]
    parts = shown["messages"][1]["content"]
    assert [part["text"] for part in parts if part["type"] == "python"] == ["12/60", "0.2*50"]
    assert [part["text"] for part in parts if part["type"] == "python_output"] == ["0.2", "10"]
    assert "".join(part["text"] for part in parts if part["type"] == "text").endswith(
        "she earned 0.2 x 50 = $10.\n#### 10"
    )
    assert shown["answer"] == "10"


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("#### 1,005", True),
        ("It is\n#### 1005 boxes", True),
        ("#### 1005.", False),
        ("1005", False),
        ("#### 5\n#### 1005", False),
    ],
)
def test_the_number_after_the_marks_counts(reply, right):
    task = open_task("gsm8k")
    request = next(one for one in task.requests("test") if one.asked == "test 5 boxes?")
    assert task.judge(request, said(reply)).reward == right


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("no call", [("text", "no call")]),
        ("<<3/4=3/4>>", [("python", "3/4"), ("python_output", "3/4")]),
        ("<<5>>x", [("python", "5"), ("python_output", ""), ("text", "x")]),
        ("a<<1=2=3>>", [("text", "a"), ("python", "1=2"), ("python_output", "3")]),
    ],
)
def test_calls_in_a_solution(text, parts):
    assert [(part["type"], part["text"]) for part in worked(text)] == parts


def test_the_final_answer():
    assert final_answer(WORKED) == "10"
    assert final_answer("#### -1,250.5") == "-1250.5"
    assert final_answer("####5") is None


def test_humaneval_runs_the_tests():
    task = open_task("humaneval")
    requests = {request.conversation["subject"]: request for request in task.requests("test")}
    total, double = requests["HumanEval/0"], requests["HumanEval/1"]
    assert task.judge(total, said("def total(numbers: List[int]):\n    return sum(numbers)")).reward == 1, (
        "imports are put back"
    )
    wrong = task.judge(total, said("```python\ndef total(numbers):\n    return 3\n```\nThat is it."))
    assert wrong.reward == 0
    assert "AssertionError" in wrong.said
    assert open_task("humaneval").judge(double, said("def double(x):\n  return x + x")).reward == 1
    assert task.judge(double, said("I don't know.")).reward == 0
    with pytest.raises(DataError, match="no train split"):
        task.conversations("train")


@pytest.mark.parametrize("name", ["humaneval", "spelling_bee", "gsm8k", "simple_spelling"])
def test_right_answers_are_judged_right(name):
    task = open_task(name)
    for request in task.requests("test", limit=4):
        assert task.judge(request, said(request.right_reply)).reward == 1, request.right_reply


def test_code_in_a_reply():
    assert code_of("Sure:\n```python\nx = 1\n```\nand\n```\ny\n```") == "x = 1"
    assert code_of("  x = 1\n") == "x = 1"
    assert imports_of("# why\nimport re\nfrom a import b\n\ndef f(): ...\nimport late") == "import re\nfrom a import b"


def test_letters_are_counted_by_hand_and_with_python():
    for one in open_conversations("spelling_bee", "train", limit=40):
        by_hand, call, output, final = one["messages"][1]["content"]
        assert call["text"] == f"'{one['subject']}'.count('{call['text'][-3]}')"
        assert eval(call["text"]) == int(output["text"]) == int(one["answer"]) == by_hand["text"].count(" hit! count=")
        assert final["text"].endswith(f"#### {one['answer']}")


def test_a_mixture_of_all(hub):
    mixture = {"smoltalk": 20, "mmlu": 5, "gsm8k": 5, "spelling_bee": 3, "arc_easy": 3, "identity": 4}
    mixed = mix_conversations(mixture, "train", seed=1)
    assert len(mixed) == 40
    assert {one["task"] for one in mixed} == set(mixture)


def test_what_isnt_there_is_told_before_hours_are_spent(hub, make_run_config):
    hub.fail("api/openai/gsm8k", *[Fault(status=500)] * 9)
    with pytest.raises(DataError, match="answers 500"):
        check_sources(make_run_config({"gsm8k": 5}))
    hub.add("cais/mmlu", {"all/test-0.parquet": mmlu("test", 3)})
    with pytest.raises(DataError, match=r"cais/mmlu has no file all/auxiliary_train-\*\.parquet"):
        check_source("mmlu")
    check_source("arc_easy")
    assert hub.sent == []


@pytest.fixture
def make_run_config():
    from mccore.config import ChatTrainConfig, RunConfig

    return lambda mixture: RunConfig(stages=("sft",), sft=ChatTrainConfig(mixture=mixture))


def test_a_data_set_that_has_changed_its_form(hub):
    hub.add("openai/gsm8k", {"main/test-0.parquet": parquet(question=["a"], answer=["no mark"])})
    with pytest.raises(DataError, match=r"main/test-0\.parquet:0: it isn't a row of gsm8k"):
        open_task("gsm8k").requests("test")
    hub.add("allenai/ai2_arc", {"ARC-Easy/test-0.parquet": parquet(question=["a"], answerKey=["A"])})
    with pytest.raises(DataError, match="it isn't a question of arc_easy"):
        open_task("arc_easy").requests("test")


def test_fetching_and_what_identifies_a_task(hub):
    seen = []
    task = open_task("gsm8k")
    task.fetch(lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0
    sent = len(hub.sent)
    assert len(task.conversations("train")) + len(task.conversations("val")) == 12
    assert len(hub.sent) == sent
    assert task.fingerprint()["repository"] == "openai/gsm8k"
    assert open_task("spelling_bee").fingerprint() is None
