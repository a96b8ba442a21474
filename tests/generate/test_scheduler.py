"""Requests join and leave a running batch, and each gets what it would get alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mccore.errors import MccoreError
from mccore.generate.answer import Answer, Prefix, Request
from mccore.generate.engine import Engine
from mccore.generate.sampling import Sampling
from mccore.megacontext.focus.state import FocusError
from mccore.megacontext.sessions.session import Session
from mccore.model import GPT
from tests.generate.test_memory import context_model, new_session

PROMPTS = [[65, 66, 67], [70], [80, 81, 82, 83, 84, 85, 86], [90, 91]]
KINDS = [Sampling(0.9, 30, 20, 1), Sampling(max_new_tokens=9), Sampling(1.0, 0, 25, 2), Sampling(0.7, 5, 14, 3)]


def alone(engine: Engine, request: Request) -> list[int]:
    return list(engine.stream(request))


def run_all(engine: Engine, requests: list[Request], *, every: int) -> list[Answer]:
    """Add a request every few steps, and step to the end."""
    answers: list[Answer] = []
    waiting = list(requests)
    step = 0
    while waiting or any(answer.finish is None for answer in answers):
        if waiting and step % every == 0:
            answers.append(engine.add(waiting.pop(0)))
        engine.step()
        step += 1
    return answers


@pytest.mark.parametrize("every", [1, 3, 40])
def test_requests_that_join_a_running_batch_get_what_they_get_alone(engine: Engine, every: int) -> None:
    requests = [Request(ids, sampling, stop=()) for ids, sampling in zip(PROMPTS, KINDS, strict=True)]
    answers = run_all(engine, requests, every=every)
    assert [answer.tokens for answer in answers] == [alone(engine, request) for request in requests]
    assert [answer.finish for answer in answers] == ["length"] * 4


def test_prompts_and_sessions_run_side_by_side(random_gpt: Callable[..., GPT], engine: Engine) -> None:
    model = context_model(random_gpt())
    mine = Engine(model.gpt, engine.tokenizer)

    def requests() -> list[Request]:
        made = []
        for row, (ids, sampling) in enumerate(zip(PROMPTS, KINDS, strict=True)):
            session = new_session(model, row) if row % 2 else None
            if session is not None:
                session.append(range(100 + 30 * row))
            made.append(Request(ids, sampling, session, stop=(), stream=row))
        return made

    joined, single = requests(), requests()
    answers = run_all(mine, joined, every=2)
    assert [answer.tokens for answer in answers] == [alone(mine, request) for request in single]
    for one, other in zip(joined, single, strict=True):
        if one.session is not None and other.session is not None:
            assert history(one.session) == history(other.session)
            assert one.session.unread == 1  # what came last is in the history, and nothing had to be read after it


def history(session: Session) -> list[int]:
    return session.ids(0, session.tokens).tolist()


def test_more_than_may_run_wait_for_others_to_end(model: GPT, engine: Engine) -> None:
    narrow = Engine(model, engine.tokenizer, max_rows=2)
    answers = [narrow.add(Request(ids, sampling, stop=())) for ids, sampling in zip(PROMPTS, KINDS, strict=True)]
    narrow.step()
    assert [len(answer.tokens) for answer in answers] == [1, 1, 0, 0]
    for _ in range(8):
        narrow.step()
    assert answers[1].finish == "length"
    narrow.step()
    assert [len(answer.tokens) for answer in answers] == [10, 9, 1, 0]


def test_an_answer_that_is_cancelled_leaves_the_others_alone(engine: Engine) -> None:
    requests = [Request(ids, Sampling(max_new_tokens=12), stop=()) for ids in PROMPTS]
    answers = [engine.add(request) for request in requests]
    for _ in range(4):
        engine.step()
    engine.cancel(answers[1])
    while any(answer.finish is None for row, answer in enumerate(answers) if row != 1):
        engine.step()
    assert (len(answers[1].tokens), answers[1].finish) == (4, None)
    assert [answers[row].tokens for row in (0, 2, 3)] == [alone(engine, requests[row]) for row in (0, 2, 3)]
    assert engine.step() == []


def test_a_request_that_fails_ends_alone(random_gpt: Callable[..., GPT], engine: Engine) -> None:
    model = context_model(random_gpt())
    mine = Engine(model.gpt, engine.tokenizer)
    good, bad, later = new_session(model), new_session(model), new_session(model)
    for session in (good, bad):
        session.append(range(150))
    running = mine.add(Request([65], Sampling(max_new_tokens=10), good, stop=()))
    mine.step()

    def fail() -> torch.Tensor:
        raise FocusError("scores are not numbers")

    bad.read = fail  # type: ignore[method-assign]
    failing = mine.add(Request([65], Sampling(max_new_tokens=10), bad, stop=()))
    waiting = mine.add(Request([66], Sampling(max_new_tokens=10), later, stop=()))
    with pytest.raises(FocusError):
        mine.step()
    while running.finish is None or waiting.finish is None:
        mine.step()
    assert (len(running.tokens), len(waiting.tokens)) == (10, 10)
    assert (failing.tokens, failing.finish) == ([], None)


def test_a_row_that_fails_among_others_leaves_their_tokens_as_they_are(
    random_gpt: Callable[..., GPT], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = context_model(random_gpt())
    mine = Engine(model.gpt, engine.tokenizer)
    sampling = Sampling(temperature=0.9, max_new_tokens=50, seed=4)

    def request(length: int) -> Request:
        session = new_session(model)
        session.append(range(length))
        return Request([65], sampling, session, stop=(), stream=length)

    lengths = (150, 40, 90, 220)
    requests = [request(length) for length in lengths]
    answers = [mine.add(each) for each in requests]
    for _ in range(5):
        mine.step()
    raised = []
    for row, name in ((1, "advance"), (2, "append_token")):
        session = requests[row].session

        def fail(*_: object) -> None:
            raise FocusError("scores are not numbers")

        monkeypatch.setattr(session, name, fail)
    while any(answers[row].finish is None for row in (0, 3)):
        try:
            mine.step()
        except FocusError as error:
            raised.append(error)
    assert [raised] == [[answers[1].error]]  # both in one step: one of them is raised
    assert isinstance(answers[2].error, FocusError)
    for row in (0, 3):
        assert answers[row].tokens == mine.run([request(lengths[row])])[0].tokens


def test_what_cannot_be_asked_is_refused(random_gpt: Callable[..., GPT], engine: Engine) -> None:
    session = new_session(context_model(random_gpt()))
    engine.add(Request([65], session=session))
    with pytest.raises(ValueError, match="twice"):
        engine.add(Request([66], session=session))
    with pytest.raises(ValueError, match="takes no prefix"):
        Request([65], session=session, prefix=Prefix())
    with pytest.raises(ValueError, match="at least one token"):
        Request([])
    with pytest.raises(MccoreError, match="no room for an answer"):
        engine.add(Request([65] * 128))
