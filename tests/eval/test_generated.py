from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mccore.config import EvalConfig
from mccore.data.conversation import exchange
from mccore.data.tokenizer.reply import Piece
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.eval.chat import evaluate_chat, held_out_conversations
from mccore.eval.generated import evaluate_generated
from mccore.eval.samples import sample_completions
from mccore.generate.engine import Engine
from mccore.model import GPT
from mccore.tasks.judges import says, score_contained, score_number, score_spelling, token_f1


def text(said: str) -> list[Piece]:
    return [Piece("text", said)]


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
    sum_ = exchange("arithmetic", "a/1", ("12*3?", "12 * 3 = 36"), subject="s", answer="36")
    with_tool = [Piece("python", "12*3"), Piece("python_output", "36"), Piece("text", "12 * 3 = 36")]
    assert score_number(sum_, with_tool) == {"correct": 1.0, "tool": 1.0}
    assert score_number(sum_, text("36 is not 12")) == {"correct": 0.0, "tool": 0.0}
    assert score_number(sum_, text("no number")) == {"correct": 0.0, "tool": 0.0}
    big = exchange("arithmetic", "a/2", ("?", "1250"), subject="s", answer="1250")
    assert score_number(big, text("That is 1,250."))["correct"] == 1.0
    spelled = exchange("spelling", "s/1", ("Spell cat.", "c, a, t"), subject="cat", answer="c, a, t")
    assert score_spelling(spelled, text("C, A, T"))["correct"] == 1.0
    assert score_spelling(spelled, text("c, t, a"))["correct"] == 0.0
    assert score_spelling(spelled, text("cat"))["correct"] == 0.0
    counted = exchange("spelling", "s/2", ("How many?", "It appears twice."), subject="x", answer="2")
    for said, right in (("The letter t appears twice in kitten.", 1.0), ("2", 1.0), ("once", 0.0), ("3 times", 0.0)):
        assert score_spelling(counted, text(said))["correct"] == right
    module = exchange(
        "stdlib_qa", "q/module/x", ("?", "dedent is defined in the module textwrap."), subject="x", answer="textwrap"
    )
    assert score_contained(module, text("dedent is defined in the module textwrap")) == {
        "correct": 1.0,
        "exact": 1.0,
        "f1": 1.0,
    }
    wrong = score_contained(module, text("dedent is defined in the module re."))
    assert (wrong["correct"], wrong["exact"], wrong["f1"]) == (0.0, 0.0, pytest.approx(6 / 7))


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
    found = evaluate_generated(engine, conversations, max_new_tokens=30)
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
    runs = [evaluate_generated(engine, conversations, max_new_tokens=12, batch_rows=rows) for rows in (1, 4, 32)]
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
    plain = evaluate_generated(engine, [*short, long], max_new_tokens=20)["needle"]
    ours = evaluate_generated(
        engine, [*short, long], max_new_tokens=20, batch_rows=3, new_session=lambda: new_session(model)
    )["needle"]
    assert (plain.skipped, ours.skipped) == (1, 0)
    assert [answer.reply for answer in plain.answers] == [answer.reply for answer in ours.answers[:4]]
    assert len(ours.answers) == 5


def test_held_out_questions_leave_letters_to_multiple_choice() -> None:
    chosen = held_out_conversations(5)
    assert {conversation["task"] for conversation in chosen} == {"arithmetic", "needle", "spelling", "stdlib_qa"}
    assert len(chosen) == 20
    assert not [conversation["id"] for conversation in chosen if "/mc/" in conversation["id"]]
    assert held_out_conversations(0) == []


def test_the_chat_evaluation_as_a_whole(random_gpt: Callable[..., GPT], byte_tokenizer: Tokenizer) -> None:
    engine = Engine(random_gpt(max_seq_len=512), byte_tokenizer)
    config = EvalConfig(choice_questions=8, generated_questions=2, batch_rows=16)
    found = evaluate_chat(engine, config, max_new_tokens=8)
    assert found["choice"]["n"] == found["choice"]["chosen_on"]["n"] == 8
    assert set(found["generated"]) == {"arithmetic", "needle", "spelling", "stdlib_qa"}
    # Standard errors only where answers differ: none for a model that gets everything wrong.
    assert {name for name in found["metrics"] if not name.endswith("_stderr")} == {
        "choice_accuracy",
        "generated_accuracy",
    }
    nothing = evaluate_chat(engine, EvalConfig(choice_questions=0, generated_questions=0))
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
