from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mccore.config import EvalConfig
from mccore.data.conversation import Conversation, Split, exchange
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.eval.chat import answer_freely, evaluate_chat
from mccore.eval.generated import TaskResult
from mccore.eval.runner import Runner
from mccore.eval.samples import sample_completions
from mccore.generate.engine import Engine
from mccore.model import GPT
from mccore.tasks.catalogue import free_tasks
from mccore.tasks.judges import judge_contained, judge_number
from mccore.tasks.task import FreeAnswers, GenerationRequest, Judgement, Response


class Given(FreeAnswers):
    """Judged by whether the reply holds the answer, or by its last number; the conversations of a test."""

    def __init__(self, name: str, conversations: list[Conversation]) -> None:
        self.name = name
        self._conversations = conversations

    def conversations(self, split: Split, *, seed: int = 0, limit: int | None = None) -> list[Conversation]:
        return self._conversations[:limit]

    def kind_of(self, conversation: Conversation) -> str:
        return conversation["id"].split("/")[1] if self.name == "needle" else ""

    def judge(self, request: GenerationRequest, response: Response) -> Judgement:
        return (judge_number if self.name == "arithmetic" else judge_contained)(request, response)


def evaluate_generated(runner: Runner, conversations: list[Conversation]) -> dict[str, TaskResult]:
    names = dict.fromkeys(one["task"] for one in conversations)
    tasks = [Given(name, [one for one in conversations if one["task"] == name]) for name in names]
    return {found.task: found for found in answer_freely(runner, tasks, len(conversations))}


