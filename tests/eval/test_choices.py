from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from mccore.data.tokenizer.chat_format import render_conversation, render_for_completion
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import DataError
from mccore.eval.choices import PHRASINGS, RULES, best_rule, evaluate_choices
from mccore.eval.likelihood import Continuation, Score, next_token_logits, score_continuations
from mccore.model import GPT
from mccore.tasks.catalogue import multiple_choice_questions, open_conversations
from mccore.tasks.task import MultipleChoice, render_multiple_choice


def question(i: int, kind: str = "describe", overlap: bool = False, answer: int = 0) -> MultipleChoice:
    choices = (f"Choice {i}.", "Short.", f"A somewhat longer choice {i * 7}.", "Return it.")
    return MultipleChoice(f"mc/{kind}/{i}", f"What does f{i} do?", choices, answer, f"m.f{i}", kind, overlap)


@pytest.fixture(scope="module")
def gpt(random_gpt: Callable[..., GPT]) -> GPT:
    return random_gpt(2, max_seq_len=400)


def test_scores_are_the_models_own_likelihoods(gpt: GPT) -> None:
    items = [Continuation([256, 65, 66], [67, 68]), Continuation([256], [70]), Continuation(list(range(50)), [1, 2, 3])]
    with torch.no_grad():
        for item, score in zip(items, score_continuations(gpt, items), strict=True):
            ids = [*item.context, *item.tokens]
            logprobs = gpt(torch.tensor([ids[:-1]]))[0].log_softmax(-1)[len(item.context) - 1 :]
            wanted = sum(float(logprobs[i, token]) for i, token in enumerate(item.tokens))
            assert score.logprob == pytest.approx(wanted, abs=1e-4)
            assert score.greedy == (logprobs.argmax(-1).tolist() == list(item.tokens))


def test_a_greedy_continuation_is_recognised(gpt: GPT) -> None:
    ids = [256, 65, 66]
    with torch.no_grad():
        for _ in range(3):
            ids.append(int(gpt(torch.tensor([ids]))[0, -1].argmax()))
    right, wrong = Continuation(ids[:3], ids[3:]), Continuation(ids[:3], [*ids[3:5], (ids[5] + 1) % 256])
    assert [score.greedy for score in score_continuations(gpt, [right, wrong])] == [True, False]


