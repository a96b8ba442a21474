from __future__ import annotations

import json
from pathlib import Path

import pytest

from mccore.data.conversation import Message
from mccore.data.tokenizer.chat_format import render_for_completion
from mccore.data.tokenizer.reply import Piece, prose, split_reply
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import DataError, UsageError
from mccore.generate.answer import ContextOverflow, Request
from mccore.generate.chat import ChatSession, message_content
from mccore.generate.engine import Engine
from mccore.generate.memory import TextMemory, WindowMemory, fit_window, prompt_room
from mccore.generate.sampling import Sampling


def say(role: str, content: str) -> Message:
    return {"role": role, "content": content}  # type: ignore[typeddict-item]


HISTORY = [
    say("user", "one" * 5),
    say("assistant", "two" * 5),
    say("user", "three"),
    say("assistant", "4"),
    say("user", "5"),
]


def test_everything_is_shown_while_it_fits(tokenizer: Tokenizer) -> None:
    view = fit_window(tokenizer, None, HISTORY, 200)
    assert view.ids == render_for_completion(tokenizer, HISTORY)
    assert (view.messages_left_out, view.tokens_left_out) == (0, 0)


def test_the_oldest_exchanges_are_left_out_whole(tokenizer: Tokenizer) -> None:
    exact = len(render_for_completion(tokenizer, HISTORY))
    assert fit_window(tokenizer, None, HISTORY, exact).messages_left_out == 0
    view = fit_window(tokenizer, None, HISTORY, exact - 1)
    assert view.messages_left_out == 2
    assert view.ids == render_for_completion(tokenizer, HISTORY[2:])
    assert fit_window(tokenizer, None, HISTORY, 6).messages_left_out == 4


def test_the_system_message_stays(tokenizer: Tokenizer) -> None:
    system = say("system", "Be brief.")
    exact = len(render_for_completion(tokenizer, [system, *HISTORY]))
    assert fit_window(tokenizer, "Be brief.", HISTORY, exact).messages_left_out == 0
    view = fit_window(tokenizer, "Be brief.", HISTORY, exact - 1)
    assert view.ids == render_for_completion(tokenizer, [system, *HISTORY[2:]])


def test_a_message_too_long_loses_its_beginning(tokenizer: Tokenizer) -> None:
    view = fit_window(tokenizer, "S", [*HISTORY[:2], say("user", "0123456789" * 5)], 20)
    assert (
        tokenizer.decode(view.ids)
        == "<|bos|><|user_start|>S\n\n7890123456789"[:-10] + "0123456789<|user_end|><|assistant_start|>"
    )
    assert len(view.ids) == 20
    assert (view.messages_left_out, view.tokens_left_out) == (2, 50 - 13)


def test_a_system_message_too_long_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(ContextOverflow, match="the system message of 32 tokens"):
        fit_window(tokenizer, "s" * 30, [say("user", "hello")], 20)


def test_an_answer_is_kept_at_most_a_quarter_of_the_context() -> None:
    assert prompt_room(128, 10) == 118
    assert prompt_room(128, 1000) == 96


def session_of(engine: Engine, **sampling: int | float) -> ChatSession:
    return ChatSession(
        engine.tokenizer, WindowMemory(engine), Sampling(**{"temperature": 0.0, "max_new_tokens": 12, **sampling})
    )  # type: ignore[arg-type]


def test_answers_are_those_of_the_engine_and_stay_in_the_history(engine: Engine) -> None:
    session = session_of(engine)
    expected_messages: list[Message] = []
    for text in ("hello", "and then?"):
        expected_messages.append(say("user", text))
        ids = render_for_completion(engine.tokenizer, expected_messages)
        expected = split_reply(engine.stream(Request(ids, Sampling(max_new_tokens=12))), engine.tokenizer)
        said = "".join(piece.text for piece in session.ask(text))
        assert said == "".join(piece.text for piece in expected)
        expected_messages.append({"role": "assistant", "content": message_content(expected)})
    assert session.messages == expected_messages
    assert [turn.finish for turn in session.turns] == ["length", "stop"]
    assert session.turns[0].new_tokens == 12


