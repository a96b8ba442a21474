from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from mccore.data.conversation import Split
from mccore.data.tokenizer.chat_format import render_conversation, render_for_completion
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import DataError
from mccore.eval.chat import answer_choices
from mccore.eval.choices import ChoiceResult, best_rule, summarise_choices
from mccore.eval.likelihood import Continuation, score_continuations
from mccore.eval.runner import Runner, judge_all
from mccore.generate.engine import Engine
from mccore.model import GPT
from mccore.tasks.catalogue import open_conversations
from mccore.tasks.choice import RULES, ChoiceTask, MultipleChoice, Rule, render_multiple_choice
from mccore.tasks.stdlib.choice import PHRASINGS, StdlibChoice
from mccore.tasks.task import LikelihoodRequest, Option, OptionScore, Response


def question(i: int, kind: str = "describe", overlap: bool = False, answer: int = 0) -> MultipleChoice:
    choices = (f"Choice {i}.", "Short.", f"A somewhat longer choice {i * 7}.", "Return it.")
    return MultipleChoice(f"mc/{kind}/{i}", f"What does f{i} do?", choices, answer, f"m.f{i}", kind, overlap)


class Given(ChoiceTask):
    """Multiple choice with the questions of a test."""

    name = "given"

    def __init__(self, questions: Sequence[MultipleChoice], rule: Rule = "calibrated") -> None:
        super().__init__(rule)
        self._questions = questions

    def questions(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[MultipleChoice]:
        return self._questions


def evaluate_choices(
    model: GPT,
    tokenizer: Tokenizer,
    questions: list[MultipleChoice],
    *,
    rule: Rule = "calibrated",
    batch_rows: int = 32,
) -> ChoiceResult:
    task = Given(questions, rule)
    requests = task.requests("test")
    responses = Runner(Engine(model, tokenizer), batch_rows=batch_rows).respond(requests)
    return summarise_choices(judge_all(task, requests, responses), rule)


def picks(result: ChoiceResult) -> list[dict[str, int]]:
    task = Given([])
    return [
        task.picks(answer.request, answer.response)
        for answer in result.answers
        if isinstance(answer.request, LikelihoodRequest) and answer.response is not None
    ]


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


def test_items_that_differ_in_their_last_token_are_read_once(gpt: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    context = [256, 65, 66]
    letters = [Continuation(context, [letter]) for letter in (65, 66, 67)]
    alone = [score_continuations(gpt, [item])[0] for item in letters]
    rows = []
    hidden = gpt.hidden

    def counted(ids: torch.Tensor) -> torch.Tensor:
        rows.append(len(ids))
        return hidden(ids)

    monkeypatch.setattr(gpt, "hidden", counted)
    # The same item twice, and one whose reply begins where the letters' context ends: all read the same three tokens.
    together = score_continuations(gpt, [*letters, letters[0], Continuation(context[:2], [66, 70])])
    assert rows == [1]
    assert [one.logprob for one in together[:4]] == pytest.approx([one.logprob for one in [*alone, alone[0]]], abs=1e-5)
    assert [one.tokens for one in together] == [1, 1, 1, 1, 2]


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

    def scores(model: GPT, items: list[Continuation], *, batch_rows: int) -> list[OptionScore]:
        found = []
        for item in items:
            if len(item.tokens) == 1:  # a letter
                found.append(OptionScore(-float(item.tokens[0]), 1))
                continue
            text = byte_tokenizer.decode(item.tokens[:-1])
            assert item.tokens[-1] == byte_tokenizer.special("assistant_end")
            neutral = "Answer the question." in byte_tokenizer.decode(item.context)
            found.append(OptionScore(logprobs[text][neutral], len(item.tokens)))
        return found

    monkeypatch.setattr("mccore.eval.runner.score_continuations", scores)
    result = evaluate_choices(gpt, byte_tokenizer, [asked])
    # sum -4 -6 -10; per token -2 -1.2 -1.11; per byte -4 -1.5 -1.25; calibrated +5 0 +10
    assert picks(result) == [{"sum": 0, "token": 2, "byte": 2, "calibrated": 2, "letter": 0}]
    assert [answer.judgement.said for answer in result.answers if answer.judgement] == ["c" * 8]
    assert [result.rules[rule].accuracy for rule in RULES] == [0.0, 1.0, 1.0, 1.0]
    assert best_rule(result) == "token"
    logprobs["c" * 8] = (-12.0, -20.0)  # per token -1.33, per byte -1.5: a tie, which goes to the first
    tied = {"sum": 0, "token": 1, "byte": 1, "calibrated": 2, "letter": 0}
    assert picks(evaluate_choices(gpt, byte_tokenizer, [asked])) == [tied]


def test_breakdowns_count_right(gpt: GPT, byte_tokenizer: Tokenizer) -> None:
    questions = [
        question(i, ("describe", "name", "module")[i % 3], overlap=i % 2 == 0, answer=i % 4) for i in range(12)
    ]
    result = evaluate_choices(gpt, byte_tokenizer, questions, rule="sum")
    right = [pick["sum"] == asked.answer for pick, asked in zip(picks(result), questions, strict=True)]
    assert result.overall.accuracy == pytest.approx(sum(right) / 12)
    assert result.overall.chance == 0.25
    assert result.overall.z == pytest.approx((sum(right) / 12 - 0.25) / math.sqrt(0.25 * 0.75 / 12))
    assert {kind: one.n for kind, one in result.kinds.items()} == {"describe": 4, "module": 4, "name": 4}
    assert result.kinds["name"].accuracy == pytest.approx(sum(right[1::3]) / 4)
    assert result.with_overlap.accuracy == pytest.approx(sum(right[::2]) / 6)
    assert result.without_overlap.accuracy == pytest.approx(sum(right[1::2]) / 6)
    for rows in (1, 5):
        again = evaluate_choices(gpt, byte_tokenizer, questions, rule="sum", batch_rows=rows)
        assert picks(again) == picks(result)
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
    assert picks(evaluate_choices(gpt, byte_tokenizer, [asked]))[0]["letter"] == expected


def test_choices_are_worded_as_the_replies_in_training(byte_tokenizer: Tokenizer) -> None:
    """A right choice, said as PHRASINGS has it, is the very reply that training conversations of its kind have."""
    replies = {c["id"]: c["messages"][-1]["content"] for c in open_conversations("stdlib_qa", "test")}
    checked = set()
    for asked in StdlibChoice().questions("test"):
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
        Given([], rule="mode")  # type: ignore[arg-type]


def test_the_rule_is_chosen_on_validation_questions(
    gpt: GPT, byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only `byte` gets the validation questions right, so the test questions, of another right answer, go by it."""

    def said(task: ChoiceTask, request: LikelihoodRequest, response: Response) -> dict[str, int]:
        wrong = (request.right + 1) % 4
        return {rule: request.right if rule == "byte" else wrong for rule in [*RULES, "letter"]}

    monkeypatch.setattr(ChoiceTask, "picks", said)
    result, tuning = answer_choices(Runner(Engine(gpt, byte_tokenizer)), StdlibChoice(), 4)
    assert (tuning.rule, tuning.overall.accuracy) == ("calibrated", 0.0)
    assert (result.rule, result.overall.accuracy) == ("byte", 1.0)
    assert {answer.request.id for answer in result.answers}.isdisjoint(one.request.id for one in tuning.answers)


def test_a_text_goes_on_where_its_prompt_ends(gpt: GPT, byte_tokenizer: Tokenizer) -> None:
    """Options without messages are plain text behind <|bos|>; what isn't a prefix of the prompt alone belongs to the reply."""
    request = LikelihoodRequest("t", (Option("The cat", " sat"), Option("A dog", " sat")), right=0)
    [response] = Runner(Engine(gpt, byte_tokenizer)).respond([request])
    ids = [[byte_tokenizer.bos_id, *byte_tokenizer.encode(text)] for text in ("The cat sat", "A dog sat")]
    expected = score_continuations(gpt, [Continuation(one[:-4], one[-4:]) for one in ids])
    assert response is not None
    assert response.options == tuple(expected)
