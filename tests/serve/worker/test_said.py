"""An answer as text: stop texts end it wherever they lie, and nothing of them is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.serve.worker.said import Said


def shown(tokenizer: Tokenizer, text: str, stop: list[str]) -> tuple[str, bool]:
    said, out = Said(tokenizer, stop), ""
    for token in tokenizer.encode(text):
        out += "".join(piece.text for piece in said.feed(token))
        if said.stopped:
            break
    return out + "".join(piece.text for piece in said.flush()), said.stopped


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two three", ["two"], ("one ", True)),
        ("one two three", ["tx"], ("one two three", False)),
        ("aab", ["ab"], ("a", True)),
        ("ends with st", ["stop"], ("ends with st", False)),
        ("naïve — ünd", ["ünd"], ("naïve — ", True)),
        ("x", ["x"], ("", True)),
    ],
)
def test_an_answer_ends_before_its_stop_text(
    byte_tokenizer: Tokenizer, text: str, stop: list[str], expected: tuple[str, bool]
) -> None:
    assert shown(byte_tokenizer, text, stop) == expected


@given(text=st.text("ab", max_size=30), stop=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_it_is_what_cutting_the_whole_text_gives(byte_tokenizer: Tokenizer, text: str, stop: list[str]) -> None:
    # The first stop text that is complete counts, as for a reader who gets a letter at a time.
    ends = [text.find(each) + len(each) for each in stop if each in text]
    expected = text
    if ends:
        whole = text[: min(ends)]
        expected = min((whole[: whole.find(each)] for each in stop if each in whole), key=len)
    assert shown(byte_tokenizer, text, stop) == (expected, bool(ends))
