"""What was seen of a history, at what level."""

from __future__ import annotations

import numpy as np
import pytest

from mccore.megacontext.sessions import seen
from mccore.megacontext.sessions.model import SessionModel
from tests.support.sessions import (
    W,
    context_model,
    ids_of,
    new_session,
)


@pytest.fixture(scope="module")
def model() -> SessionModel:
    return context_model()


def test_what_was_seen_is_the_finest_level_of_every_token(model: SessionModel) -> None:
    session = new_session(model)
    session.append(ids_of(6 * W))
    session.read()
    session.watch()
    cuts = [session.focus.cut]
    for token in ids_of(50):
        session.append_token(token)
        session.read()
        cuts.append(session.focus.cut)
    finest = np.full(session.tokens, 99)
    for cut in cuts:
        finest[: cut.tokens] = np.minimum(finest[: cut.tokens], np.repeat(cut.level, cut.span))
    told = np.concatenate([np.full(stop - start, level) for start, stop, level in session.seen()])
    assert np.array_equal(told, finest)
    assert new_session(model).seen() == []


def test_what_was_seen_takes_no_more_memory_the_longer_it_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    model = context_model(interval=1)
    kept = []
    for views in (4, 1000):
        monkeypatch.setattr(seen, "KEPT_VIEWS", views)
        session = new_session(model)
        session.append(ids_of(6 * W))
        session.read()
        session.watch()
        for token in ids_of(60):
            session.append_token(token)
            session.read()
        assert session.refocuses > 50
        assert session._views is not None
        assert len(session._views._runs) <= views
        kept.append(session.seen())
    assert kept[0] == kept[1]