def test_batch_size_and_chunks_change_nothing(gpt: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [Continuation([256, *range(i)], [i, i + 1][: 1 + i % 2]) for i in range(11)]
    one_by_one = score_continuations(gpt, items, batch_rows=1)
    for rows in (2, 3, 32):
        for a, b in zip(score_continuations(gpt, items, batch_rows=rows), one_by_one, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
    monkeypatch.setattr("mccore.eval.likelihood._LOGIT_ELEMENTS", 265 * 3)
    assert [s.greedy for s in score_continuations(gpt, items)] == [s.greedy for s in one_by_one]
    contexts = [item.context for item in items]
    assert torch.allclose(
        next_token_logits(gpt, contexts, batch_rows=1), next_token_logits(gpt, contexts, batch_rows=4), atol=1e-4
    )


def test_a_context_too_long_keeps_its_first_token_and_its_end(gpt: GPT) -> None:
    long = Continuation([256, *[65] * 500, 66], [67])
    cut = Continuation([256, *[65] * 398, 66], [67])
    found, same = score_continuations(gpt, [long, cut])
    assert found.cropped == 102
    assert found.logprob == pytest.approx(same.logprob, abs=1e-4)
    with pytest.raises(ValueError, match="doesn't fit"):
        score_continuations(gpt, [Continuation([1], [2] * 401)])
    with pytest.raises(ValueError, match="at least one token"):
        score_continuations(gpt, [Continuation([], [2])])


def test_rules_by_hand(gpt: GPT, byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices of 1, 4 and 8 bytes (2, 5 and 9 tokens with the end) given likelihoods on which the rules disagree."""
    asked = MultipleChoice("q", "Which?", ("a", "bbbb", "c" * 8, "dd"), 2, "s", "other", False)
    logprobs = {"a": (-4.0, -9.0), "bbbb": (-6.0, -6.0), "c" * 8: (-10.0, -20.0), "dd": (-99.0, -99.0)}

    def scores(model: GPT, items: list[Continuation], *, batch_rows: int) -> list[Score]:
        found = []
        for item in items:
            text = byte_tokenizer.decode(item.tokens[:-1])
            assert item.tokens[-1] == byte_tokenizer.special("assistant_end")
            neutral = "Answer the question." in byte_tokenizer.decode(item.context)
            found.append(Score(logprobs[text][neutral], False, 0))
        return found

    monkeypatch.setattr("mccore.eval.choices.score_continuations", scores)
    result = evaluate_choices(gpt, byte_tokenizer, [asked])
    # sum -4 -6 -10; per token -2 -1.2 -1.11; per byte -4 -1.5 -1.25; calibrated +5 0 +10
    assert result.answers[0].picks == {"sum": 0, "token": 2, "byte": 2, "calibrated": 2}
    assert [result.rules[rule].accuracy for rule in RULES] == [0.0, 1.0, 1.0, 1.0]
    assert best_rule(result) == "token"
    logprobs["c" * 8] = (-12.0, -20.0)  # per token -1.33, per byte -1.5: a tie, which goes to the first
    assert evaluate_choices(gpt, byte_tokenizer, [asked]).answers[0].picks == {
        "sum": 0, "token": 1, "byte": 1, "calibrated": 2,
    }  # fmt: skip


def test_breakdowns_count_right(gpt: GPT, byte_tokenizer: Tokenizer) -> None:
    questions = [
        question(i, ("describe", "name", "module")[i % 3], overlap=i % 2 == 0, answer=i % 4) for i in range(12)
    ]
    result = evaluate_choices(gpt, byte_tokenizer, questions, rule="sum")
    right = [answer.picks["sum"] == answer.question.answer for answer in result.answers]
    assert result.overall.accuracy == pytest.approx(sum(right) / 12)
    assert result.overall.chance == 0.25
    assert result.overall.z == pytest.approx((sum(right) / 12 - 0.25) / math.sqrt(0.25 * 0.75 / 12))
    assert {kind: one.n for kind, one in result.kinds.items()} == {"describe": 4, "module": 4, "name": 4}
    assert result.kinds["name"].accuracy == pytest.approx(sum(right[1::3]) / 4)
    assert result.with_overlap.accuracy == pytest.approx(sum(right[::2]) / 6)
    assert result.without_overlap.accuracy == pytest.approx(sum(right[1::2]) / 6)
    for rows in (1, 5):
        again = evaluate_choices(gpt, byte_tokenizer, questions, rule="sum", batch_rows=rows)
        assert [a.picks for a in again.answers] == [a.picks for a in result.answers]
        assert again.letters == result.letters
    record = result.to_json(examples=2)
    assert (record["rule"], record["n"], len(record["examples"])) == ("sum", 12, 2)
    assert set(record["rules"]) == set(RULES)


def test_letters_are_read_where_the_answer_would_be(gpt: GPT, byte_tokenizer: Tokenizer) -> None:
    asked = question(1)
    ids = render_for_completion(byte_tokenizer, [{"role": "user", "content": render_multiple_choice(asked)}])
    with torch.no_grad():
        logits = gpt(torch.tensor([ids]))[0, -1]
    expected = int(logits[[ord(letter) for letter in "ABCD"]].argmax())
    assert evaluate_choices(gpt, byte_tokenizer, [asked]).answers[0].letter == expected


def test_choices_are_worded_as_the_replies_in_training(byte_tokenizer: Tokenizer) -> None:
    """A right choice, said as PHRASINGS has it, is the very reply that training conversations of its kind have."""
    replies = {c["id"]: c["messages"][-1]["content"] for c in open_conversations("stdlib_qa", "test")}
    checked = set()
    for asked in multiple_choice_questions("test"):
        last = asked.subject.rpartition(".")[2]
        said = PHRASINGS[asked.kind].reply.format(choice=asked.choices[asked.answer], last=last)
        assert replies[f"stdlib_qa/{asked.kind}/{asked.subject}"] == said
        checked.add(asked.kind)
    assert checked == set(PHRASINGS)
    turn = render_for_completion(byte_tokenizer, [{"role": "user", "content": "q"}])
    whole = render_conversation(
        byte_tokenizer, [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    )
    assert whole.ids == [*turn, ord("a"), byte_tokenizer.special("assistant_end")]


def test_no_questions_and_unknown_rules(gpt: GPT, byte_tokenizer: Tokenizer) -> None:
    empty = evaluate_choices(gpt, byte_tokenizer, [])
    assert (empty.overall.n, empty.overall.accuracy, empty.letters.accuracy) == (0, None, None)
    with pytest.raises(DataError, match="unknown scoring rule 'mode'"):
        evaluate_choices(gpt, byte_tokenizer, [], rule="mode")  # type: ignore[arg-type]
