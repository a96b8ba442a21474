"""Faults of November 2026, kind 10: conversations as people have them, each case by its id in docs/faults.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mccore.data.tokenizer.chat_format import render_conversation
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import DataError
from mccore.tasks.jsonl import read_conversations
from mccore.tasks.shapes import recognise

USER: dict[str, Any] = {"role": "user", "content": "q"}
REPLY: dict[str, Any] = {"role": "assistant", "content": "a"}
PAIR = [("user", "q"), ("assistant", "a")]


def messages_of(value: Any) -> list[tuple[str, Any]]:
    made = recognise(value, where="here", task="t", id="i").conversation
    return [(message["role"], message["content"]) for message in made["messages"]]


@pytest.mark.parametrize(
    "value",
    [
        [USER, REPLY],
        {"messages": [USER, REPLY]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, REPLY], "source": "x"},
        {"messages": [{"role": "system", "content": ""}, USER, REPLY]},
        {"messages": [USER, REPLY, USER]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"instruction": "q", "input": "", "output": "a", "text": "q a"},
        {"prompt": "q", "completion": "a"},
        {"prompt": [USER], "completion": [REPLY]},
        {"question": "q", "answer": "a"},
        {"instruction": "q", "context": "", "response": "a", "category": "open"},
    ],
)
def test_every_shape_is_the_same_conversation(value: Any) -> None:
    """D6."""
    assert messages_of(value) == PAIR


def test_what_else_belongs_to_a_shape() -> None:
    """D6: developer, a system key, an input, turns before."""
    assert messages_of([{"role": "developer", "content": "s"}, USER, REPLY]) == [("system", "s"), *PAIR]
    share = {"system": "s", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    assert messages_of(share) == [("system", "s"), *PAIR]
    assert messages_of({"instruction": "q", "input": "i", "output": "a"})[0] == ("user", "q\n\ni")
    assert messages_of({"instruction": "q", "output": "a", "history": [["1", "2"]]}) == [
        ("user", "1"),
        ("assistant", "2"),
        *PAIR,
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([USER, {**REPLY, "tool_calls": [{"id": 1}]}], "'tool_calls': calls of tools"),
        ([USER, {**REPLY, "content": None, "tool_calls": [{"id": 1}]}], "'tool_calls': calls of tools"),
        ([USER, {"role": "assistant", "content": None}], "the content is null"),
        ([USER, {**REPLY, "reasoning_content": "hm"}], "'reasoning_content'"),
        ({"messages": [USER, REPLY], "tools": [{}]}, "'tools'"),
        ([USER, {"role": "tool", "content": "1"}, REPLY], "the role 'tool'"),
        ([USER, {**REPLY, "weight": 0.5}], "the weight 0.5"),
        ([USER, {**REPLY, "weight": 0}], "every answer has the weight 0"),
        ([{"role": "user", "content": [{"type": "image_url"}]}, REPLY], "a part of type 'image_url'"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "preference pairs"),
        ({"prompt": "q", "completion": "a", "response": "b"}, "both 'completion' and 'response'"),
        ({"text": "x"}, "the object has no 'messages' nor another known shape; it has 'text'"),
        ("x", "neither a list of messages nor an object"),
    ],
)
def test_what_cant_be_trained_on_is_refused_by_name(value: Any, message: str) -> None:
    """DF13, D6."""
    with pytest.raises(DataError, match="here") as caught:
        messages_of(value)
    assert message in caught.value.message
    assert caught.value.hint


def test_an_answer_of_weight_0_is_not_trained_on() -> None:
    """DF12."""
    tokenizer = Tokenizer.train([], 265)
    value = [USER, {"role": "assistant", "content": "bad", "weight": 0}, USER, {**REPLY, "weight": 1}]
    made = recognise(value, where="", task="", id="").conversation["messages"]
    rendered = render_conversation(tokenizer, made)
    trained = [id for id, mask in zip(rendered.ids, rendered.mask, strict=True) if mask]
    assert trained == [*tokenizer.encode("a"), tokenizer.special("assistant_end")]


def test_bad_lines_are_passed_over_counted_and_named(tmp_path: Path) -> None:
    """D6: one bad line among many doesn't end a run, unless that is asked for."""
    path = tmp_path / "c.jsonl"
    good = [json.dumps([{"role": "user", "content": f"q {i}"}, REPLY]) for i in range(9)]
    path.write_text(
        "\n".join([*good[:4], "[{", json.dumps([USER, {**REPLY, "content": " "}]), *good[4:], '{"messages": 7}'])
    )
    found = read_conversations(path, strict=False)
    assert (len(found.conversations), found.bad) == (9, 3)
    assert [line.split(",")[0].split(":")[0] for line in found.passed_over] == ["line 5", "line 6", "line 12"]
    assert "passed over 3 that can't be read: line 5: not valid JSON" in found.describe()
    with pytest.raises(DataError, match="line 5"):
        read_conversations(path)


def test_an_array_and_lone_cr_are_read(tmp_path: Path) -> None:
    """D6."""
    values = [[{"role": "user", "content": f"q {i}"}, REPLY] for i in range(5)]
    (tmp_path / "a.json").write_text(json.dumps(values, indent=1))
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r".join(json.dumps(value).encode() for value in values))
    (tmp_path / "lines.json").write_text("\n".join(map(json.dumps, values)))
    (tmp_path / "one.json").write_text(json.dumps(values[0]))
    counts = {
        name: len(read_conversations(tmp_path / name).conversations)
        for name in ("a.json", "b.jsonl", "lines.json", "one.json")
    }
    assert counts == {"a.json": 5, "b.jsonl": 5, "lines.json": 5, "one.json": 1}