def test_a_conversation_longer_than_the_context_goes_on_and_says_what_it_left_out(engine: Engine) -> None:
    session = session_of(engine)
    for turn in range(12):
        for _ in session.ask(f"message number {turn}"):
            pass
    assert len(session.messages) == 24
    left_out = [turn.messages_left_out for turn in session.turns]
    assert left_out[0] == 0
    assert left_out[-1] > 0
    assert left_out == sorted(left_out)


def test_stopping_keeps_what_was_said(engine: Engine) -> None:
    session = session_of(engine)
    answer = session.ask("hello")
    first = next(answer)
    answer.close()
    assert session.messages[-1] == {"role": "assistant", "content": first.text}
    assert session.turns[0].finish is None


def test_a_turn_without_an_answer_is_withdrawn(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    end = engine.tokenizer.special("assistant_end")
    monkeypatch.setattr("mccore.generate.scheduler.choose", lambda logits, draws, *_: [end] * len(draws))
    session = session_of(engine)
    assert list(session.ask("hello")) == []
    assert session.messages == []


def test_answers_to_the_same_question_differ_by_turn_and_repeat_by_seed(engine: Engine) -> None:
    def replies(seed: int) -> list[str]:
        session = session_of(engine, temperature=1.0, seed=seed)
        said = []
        for _ in range(2):
            session.clear()
            said.append("".join(piece.text for piece in session.ask("hello")))
        return said

    first = replies(1)
    assert first[0] != first[1]
    assert replies(1) == first
    assert replies(5) != first


def test_base_models_continue_the_text(engine: Engine) -> None:
    session = ChatSession(engine.tokenizer, TextMemory(engine), Sampling(temperature=0.0, max_new_tokens=10))
    t = engine.tokenizer
    said = "".join(piece.text for piece in session.ask("def f"))
    expected = engine.stream(Request([t.bos_id, *t.encode("def f")], Sampling(max_new_tokens=10), stop=(t.bos_id,)))
    assert said == "".join(piece.text for piece in split_reply(expected, t))


def test_replies_split_into_parts_without_markers_or_half_characters(tokenizer: Tokenizer) -> None:
    s = tokenizer.special
    tokens = [
        *"é".encode(), 0xC3, s("python_start"), *tokenizer.encode("1+1"), s("python_end"), s("output_start"),
        *tokenizer.encode("2"), s("output_end"), *tokenizer.encode(" ok"),
    ]  # fmt: skip
    parts = split_reply(tokens, tokenizer)
    assert parts == [
        Piece("text", "é\ufffd"),
        Piece("python", "1+1"),
        Piece("python_output", "2"),
        Piece("text", " ok"),
    ]
    assert prose(parts) == "é\ufffd ok"
    assert message_content(parts) == [
        {"type": "text", "text": "é\ufffd"}, {"type": "python", "text": "1+1"}, {"type": "python_output", "text": "2"},
        {"type": "text", "text": " ok"},
    ]  # fmt: skip
    assert message_content([Piece("python_output", "2"), Piece("text", "ok")]) == "ok"
    assert message_content([Piece("text", " \n")]) == ""


def test_save_and_load(engine: Engine, tmp_path: Path) -> None:
    session = session_of(engine)
    session.system = "Ünder"
    list(session.ask("hello"))
    session.messages[-1]["content"] = [{"type": "python", "text": "1"}, {"type": "python_output", "text": "1"}]
    session.save(tmp_path / "chat.json")
    other = session_of(engine)
    other.load(tmp_path / "chat.json")
    assert (other.system, other.messages) == (session.system, session.messages)
    other.clear()
    other.save(tmp_path / "empty.json")
    session.load(tmp_path / "empty.json")
    assert session.messages == []
    (tmp_path / "list.json").write_text(json.dumps([say("system", "S"), say("user", "a"), say("assistant", "b")]))
    other.load(tmp_path / "list.json")
    assert (other.system, len(other.messages)) == ("S", 2)


@pytest.mark.parametrize(
    "content", ["not json", "{}", '{"messages": [1]}', '[{"role": "user", "content": "a"}]', '{"system": 3}']
)
def test_files_that_are_no_conversation_are_refused(content: str, engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text(content)
    session = session_of(engine)
    with pytest.raises(DataError, match=r"chat\.json"):
        session.load(path)
    with pytest.raises(UsageError, match="can't read"):
        session.load(tmp_path / "none.json")