def test_tasks_kinds_and_questions_too_long(
    random_gpt: Callable[..., GPT], byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(random_gpt(), byte_tokenizer)
    t = byte_tokenizer
    conversations = [
        exchange("needle", "needle/default/1", ("Which?", "It is 7."), subject="a", answer="7"),
        exchange("needle", "needle/planted/2", ("Which one?", "It is eight."), subject="b", answer="eight"),
        exchange("needle", "needle/planted/3", ("x" * 200, "It is 9."), subject="c", answer="9"),
        exchange("arithmetic", "arithmetic/test/0/1", ("2*3?", "2 * 3 = 6"), subject="d", answer="6"),
    ]
    # The rows of the batch by length of prompt: "2*3?", "Which?", "Which one?".
    replies = [
        [t.special("python_start"), *t.encode("2*3"), t.special("python_end"), 0, 0, 0, *t.encode("so 6")],
        t.encode("It is 7!"),
        t.encode("It is nine."),
    ]
    scripts = [[*reply, t.special("assistant_end")] for reply in replies]
    alive = list(range(3))

    def choose(logits: torch.Tensor, draws: list[float], *_: object) -> list[int]:
        alive[:] = [row for row in alive if scripts[row]]
        assert len(alive) == len(draws)
        return [scripts[row].pop(0) for row in alive]

    monkeypatch.setattr("mccore.generate.scheduler.choose", choose)
    found = evaluate_generated(Runner(engine, max_new_tokens=30), conversations)
    needle, arithmetic = found["needle"], found["arithmetic"]
    assert (needle.accuracy.n, needle.accuracy.accuracy, needle.skipped) == (2, 0.5, 1)
    assert {kind: one.accuracy for kind, one in needle.kinds.items()} == {"default": 1.0, "planted": 0.0}
    assert arithmetic.scores["tool"] == (1.0, None)
    assert arithmetic.kinds == {}
    assert arithmetic.answers[0].reply == "[2*3][6]so 6"
    record = needle.to_json(examples=1)
    assert record["scores"]["f1"]["mean"] == pytest.approx((1.0 + 2 * 2 / 6) / 2)
    assert [example["right"] for example in record["examples"]] == ["It is 7."]


def test_batch_size_changes_nothing(random_gpt: Callable[..., GPT], byte_tokenizer: Tokenizer) -> None:
    engine = Engine(random_gpt(), byte_tokenizer)
    conversations = [
        exchange("needle", f"needle/x/{i}", ("q" * (1 + 3 * i), "yes"), subject=str(i), answer="yes") for i in range(6)
    ]
    runs = [evaluate_generated(Runner(engine, rows, max_new_tokens=12), conversations) for rows in (1, 4, 32)]
    assert runs[0] == runs[1] == runs[2]
    assert any(answer.reply for answer in runs[0]["needle"].answers)


def test_from_sessions_come_the_same_answers_and_no_question_is_too_long(
    random_gpt: Callable[..., GPT], byte_tokenizer: Tokenizer
) -> None:
    from tests.generate.test_memory import context_model, new_session

    model = context_model(random_gpt(), budget=128)
    engine = Engine(model.gpt, byte_tokenizer)
    short = [
        exchange("needle", f"needle/a/{i}", (f"Where is {i}?", "here"), subject="s", answer="here") for i in range(4)
    ]
    long = exchange("needle", "needle/a/9", ("x" * 500, "here"), subject="s", answer="here")
    plain = evaluate_generated(Runner(engine, max_new_tokens=20), [*short, long])["needle"]
    in_sessions = Runner(engine, batch_rows=3, max_new_tokens=20, new_session=lambda: new_session(model))
    ours = evaluate_generated(in_sessions, [*short, long])["needle"]
    assert (plain.skipped, ours.skipped) == (1, 0)
    assert [answer.reply for answer in plain.answers] == [answer.reply for answer in ours.answers[:4]]
    assert len(ours.answers) == 5


def test_a_question_may_want_shorter_answers(random_gpt: Callable[..., GPT], byte_tokenizer: Tokenizer) -> None:
    made = [exchange("x", f"x/{i}", ("Which?", "yes"), subject="s", answer="yes") for i in range(2)]
    runner = Runner(Engine(random_gpt(), byte_tokenizer), max_new_tokens=12)
    free, short = runner.respond([GenerationRequest(made[0]), GenerationRequest(made[1], max_new_tokens=3)])
    assert free is not None
    assert short is not None
    assert 0 < len(short.prose) <= 3 < len(free.prose)  # tokens are bytes


def test_held_out_questions_leave_letters_to_multiple_choice() -> None:
    tasks = free_tasks()
    assert {task.name for task in tasks} == {"arithmetic", "needle", "spelling", "stdlib_qa"}
    chosen = [request for task in tasks for request in task.requests("test", limit=5)]
    assert len(chosen) == 20
    assert not [request.id for request in chosen if "/mc/" in request.id]


def test_the_chat_evaluation_as_a_whole(random_gpt: Callable[..., GPT], byte_tokenizer: Tokenizer) -> None:
    engine = Engine(random_gpt(max_seq_len=512), byte_tokenizer)
    config = EvalConfig(choice_questions=8, generated_questions=2, batch_rows=16)
    found = evaluate_chat(Runner(engine, 16, max_new_tokens=8), config)
    assert found["choice"]["n"] == found["choice"]["chosen_on"]["n"] == 8
    assert set(found["generated"]) == {"arithmetic", "needle", "spelling", "stdlib_qa"}
    # Standard errors only where answers differ: none for a model that gets everything wrong.
    assert {name for name in found["metrics"] if not name.endswith("_stderr")} == {
        "choice_accuracy",
        "generated_accuracy",
    }
    nothing = evaluate_chat(Runner(engine), EvalConfig(choice_questions=0, generated_questions=0))
    assert nothing == {"choice": None, "generated": {}, "metrics": {}}


def test_samples_repeat_by_seed_and_hold_whole_characters(
    random_gpt: Callable[..., GPT], byte_tokenizer: Tokenizer
) -> None:
    engine = Engine(random_gpt(), byte_tokenizer)
    first = sample_completions(engine, ["def ", "class Q"], 20, 1)
    assert [sample.prompt for sample in first] == ["def ", "class Q"]
    assert all(sample.text for sample in first)
    assert sample_completions(engine, ["def ", "class Q"], 20, 1) == first
    assert sample_completions(engine, ["def ", "class Q"], 20, 2) != first
