"""Conversations over sessions: the history is the conversation, mark by mark, and generation from it is that of the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mccore import plugins
from mccore.api import AllocatorSpec, TreeSpec
from mccore.cli.chat.pictures import passages, picture
from mccore.config import Choice, MegaContextConfig
from mccore.data.tokenizer.chat_format import render_conversation, render_for_completion
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.generate.answer import Request, batch
from mccore.generate.chat import ChatSession
from mccore.generate.engine import Engine
from mccore.generate.memory import SessionMemory, TextMemory, WindowMemory, closing
from mccore.generate.sampling import Sampling
from mccore.megacontext.networks.networks import MegaContextNets
from mccore.megacontext.sessions.model import SessionModel
from mccore.megacontext.sessions.options import SessionOptions
from mccore.megacontext.sessions.session import Session
from mccore.megacontext.tree.tree import Tree
from mccore.model import GPT

W = 64
SAMPLING = Sampling(temperature=0.8, max_new_tokens=12, seed=1)


def context_model(gpt: GPT, *, budget: int = W, **changes: object) -> SessionModel:
    """`gpt` with random networks beside it, blocks of 4 and 8 recent tokens."""
    config = MegaContextConfig.model_validate({"enabled": True, "block_size": 4, **changes})
    nets = MegaContextNets(config, gpt.config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in nets.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, 0.2, generator=generator)
    extension = plugins.load("allocator", "greedy")
    options = plugins.read_options("allocator", Choice(name="greedy", options={"recent_tokens": 8}), extension)

    def allocator(spec: AllocatorSpec) -> object:
        return extension.build(options, spec)

    return SessionModel(gpt.eval(), nets.eval(), allocator, SessionOptions(budget, 8))


def new_session(model: SessionModel, seed: int = 0) -> Session:
    spec: TreeSpec = model.encoder.spec()
    return Session(model, Tree(plugins.build("tree", Choice(name="ram"), spec), model.encoder), seed=seed)


@pytest.fixture(scope="module")
def contexts(random_gpt: Callable[..., GPT]) -> SessionModel:
    return context_model(random_gpt())


@pytest.fixture
def history(contexts: SessionModel, tokenizer: Tokenizer) -> SessionMemory:
    return SessionMemory(Engine(contexts.gpt, tokenizer), new_session(contexts))


def chat_over(history: SessionMemory, system: str | None = None) -> ChatSession:
    return ChatSession(history.engine.tokenizer, history, SAMPLING, system)


def everything(session: Session) -> list[int]:
    return session.ids(0, session.tokens).tolist()


# --- generation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_session_that_fits_says_what_the_engine_says(
    random_gpt: Callable[..., GPT], tokenizer: Tokenizer, temperature: float
) -> None:
    model = context_model(random_gpt(), budget=128)
    engine, session = Engine(model.gpt, tokenizer), new_session(model)
    ids = [tokenizer.bos_id, *tokenizer.encode("what is 1 + 1?")]
    options = {"max_new_tokens": 40, "temperature": temperature, "seed": 5}
    plain = engine.stream(Request(ids, Sampling(**options)))
    ours = engine.stream(Request(ids, Sampling(**options), session))
    assert list(ours) == list(plain)
    assert ours.answer.finish == plain.answer.finish
    assert everything(session) == ids + plain.answer.tokens


def test_what_was_generated_is_in_the_history_however_it_ends(contexts: SessionModel, tokenizer: Tokenizer) -> None:
    engine = Engine(contexts.gpt, tokenizer)
    for taken in (0, 1, 7, 100):
        session = new_session(contexts)
        generation = engine.stream(
            Request([1, 2, 3], Sampling(max_new_tokens=50, temperature=1.0, seed=2), session, stop=())
        )
        told = list(islice(generation, taken))
        generation.close()
        said = generation.answer.tokens
        assert told == said
        assert everything(session) == ([1, 2, 3, *said] if taken else [])
        assert len(said) == min(taken, 50) or taken == 0


def test_many_sessions_side_by_side_say_what_each_says_alone(contexts: SessionModel, tokenizer: Tokenizer) -> None:
    engine = Engine(contexts.gpt, tokenizer)
    prompts = [list(range(1, 4)), list(range(5, 70)), [9], list(range(200)), list(range(100, 160))]
    options = {"max_new_tokens": 60, "temperature": 0.0}
    alone = [
        engine.stream(Request(prompt, Sampling(**options), new_session(contexts, row)))
        for row, prompt in enumerate(prompts)
    ]
    for generation in alone:
        for _ in generation:
            pass
    sessions = [new_session(contexts, row) for row in range(len(prompts))]
    requests = batch(prompts, Sampling(**options))
    together = engine.run([replace(request, session=own) for request, own in zip(requests, sessions, strict=True)])
    assert [done.tokens for done in together] == [each.answer.tokens for each in alone]
    assert [done.finish for done in together] == [each.answer.finish for each in alone]
    for session, prompt, done in zip(sessions, prompts, together, strict=True):
        assert everything(session) == prompt + done.tokens
        assert torch.isfinite(session.read()).all()


# --- conversations ----------------------------------------------------------------------------------------------------


def test_the_history_is_the_conversation(history: SessionMemory, tokenizer: Tokenizer) -> None:
    chat = chat_over(history, system="be brief")
    for text in ("hello", "a longer question, " * 20, "bye"):
        list(chat.ask(text))
    history.finish()
    said = [message for message in chat.messages if message["role"] == "assistant"]
    assert len(said) == 3
    rendered = render_conversation(tokenizer, [{"role": "system", "content": "be brief"}, *chat.messages]).ids
    told = everything(history.session)
    # What the model says isn't always what its text encodes to: compare the marks and what the user said.
    marks = set(tokenizer.specials.values()) - {tokenizer.special(name) for name in ("python_start", "python_end")}
    assert [t for t in told if t in marks and t < 265][:4] == [t for t in rendered if t in marks][:4]
    assert (
        told[: len(tokenizer.encode("be brief\n\nhello")) + 3]
        == rendered[: len(tokenizer.encode("be brief\n\nhello")) + 3]
    )
    assert history.session.refocuses > 0


def test_the_first_answer_is_the_windows(history: SessionMemory, tokenizer: Tokenizer) -> None:
    window = ChatSession(tokenizer, WindowMemory(history.engine), SAMPLING)
    ours = chat_over(history)
    assert list(ours.ask("hello")) == list(window.ask("hello"))
    assert everything(history.session)[:9] == render_for_completion(tokenizer, [{"role": "user", "content": "hello"}])


def test_a_new_system_message_goes_before_the_next_turn(history: SessionMemory, tokenizer: Tokenizer) -> None:
    chat = chat_over(history, "one")
    list(chat.ask("a"))
    list(chat.ask("b"))
    chat.system = "two"
    list(chat.ask("c"))
    text = tokenizer.decode(everything(history.session))
    assert text.count("one\n\na") == text.count("two\n\nc") == 1
    assert "one\n\nb" not in text


def test_loaded_messages_go_into_the_history(history: SessionMemory, tokenizer: Tokenizer) -> None:
    chat = chat_over(history)
    chat.messages = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "second"}]
    list(chat.ask("third"))
    begin = render_for_completion(tokenizer, [*chat.messages[:2], {"role": "user", "content": "third"}])
    assert everything(history.session)[: len(begin)] == begin


def test_messages_that_are_loaded_later_go_into_the_history_too(history: SessionMemory, tokenizer: Tokenizer) -> None:
    chat = chat_over(history)
    list(chat.ask("before"))
    history.finish()
    said = history.session.tokens
    chat.messages = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "second"}]
    history.replace_messages()
    list(chat.ask("third"))
    begin = render_for_completion(tokenizer, [*chat.messages[:2], {"role": "user", "content": "third"}])[1:]
    assert everything(history.session)[said : said + len(begin)] == begin


def test_a_base_model_continues_the_text(contexts: SessionModel, tokenizer: Tokenizer) -> None:
    history = SessionMemory(Engine(contexts.gpt, tokenizer), new_session(contexts), plain=True)
    chat = chat_over(history)
    text = ChatSession(tokenizer, TextMemory(history.engine), SAMPLING)
    assert list(chat.ask("once upon")) == list(text.ask("once upon"))
    history.finish()
    list(chat.ask(" a time"))
    assert everything(history.session).count(tokenizer.bos_id) == 1


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_conversation_that_broke_off_anywhere_goes_on(
    contexts: SessionModel, tokenizer: Tokenizer, data: st.DataObject
) -> None:
    messages = [{"role": role, "content": "some words"} for role in ("user", "assistant", "user", "assistant")]
    whole = render_conversation(tokenizer, messages).ids
    broken = whole[: data.draw(st.integers(0, len(whole)))]
    session = new_session(contexts)
    session.append(broken)
    closed = broken + closing(session, tokenizer)
    marks = [
        token
        for token in closed
        if token in {tokenizer.special(f"{who}_{end}") for who in ("user", "assistant") for end in ("start", "end")}
    ]
    turn = [tokenizer.special(f"{who}_{end}") for who in ("user", "assistant") for end in ("start", "end")]
    if closed and closed[-1] == tokenizer.special("user_end"):
        pytest.fail("a question was left without an answer's marks")
    assert marks == turn * (len(marks) // 4)
    session.append(closing(session, tokenizer))
    assert closing(session, tokenizer) == []


# --- to look at -------------------------------------------------------------------------------------------------------


def test_what_an_answer_saw_can_be_told(history: SessionMemory, tokenizer: Tokenizer) -> None:
    assert picture(history.session) == "the history is empty"
    chat = chat_over(history)
    list(chat.ask("x" * 700))
    lines = picture(history.session).splitlines()
    assert "entries show 7" in lines[0]
    seen = history.session.seen()
    assert seen[0][0] == 0
    assert all(one[1] == other[0] for one, other in pairwise(seen))
    for passage in passages(history.session, tokenizer):
        assert (passage.start, passage.stop, 0) in seen
