"""What fails on the way can be tried again, alone or in a batch, and nothing is lost or read twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mccore.megacontext.sessions.batch import SessionBatch
from mccore.megacontext.sessions.cache import WorkingContextCache
from mccore.megacontext.sessions.reading import RowsFailed
from mccore.megacontext.tree.cut import Cut
from mccore.megacontext.tree.tree import TreeError
from tests.support.sessions import (
    INTERVAL,
    K,
    W,
    check_legal,
    context_model,
    ids_of,
    new_session,
    reread,
    step_all,
)


def test_what_fails_on_the_way_can_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    session = new_session(context_model())
    session.append(ids_of(W))
    session.read()
    hidden = session.model.gpt.hidden
    for policy_step in range(20):
        session.append_token(policy_step)

        def fail(*args: Any, **inputs: Any) -> Tensor:
            raise RuntimeError("out of memory")

        with monkeypatch.context() as broken:
            broken.setattr(session.model.gpt, "hidden", fail)
            with pytest.raises(RuntimeError, match="out of memory"):
                session.read()
        monkeypatch.setattr(session.model.gpt, "hidden", hidden)
        assert torch.allclose(session.read(), reread(session), atol=2e-4)
        check_legal(session)


@pytest.mark.parametrize("batch", [True, False])
def test_a_token_whose_pass_failed_is_read_before_the_next_one(monkeypatch: pytest.MonkeyPatch, batch: bool) -> None:
    model = context_model()
    sessions = [new_session(model) for _ in range(3)]
    for row, session in enumerate(sessions):
        session.append(ids_of(10 + 9 * row, row))
        session.read()
    together = SessionBatch(sessions)

    def step(token: int) -> None:
        if batch:
            step_all(together, [token] * len(sessions))
        else:
            for session in sessions:
                session.append_token(token)
                session.read()

    step(1)

    def fail(*args: Any, **inputs: Any) -> Tensor:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(model.gpt, "hidden", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            step(2)
    step(3)
    together.release()
    for session in sessions:
        assert torch.allclose(session.read(), reread(session), atol=2e-4)
        assert session.working_context.cache.length == session.working_context.entries == session.entries


@pytest.mark.parametrize("policy", ["exact", "reuse"])
def test_a_batch_that_fails_while_a_row_refocuses_gives_all_rows_back(
    monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    sessions = [new_session(model) for model in [context_model(kv_policy=policy)] for _ in range(3)]
    for row, session in enumerate(sessions):
        session.append(ids_of(60 + 29 * row, row))
        session.read()
    batch = SessionBatch(sessions)
    for token in range(4):
        step_all(batch, [token] * 3)
    prepare = WorkingContextCache.prepare

    def fail(self: WorkingContextCache, cut: Cut, entries_of: Any, policy: Any, *, later: int) -> None:
        def unreadable(part: Cut) -> Any:
            raise OSError("the disk is gone")

        prepare(self, cut, unreadable, policy, later=later)

    def decode() -> None:
        for token in range(2 * INTERVAL):
            step_all(batch, [token] * 3)

    with monkeypatch.context() as broken:
        broken.setattr(WorkingContextCache, "prepare", fail)
        with pytest.raises(RowsFailed, match="the disk is gone"):
            decode()
    batch.release()
    for session in sessions:
        session.read()
        assert session.working_context.cache.length == session.working_context.entries == session.entries
        if policy == "exact":
            assert torch.allclose(session.read(), reread(session), atol=2e-4)


def test_tokens_are_in_the_history_once_where_making_their_gist_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    session = new_session(context_model())
    ids = ids_of(2 * K)
    for token in ids[:K]:
        session.append_token(token)

    def fail(*args: Any) -> Any:
        raise TreeError("a gist isn't finite")

    with monkeypatch.context() as broken:
        broken.setattr(session.model.encoder, "encode", fail)
        with pytest.raises(TreeError, match="isn't finite"):
            session.flush()
    session.append(ids[K:])
    assert session.ids(0, session.tokens).tolist() == ids
