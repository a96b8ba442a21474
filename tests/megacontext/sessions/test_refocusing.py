"""Whatever comes, nothing is dropped and the budget holds; and a session refocuses when it should."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mccore.megacontext.focus import controller
from mccore.megacontext.focus.state import FocusError
from mccore.megacontext.sessions.model import SessionModel
from mccore.megacontext.sessions.session import Session
from tests.support.sessions import (
    INTERVAL,
    W,
    check_legal,
    context_model,
    ids_of,
    new_session,
    reread,
)


@pytest.fixture(scope="module")
def model() -> SessionModel:
    return context_model()


SCORES: dict[str, Callable[[int], np.ndarray]] = {
    "all +1": lambda length: np.ones(length, dtype=np.float32),
    "all -1": lambda length: -np.ones(length, dtype=np.float32),
    "alternating": lambda length: np.where(np.arange(length) % 2, 1, -1).astype(np.float32),
    "random": lambda length: np.random.default_rng(length).uniform(-1, 1, length).astype(np.float32),
}


@pytest.mark.parametrize("allocator", ["greedy", "stochastic_greedy"])
@pytest.mark.parametrize("kind", SCORES)
def test_streaming_is_legal_at_every_step(
    model: SessionModel, kind: str, allocator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        controller, "score_cuts", lambda lens, embeddings, cuts, *rest: [SCORES[kind](len(cut)) for cut in cuts]
    )
    session = new_session(context_model(allocator=allocator))
    for at, token in enumerate(ids_of(150)):
        session.append_token(token)
        session.read()
        assert session.covered == at + 1
        check_legal(session)


def test_scores_that_are_not_numbers_are_refused_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    session = new_session(context_model())
    session.append(ids_of(W))
    session.read()
    before = session.focus.cut
    with monkeypatch.context() as broken:
        broken.setattr(controller, "score_cuts", lambda lens, embeddings, cuts, *rest: [np.full(len(cuts[0]), np.nan)])
        session.append_token(3)
        with pytest.raises(FocusError, match="is nan: scores lie in"):
            session.read()
        assert session.focus.cut == before
        assert session.tokens == W + 1
        with pytest.raises(FocusError):
            session.read()
    assert torch.allclose(session.read(), reread(session), atol=2e-4)
    assert session.covered == W + 1


@settings(max_examples=15, deadline=None)
@given(pieces=st.lists(st.integers(0, 3 * W), min_size=1, max_size=5), batch=st.booleans())
def test_any_pieces_cover_the_whole_history(model: SessionModel, pieces: list[int], batch: bool) -> None:
    session, total = new_session(model), 0
    for seed, piece in enumerate(pieces):
        ids = ids_of(piece, seed)
        if batch:
            session.append(ids)
        else:
            for token in ids:
                session.append_token(token)
        total += piece
        if total:
            session.read()
            check_legal(session)
    assert session.tokens == session.covered == total
    assert session.unread == 0
    whole = [token for seed, piece in enumerate(pieces) for token in ids_of(piece, seed)]
    assert session.ids(0, total).tolist() == whole


def test_a_long_prompt_costs_one_working_context(model: SessionModel) -> None:
    session = new_session(model)
    session.append(ids_of(20_000))
    session.read()
    assert session.working_context.entries_read <= W
    check_legal(session)
    assert session.focus.cut.level.max() > model.nets.config.max_lod  # coarser than any in training
    assert torch.allclose(session.read(), reread(session), atol=2e-4)


def test_the_cost_of_a_token_does_not_grow_with_the_history(model: SessionModel) -> None:
    read = {}
    for tokens in (500, 50_000):
        session = new_session(model)
        session.append(ids_of(tokens))
        session.read()
        before = session.working_context.entries_read
        for token in ids_of(120, 1):
            session.append_token(token)
            session.read()
        read[tokens] = session.working_context.entries_read - before
    assert read[50_000] <= W / INTERVAL * 120 + 120
    assert read[50_000] < 1.5 * read[500]


def test_a_budget_without_room_is_refused() -> None:
    with pytest.raises(
        FocusError, match="a Working Context of 24 entries is too small for a history 64 times as long: 8 recent"
    ):
        context_model(budget=24)


# --- when it refocuses ------------------------------------------------------------------------------------------------


def refocuses_of(session: Session, tokens: Sequence[int]) -> list[int]:
    at = []
    for step, token in enumerate(tokens):
        before = session.refocuses
        session.append_token(token)
        session.read()
        if session.refocuses > before:
            at.append(step)
    return at


def test_it_refocuses_every_interval_and_when_asked() -> None:
    session = new_session(context_model())
    session.append(ids_of(5 * W))
    session.read()
    assert refocuses_of(session, ids_of(3 * INTERVAL)) == [INTERVAL - 1, 2 * INTERVAL - 1, 3 * INTERVAL - 1]
    session.refocus_next()
    assert refocuses_of(session, ids_of(INTERVAL)) == [0]
    session.refocus_next()
    before = session.refocuses
    session.read()  # no new token is needed
    assert session.refocuses == before + 1


def test_asking_is_without_effect_while_everything_fits(model: SessionModel) -> None:
    session = new_session(model)
    session.append(ids_of(10))
    session.refocus_next()
    session.read()
    assert session.refocuses == 0


def test_a_surprise_brings_the_refocus_forward() -> None:
    settings = {"interval": 12, "surprise": 4.0}
    for likely, expected in ((True, False), (False, True)):
        session = new_session(context_model(**settings))
        session.append(ids_of(5 * W))
        found = False
        for _ in range(11):
            logits = session.read()
            order = logits.argsort()
            session.append_token(int(order[-1] if likely else order[0]))
            surprise = float(logits.logsumexp(0) - logits[order[0]])
            before = session.refocuses
            session.read()
            found |= session.refocuses > before
            assert surprise > settings["surprise"] or likely
        assert found is expected


@pytest.mark.parametrize("allocator", ["greedy", "stochastic_greedy"])
def test_a_session_does_the_same_in_any_company(allocator: str) -> None:
    model = context_model(allocator=allocator)
    alone = new_session(model, seed=3)
    refocuses_of(alone, ids_of(200))
    together, other = new_session(model, seed=3), new_session(model, seed=4)
    for token, noise in zip(ids_of(200), ids_of(200, 9), strict=True):
        refocuses_of(other, [noise])
        refocuses_of(together, [token])
    assert together.focus.cut == alone.focus.cut
    assert torch.equal(together.read(), alone.read())
