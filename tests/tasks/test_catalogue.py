"""Conversations: held out by subject, true by construction, and multiple choice without a way to guess."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mccore.data.conversation import Conversation, split_of, validate_conversation
from mccore.data.corpora.stdlib.api import api_modules
from mccore.data.corpora.stdlib.sources import group_of, in_stdlib_val
from mccore.data.tokenizer.reply import Piece
from mccore.errors import DataError
from mccore.tasks import catalogue
from mccore.tasks.catalogue import embedded_names, mix_conversations, open_conversations, open_task
from mccore.tasks.choice import MultipleChoice, render_multiple_choice
from mccore.tasks.stdlib.arithmetic import evaluate
from mccore.tasks.stdlib.choice import StdlibChoice
from mccore.tasks.stdlib.needle import MAX_PASTE, facts
from mccore.tasks.stdlib.subjects import lexical_overlap, subjects
from mccore.tasks.task import GenerationRequest, LikelihoodRequest, OptionScore, Response

SPLITS = ("train", "val", "test")
QUESTION, REPLY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


@cache
def made(name: str, split: Any, seed: int = 0) -> Sequence[Conversation]:
    """What `open_conversations` makes, once for all tests that look at it."""
    return open_conversations(name, split, seed=seed)


def _replies(conversation: Conversation) -> list[Any]:
    return [message["content"] for message in conversation["messages"] if message["role"] == "assistant"]


def _parts(conversation: Conversation) -> dict[str, str]:
    return {part["type"]: part["text"] for part in _replies(conversation)[-1]}


def _question(conversation: Conversation) -> str:
    content = conversation["messages"][0]["content"]
    assert isinstance(content, str)
    return content


# --- Every source -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", embedded_names())
@pytest.mark.parametrize("split", SPLITS)
def test_conversations_are_valid_distinct_and_deterministic(name: str, split: Any) -> None:
    here = made(name, split, 0)
    assert len(here) >= 50
    ids = [conversation["id"] for conversation in here]
    assert len(set(ids)) == len(ids)
    for conversation in here:
        checked = validate_conversation(conversation, where="test", task=name, id="")
        assert checked["messages"] == conversation["messages"]
        assert conversation["task"] == name
    assert list(open_conversations(name, split, seed=0)) == list(here)
    assert list(made(name, split, 1)) != list(here)
    assert list(open_conversations(name, split, seed=0, limit=7)) == list(here)[:7]


@pytest.mark.parametrize("name", embedded_names())
def test_no_subject_is_in_two_splits_whatever_the_seed(name: str) -> None:
    found = {
        split: {conversation["subject"] for seed in (0, 1) for conversation in made(name, split, seed)}
        for split in SPLITS
    }
    for one, other in combinations(SPLITS, 2):
        assert not found[one] & found[other]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: open_conversations("chitchat", "train"), "unknown conversations 'chitchat'"),
        (lambda: open_conversations("needle", "dev"), "unknown split 'dev'"),  # type: ignore[arg-type]
        (lambda: open_conversations("needle", "train", limit=0), "a limit of 0"),
        (lambda: open_conversations("jsonl:", "train"), "name no path"),
        (lambda: open_conversations("jsonl:/nowhere.jsonl", "train"), "doesn't exist"),
        (lambda: mix_conversations({}, "train"), "mixture of conversations is empty"),
        (lambda: mix_conversations({"needle": -1}, "train"), "the share -1"),
        (lambda: mix_conversations({"needle": 0.5}, "train"), "nothing to share"),
        (lambda: mix_conversations({"needle": 5, "spelling": 0.5}, "train", total=4), "nothing to share"),
    ],
)
def test_bad_requests_are_named(call: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        call()
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", embedded_names())
def test_a_task_finds_its_own_right_answers_right(name: str) -> None:
    """What a mixture trains on is what the judge wants: a model that has learned it all gets every reward."""
    task = open_task(name)
    requests = task.requests("test", seed=3, limit=60)
    assert len(requests) == 60
    for request in requests:
        if isinstance(request, GenerationRequest):
            content = request.conversation["messages"][-1]["content"]
            parts = [Piece("text", content)] if isinstance(content, str) else [Piece(**part) for part in content]
            response, wrong = Response(parts=tuple(parts)), Response(parts=(Piece("text", "I can't say."),))
            assert request.right_reply in task.judge(request, response).said
        else:
            response, wrong = _sure(request, request.right), _sure(request, (request.right + 1) % 4)
            assert task.judge(request, response).said == request.right_reply
        assert task.judge(request, response).reward == 1.0
        assert task.judge(request, wrong).reward == 0.0


def _sure(request: LikelihoodRequest, choice: int) -> Response:
    """From a model that finds one choice likely, said or lettered, and has no opinion on neutral replies."""
    n = len(request.choices)
    return Response(tuple(OptionScore(-1.0 if i % n == choice and i // n != 1 else -9.0, 3) for i in range(3 * n)))


def test_conversations_of_a_file_are_a_task_too(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps([{**QUESTION, "content": f"{i}?"}, REPLY]) + "\n" for i in range(40)))
    task = open_task(f"jsonl:{path}")
    [request] = task.requests("test", limit=1)
    assert request.right_reply == request.answer == "Hello"
    assert task.judge(request, Response(parts=(Piece("text", "Well, Hello!"),))).reward == 1.0
    assert task.judge(request, Response(parts=(Piece("text", "Bye"),))).reward == 0.0


# --- stdlib_qa --------------------------------------------------------------------------------------------------------


def test_qa_says_what_the_docstrings_say() -> None:
    objects = {found.name: found for module in api_modules() for found in module.objects}
    checked: Counter[str] = Counter()
    for conversation in made("stdlib_qa", "train"):
        kind = conversation["id"].split("/")[1]
        subject = objects[conversation["subject"]]
        replies = _replies(conversation)
        if kind == "describe":
            assert replies == [subject.summary]
            assert subject.name in _question(conversation)
        elif kind == "name":
            assert subject.summary in _question(conversation)
            assert replies == [f"That is {subject.name}."]
        elif kind in ("module", "then_module"):
            assert replies[-1] == f"{subject.qualname} is defined in the module {subject.module}."
        elif kind in ("call", "then_call"):
            assert replies[-1] == subject.name + subject.signature
        assert conversation["answer"] in replies[-1]
        checked[kind] += 1
    assert set(checked) == {"describe", "name", "module", "then_module", "call", "then_call", "mc"}


def test_qa_asks_the_same_object_in_several_ways() -> None:
    asked = {
        _question(conversation)
        for seed in range(3)
        for conversation in made("stdlib_qa", "train", seed)
        if conversation["id"].endswith("/describe/textwrap.dedent") and "/mc/" not in conversation["id"]
    }
    assert len(asked) >= 2


def test_no_held_out_description_or_name_is_in_training_conversations() -> None:
    trained = set()
    for conversation in made("stdlib_qa", "train"):
        for message in conversation["messages"]:
            text = message["content"]
            assert isinstance(text, str)
            trained.update(re.sub(r"^- |=[A-D]$", "", line) for line in text.splitlines())
            trained.update(re.split(r"(?<=[?:]) ", text, maxsplit=1)[1:])
    for split in ("val", "test"):
        for found in subjects(split):  # type: ignore[arg-type]
            assert found.summary not in trained
            assert f"That is {found.name}." not in trained


def test_qa_and_train_pastes_stay_out_of_the_corpus_validation_split() -> None:
    for split in SPLITS:
        assert not any(in_stdlib_val(group_of(found.module)) for found in subjects(split))  # type: ignore[arg-type]
        for conversation in made("needle", split):
            path = conversation["subject"].split("#")[0]
            module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            assert in_stdlib_val(group_of(module)) == (split != "train")


# --- Multiple choice --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_multiple_choice_is_right_and_unique(split: Any) -> None:
    objects = {found.name: found for found in subjects(split)}
    summaries = {found.summary for found in objects.values()}
    publics = {module.name: module.names for module in api_modules()}
    questions = StdlibChoice().questions(split, seed=0)
    assert {question.kind for question in questions} == {"describe", "module", "name"}
    assert len({question.id for question in questions}) == len(questions)
    for question in questions:
        subject = objects[question.subject]
        right = question.choices[question.answer]
        assert len(set(question.choices)) == 4
        if question.kind == "module":
            assert right == subject.module
            assert [subject.last_name in publics[module] for module in question.choices].count(True) == 1
        elif question.kind == "describe":
            assert right == subject.summary
            assert set(question.choices) <= summaries
        else:
            assert right == subject.name
            assert {objects[name].kind for name in question.choices} == {subject.kind}
            assert subject.summary in question.question
    assert StdlibChoice().questions(split, seed=0) == questions
    assert StdlibChoice().questions(split, seed=1) != questions


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", ["describe", "module", "name"])
def test_looking_at_the_choices_alone_gives_a_quarter(split: Any, kind: str) -> None:
    questions = [question for question in StdlibChoice().questions(split, seed=3) if question.kind == kind]
    commonness = Counter(choice for question in questions for choice in question.choices)

    def accuracy(value: Any) -> float:
        """Of picking the choice with the highest value; a tie counts as a guess among the tied."""
        score = 0.0
        for question in questions:
            values = [value(question, index) for index in range(4)]
            best = [index for index in range(4) if values[index] == max(values)]
            score += (question.answer in best) / len(best)
        return score / len(questions)

    assert accuracy(lambda question, index: len(question.choices[index])) == pytest.approx(0.25)
    assert accuracy(lambda question, index: -len(question.choices[index])) == pytest.approx(0.25)
    assert accuracy(lambda question, index: commonness[question.choices[index]]) == pytest.approx(0.25)
    assert accuracy(lambda question, index: question.choices[index].count(" ")) == pytest.approx(0.25)
    for position in range(4):
        assert accuracy(lambda question, index, at=position: index == at) == pytest.approx(0.25)


def test_lexical_overlap_is_what_a_word_matcher_profits_from() -> None:
    questions = [question for question in StdlibChoice().questions("test", seed=0) if question.kind == "describe"]

    def matched(question: MultipleChoice) -> list[bool]:
        return [lexical_overlap(question.subject, choice) for choice in question.choices]

    assert all(matched(question)[question.answer] == question.lexical_overlap for question in questions)
    flagged = [question for question in questions if question.lexical_overlap]
    assert 0 < len(flagged) < len(questions)


def test_limits_of_multiple_choice_cut_whole_groups() -> None:
    questions = StdlibChoice().questions("val", seed=2, limit=40)
    assert len(questions) == 40
    assert Counter(question.answer for question in questions) == dict.fromkeys(range(4), 10)
    assert len(StdlibChoice().questions("val", seed=2, limit=3)) == 3


def test_render_multiple_choice() -> None:
    question = MultipleChoice(
        "mc/x", "Which module defines dedent?", ("os", "textwrap", "re", "io"), 1, "x", "module", False
    )
    expected = "Which module defines dedent?\n- os=A\n- textwrap=B\n- re=C\n- io=D\nAnswer with the letter only."
    assert render_multiple_choice(question) == expected


def test_training_has_letter_answers() -> None:
    rendered = {
        render_multiple_choice(question): "ABCD"[question.answer]
        for question in StdlibChoice().questions("train", seed=0)
    }
    letters = [c for c in made("stdlib_qa", "train") if "/mc/" in c["id"]]
    assert len(letters) == len(rendered) > 1000
    assert all(_replies(conversation) == [rendered[_question(conversation)]] for conversation in letters)


# --- Tools ------------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(SPLITS))
def test_arithmetic_is_true(seed: int, split: Any) -> None:
    for conversation in open_conversations("arithmetic", split, seed=seed, limit=20):
        parts = _parts(conversation)
        value = eval(parts["python"].replace("//", "/"), {"__builtins__": {}})
        assert float(parts["python_output"]) == value
        assert conversation["answer"] == parts["python_output"]
        assert parts["python_output"] in parts["text"]
        question = _question(conversation)
        assert sorted(re.findall(r"\d+", question)) == sorted(re.findall(r"\d+", parts["python"]))


@pytest.mark.parametrize("expression", ["2**9**9", "__import__('os')", "1.5+a", ""])
def test_only_arithmetic_is_evaluated(expression: str) -> None:
    with pytest.raises(ValueError, match="not an arithmetic"):
        evaluate(expression)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(SPLITS))
def test_spelling_is_true(seed: int, split: Any) -> None:
    for conversation in open_conversations("spelling", split, seed=seed, limit=20):
        word, reply = conversation["subject"], _replies(conversation)[0]
        assert re.fullmatch("[a-z]{3,12}", word)
        assert word in _question(conversation)
        if isinstance(reply, str):
            assert reply.replace(", ", "") == word
            assert reply.count(", ") == len(word) - 1
        else:
            parts = _parts(conversation)
            letter = re.search(r"count\('(.)'\)", parts["python"])
            assert letter is not None
            count = sum(1 for c in word if c == letter[1])
            assert parts["python_output"] == conversation["answer"] == str(count)
            said = {1: "once", 2: "twice"}.get(count, f"{count} times")
            assert parts["text"] == f"The letter {letter[1]} appears {said} in {word}."


# --- Needles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_needles_are_in_the_paste(split: Any) -> None:
    kinds = Counter()
    for conversation in made("needle", split):
        heading, rest = _question(conversation).split("\n\n", 1)
        paste, question = rest.rsplit("\n\n", 1)
        kind = conversation["id"].split("/")[1]
        kinds[kind] += 1
        assert heading == f"Here is a part of {conversation['subject'].split('#')[0]}:"
        assert question.endswith("?")
        assert len(paste) <= MAX_PASTE + 60
        (reply,) = _replies(conversation)
        assert conversation["answer"] in reply
        if kind == "planted":
            assert paste.count(f"# {reply}") == 1
        elif kind == "parameters":
            assert all(parameter in paste for parameter in conversation["answer"].split(", "))
        else:
            assert conversation["answer"] in paste
    assert set(kinds) == {"planted", "parameters", "default", "constant", "base"}


def test_facts_are_those_of_the_paste_and_unambiguous() -> None:
    paste = (
        "LIMIT = 70\nTWICE = 1\nTWICE = 2\n\nclass Wrapper(Base):\n"
        "    def fill(self, text, width=70, mark='...'):\n        def inner(a, b): pass\n"
        "    def again(self, x=1): pass\n    def again(self, x=2): pass\n"
    )
    assert {(fact.kind, fact.answer) for fact in facts(paste)} == {
        ("constant", "70"),
        ("base", "Base"),
        ("default", "70"),
        ("default", "'...'"),
        ("parameters", "a, b"),
    }


# --- Custom conversations ---------------------------------------------------------------------------------------------


def _write(path: Path, values: list[Any]) -> str:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return f"jsonl:{path}"


def test_jsonl_conversations_are_split_once_and_for_all(tmp_path: Path) -> None:
    values: list[Any] = [[{"role": "user", "content": f"Question {i}"}, REPLY] for i in range(200)]
    values[0] = {"id": "mine", "messages": [{"role": "system", "content": "Be brief."}, QUESTION, REPLY]}
    name = _write(tmp_path / "c.jsonl", [*values, values[5]])
    found = {split: {c["id"] for c in open_conversations(name, split, seed=1)} for split in SPLITS}  # type: ignore[arg-type]
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 200
    assert "mine" in set.union(*found.values())
    assert all(found.values())
    again = {split: {c["id"] for c in open_conversations(name, split, seed=2)} for split in SPLITS}  # type: ignore[arg-type]
    assert again == found


def test_three_jsonl_conversations_give_one_to_each_split(tmp_path: Path) -> None:
    name = _write(tmp_path / "c.jsonl", [[{"role": "user", "content": f"Question {i}"}, REPLY] for i in range(3)])
    assert [len(open_conversations(name, split)) for split in SPLITS] == [1, 1, 1]  # type: ignore[arg-type]
    short = _write(tmp_path / "d.jsonl", [[QUESTION, REPLY]])
    taken = split_of("anything")  # any split: at most one of them is non-empty
    lengths = []
    for split in (taken, *(split for split in SPLITS if split != taken)):
        try:
            lengths.append(len(open_conversations(short, split)))  # type: ignore[arg-type]
        except DataError as error:
            assert "too few for a" in error.message  # noqa: PT017
    assert lengths == [1]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"text": "x"}, "line 1: the object has no 'messages'"),
        ([], "line 1: the messages aren't a non-empty list"),
        ([QUESTION], "line 1: the last message isn't the assistant's"),
        ([{"role": "system", "content": "x"}], "line 1: the last message isn't the assistant's"),
        ([REPLY, QUESTION], "line 1, message 1: the role is 'assistant', not 'user'"),
        ([QUESTION, QUESTION, REPLY], "line 1, message 2: the role is 'user', not 'assistant'"),
        ([QUESTION, REPLY, {"role": "system", "content": "x"}, REPLY], "message 3: the role is 'system', not 'user'"),
        ([QUESTION, {"role": "bot", "content": "x"}], "line 1, message 2: the role 'bot' is none of"),
        ([QUESTION, {"role": "assistant"}], "line 1, message 2: it isn't an object with 'role' and 'content'"),
        ([QUESTION, "Hello"], "line 1, message 2: it isn't an object with"),
        ([QUESTION, {"role": "assistant", "content": "  "}], "message 2: the content is empty"),
        ([QUESTION, {"role": "assistant", "content": []}], "message 2: the content is neither"),
        ([QUESTION, {"role": "assistant", "content": [{"type": "image", "text": ""}]}], "message 2: a part isn't like"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, REPLY],
            "message 1: a part of type 'image_url'",
        ),
        (
            [QUESTION, {"role": "assistant", "content": [{"type": "python_output", "text": "1"}]}],
            "message 2: a 'python_output' part doesn't follow",
        ),
    ],
)
def test_bad_conversations_are_named_by_line(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        open_conversations(_write(tmp_path / "c.jsonl", [value]), "train")
    assert f"{tmp_path / 'c.jsonl'}, line 1" in caught.value.message
    assert message in caught.value.message
    assert caught.value.hint


def test_bad_json_is_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps([QUESTION, REPLY]) + "\n[{]\n")
    with pytest.raises(DataError, match=r"c\.jsonl, line 2: not valid JSON"):
        open_conversations(f"jsonl:{path}", "train")
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no conversation"):
        open_conversations(f"jsonl:{path}", "train")


# --- Mixtures ---------------------------------------------------------------------------------------------------------


def test_a_mixture_has_its_counts_and_one_order() -> None:
    mixture = {"needle": 30, "stdlib_qa": 50, "arithmetic": 20}
    mixed = mix_conversations(mixture, "val", seed=4)
    assert Counter(conversation["task"] for conversation in mixed) == mixture
    assert mix_conversations(dict(reversed(mixture.items())), "val", seed=4) == mixed
    assert mix_conversations(mixture, "val", seed=5) != mixed
    assert len({conversation["task"] for conversation in mixed[:15]}) == 3


def test_a_small_source_is_gone_through_again() -> None:
    size = len(open_conversations("stdlib_qa", "val"))
    mixed = mix_conversations({"stdlib_qa": 2 * size + 5}, "val", seed=0)
    ids = [conversation["id"] for conversation in mixed]
    assert len(set(ids)) == len(ids) == 2 * size + 5
    assert [sum(id.endswith(f"~{again}") for id in ids) for again in (2, 3)] == [size, 5]
    first = {c["id"]: c["messages"] for c in mixed}
    again = [c for c in mixed if c["id"].endswith("~2") and "/mc/" not in c["id"]]
    reworded = [c for c in again if c["messages"] != first[c["id"].removesuffix("~2")]]
    assert len(reworded) > len(again) / 3


@given(
    st.dictionaries(st.sampled_from(["arithmetic", "spelling"]), st.floats(0.01, 10), min_size=1),
    st.integers(0, 40),
)
@settings(max_examples=20, deadline=None)
def test_weights_share_the_total(weights: dict[str, float], total: int) -> None:
    mixed = mix_conversations(weights, "val", total=total)
    counts = Counter(conversation["task"] for conversation in mixed)
    assert len(mixed) == total
    for name, weight in weights.items():
        assert abs(counts[name] - total * weight / sum(weights.values())) < 1


def test_the_version_of_the_code_follows_every_file_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ("data", "tasks/stdlib"):
        (tmp_path / room).mkdir(parents=True)
        (tmp_path / room / "module.py").write_text("a = 1")
    monkeypatch.setattr(catalogue, "__file__", str(tmp_path / "tasks" / "catalogue.py"))
    versions = [catalogue.code_version()]
    assert catalogue.code_version() == versions[0]
    for room in ("data", "tasks/stdlib"):
        (tmp_path / room / "module.py").write_text("b = 2")
        versions.append(catalogue.code_version())
    assert len(set(versions)) == 3
