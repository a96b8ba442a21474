"""Conversations as ids: what is rendered where, and which ids a model learns from."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mccore.data.tokenizer.chat_format import render_conversation, render_for_completion, render_turn
from mccore.data.tokenizer.tokenizer import SPECIALS, Tokenizer
from mccore.errors import DataError


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([], 265)  # one id per byte, so that every position is plain to see


def user(text):
    return {"role": "user", "content": text}


def assistant(content):
    return {"role": "assistant", "content": content}


def masked(tokenizer, rendered):
    """What the mask keeps, and what it leaves out, as text."""
    pairs = list(zip(*rendered, strict=True))
    return [tokenizer.decode([id for id, mask in pairs if mask == kept]) for kept in (1, 0)]


def test_a_whole_conversation(tokenizer):
    rendered = render_conversation(tokenizer, [user("hi"), assistant("yo"), user("?"), assistant("!")])
    assert tokenizer.decode(rendered.ids) == (
        "<|bos|><|user_start|>hi<|user_end|><|assistant_start|>yo<|assistant_end|>"
        "<|user_start|>?<|user_end|><|assistant_start|>!<|assistant_end|>"
    )
    assert rendered.mask == [0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1]
    assert rendered.ids[0] == tokenizer.bos_id
    assert rendered.ids.count(tokenizer.bos_id) == 1


def test_the_model_learns_its_calls_and_not_their_results(tokenizer):
    parts = [
        {"type": "text", "text": "sum: "},
        {"type": "python", "text": "1+1"},
        {"type": "python_output", "text": "2"},
        {"type": "text", "text": "two"},
    ]
    rendered = render_conversation(tokenizer, [user("1+1?"), assistant(parts)])
    learned, given_ = masked(tokenizer, rendered)
    assert learned == "sum: <|python_start|>1+1<|python_end|>two<|assistant_end|>"
    assert given_ == "<|bos|><|user_start|>1+1?<|user_end|><|assistant_start|><|output_start|>2<|output_end|>"
    assert tokenizer.decode(rendered.ids).endswith("<|python_end|><|output_start|>2<|output_end|>two<|assistant_end|>")


def test_system_text_opens_the_first_user_turn(tokenizer):
    messages = [{"role": "system", "content": "be kind"}, user("hi"), assistant("yo")]
    assert render_conversation(tokenizer, messages) == render_conversation(
        tokenizer, [user("be kind\n\nhi"), assistant("yo")]
    )
    assert messages[1] == user("hi")  # the caller's messages stay as they are


def test_asking_for_the_next_turn(tokenizer):
    asked = render_for_completion(tokenizer, [user("hi")])
    assert tokenizer.decode(asked) == "<|bos|><|user_start|>hi<|user_end|><|assistant_start|>"
    assert render_for_completion(tokenizer, [user("hi"), assistant("the answer")]) == asked
    whole = render_conversation(tokenizer, [user("hi"), assistant("yo"), user("?")])
    more = render_for_completion(tokenizer, [user("hi"), assistant("yo"), user("?"), assistant("x")])
    assert more == [*whole.ids, tokenizer.special("assistant_start")]


def test_turns_joined_are_the_conversation(tokenizer):
    parts = [{"type": "python", "text": "2*3"}, {"type": "python_output", "text": "6"}]
    first, second = render_turn(tokenizer, "user", "2*3?"), render_turn(tokenizer, "assistant", parts)
    rendered = render_conversation(tokenizer, [user("2*3?"), assistant(parts)])
    assert [tokenizer.bos_id, *first.ids, *second.ids] == rendered.ids
    assert [0, *first.mask, *second.mask] == rendered.mask
    with pytest.raises(DataError, match="not 'system'"):
        render_turn(tokenizer, "system", "x")


def test_cutting_keeps_ids_and_mask_together(tokenizer):
    messages = [user("hello"), assistant("a long answer")]
    whole = render_conversation(tokenizer, messages)
    cut = render_conversation(tokenizer, messages, max_tokens=10)
    assert cut == (whole.ids[:10], whole.mask[:10])
    assert render_conversation(tokenizer, messages, max_tokens=1000) == whole


ANY_TEXT = st.lists(st.sampled_from(SPECIALS) | st.text(st.characters(exclude_categories=["Cs"]))).map("".join)
PART = st.fixed_dictionaries({"type": st.sampled_from(["text", "python", "python_output"]), "text": ANY_TEXT})


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT | st.lists(PART, min_size=1)), min_size=1, max_size=3))
def test_special_tokens_come_from_the_structure_alone(tokenizer, exchanges):
    messages = [message for ask, answer in exchanges for message in (user(ask), assistant(answer))]
    ids, mask = render_conversation(tokenizer, messages)
    assert len(ids) == len(mask)
    marks = [id for id in ids if id in tokenizer.specials.values()]
    expected = ["bos"]
    learned = 0
    for _, answer in exchanges:
        parts = [{"type": "text", "text": answer}] if isinstance(answer, str) else answer
        expected += ["user_start", "user_end", "assistant_start"]
        for part in parts:
            name = {"python": "python", "python_output": "output"}.get(part["type"])
            expected += [f"{name}_start", f"{name}_end"] if name else []
            if part["type"] != "python_output":
                learned += len(part["text"].encode()) + 2 * (name is not None)
        expected += ["assistant_end"]
        learned += 1
    assert marks == [tokenizer.special(name) for name in expected]
    assert sum(mask) == learned


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], "at least one user message"),
        ([{"role": "system", "content": "x"}], "at least one user message"),
        ([assistant("x")], r"messages\[0\] has role 'assistant' where 'user' is due"),
        ([user("x"), user("y")], r"messages\[1\] has role 'user' where 'assistant' is due"),
        ([user("x"), {"role": "system", "content": "y"}], r"messages\[1\] has role 'system'"),
        ([{"role": "system", "content": "x"}] * 2, r"messages\[1\] has role 'system' where 'user' is due"),
        ([user("x"), {"role": "tool", "content": "y"}], r"messages\[1\] has role 'tool'"),
        ([{"content": "y"}], r"messages\[0\] has role None"),
        ([user(None)], r"messages\[0\]: the user's content must be a str, not NoneType"),
        ([user([{"type": "text", "text": "x"}])], r"messages\[0\]: the user's content must be a str, not list"),
        ([{"role": "system", "content": 3}, user("x")], r"messages\[0\]: the system's content must be a str"),
        ([user("x"), assistant([])], r"messages\[1\]: the assistant's content must be a str or a list of parts"),
        ([user("x"), assistant(None)], r"messages\[1\]: the assistant's content must be"),
        (
            [user("x"), assistant([{"type": "image", "text": "y"}])],
            r"messages\[1\].*part 0 must be an object whose type",
        ),
        ([user("x"), assistant(["y"])], r"messages\[1\].*part 0 must be an object"),
        ([user("x"), assistant([{"type": ["text"], "text": "y"}])], r"messages\[1\].*part 0 must be an object"),
        ([user("x"), assistant([{"type": "text"}])], r"messages\[1\].*text of part 0 must be a str, not NoneType"),
        (["x"], r"messages\[0\] must be an object"),
        ("x", "must be a list of messages, not str"),
        (user("x"), "must be a list of messages, not dict"),
        (None, "must be a list of messages, not NoneType"),
    ],
)
def test_what_is_not_a_conversation(tokenizer, messages, error):
    for render in (render_conversation, render_for_completion):
        with pytest.raises(DataError, match=error):
            render(tokenizer, messages)
