"""Sessions that are read together give what each gives alone."""

from __future__ import annotations

import pytest
import torch

from mccore.megacontext.sessions.batch import SessionBatch
from mccore.megacontext.sessions.model import SessionModel
from tests.support.sessions import (
    INTERVAL,
    W,
    context_model,
    ids_of,
    new_session,
    step_all,
)


@pytest.fixture(scope="module")
def model() -> SessionModel:
    return context_model()


@pytest.mark.parametrize("smear", [True, False])
@pytest.mark.parametrize("policy", ["exact", "reuse"])
def test_a_batch_gives_what_each_session_gives_alone(smear: bool, policy: str) -> None:
    model = context_model({"smear": smear}, kv_policy=policy)
    starts = [1, 5, W - 3, 3 * W, 700]
    alone, together = ([new_session(model, seed=row) for row in range(len(starts))] for _ in range(2))
    for row, start in enumerate(starts):
        for session in (alone[row], together[row]):
            session.append(ids_of(start, row))
            session.read()
    batch, rows = SessionBatch(together), list(range(len(starts)))
    for step in range(150):
        if step == 60:
            rows = [0, 2, 4]
            batch.keep(rows)
        if step == 90:
            batch.release()
        if step == 120:
            rows = [4]
            batch.keep([2])
        tokens = ids_of(len(starts), 1000 + step)
        logits = step_all(batch, [tokens[row] for row in rows])
        for at, row in enumerate(rows):
            alone[row].append_token(tokens[row])
            assert torch.allclose(logits[at], alone[row].read(), atol=5e-4)
            assert torch.equal(together[row].read(), logits[at])
    batch.release()
    for row in range(len(starts)):
        assert together[row].focus.cut == alone[row].focus.cut
        for session in (alone[row], together[row]):
            session.append(ids_of(3, 77))
        assert torch.allclose(alone[row].read(), together[row].read(), atol=5e-4)


def test_rows_that_join_and_leave_let_the_others_be() -> None:
    model = context_model()
    starts = {number: 3 + 17 * number for number in range(9)}
    alone, here = ({number: new_session(model, seed=number) for number in starts} for _ in range(2))
    for number, start in starts.items():
        for session in (alone[number], here[number]):
            session.append(ids_of(start, number))
            session.read()
    batch, rows = SessionBatch([here[0], here[1]]), [0, 1]
    joins, leaves = {5: [2], 8: [3, 4, 5], 20: [6], 40: [7, 8]}, {12: 1, 13: 0, 30: 5, 31: 2, 50: 8}
    for step in range(2 * INTERVAL + 60):
        if step in joins:
            batch.add([here[number] for number in joins[step]])
            rows += joins[step]
        if step in leaves:
            gone = rows.index(leaves[step])
            batch.keep([row for row in range(len(rows)) if row != gone])
            del rows[gone]
        tokens = ids_of(len(starts), 2000 + step)
        logits = step_all(batch, [tokens[number] for number in rows])
        for at, number in enumerate(rows):
            alone[number].append_token(tokens[number])
            assert torch.allclose(logits[at], alone[number].read(), atol=5e-4), (step, number)
    batch.release()
    for number in rows:
        assert here[number].focus.cut == alone[number].focus.cut


@pytest.mark.parametrize("policy", ["exact", "reuse"])
def test_a_batch_measures_distances_from_where_a_session_alone_does(policy: str) -> None:
    model = context_model(positional="gaussian_alibi", kv_policy=policy)
    alone, together = ([new_session(model, seed=row) for row in range(3)] for _ in range(2))
    for row in range(3):
        for session in (alone[row], together[row]):
            session.append(ids_of(90 + row, row))
            session.read()
    batch = SessionBatch(together)
    for token in range(3 * INTERVAL):
        for session, logits in zip(alone, step_all(batch, [token] * 3), strict=True):
            session.append_token(token)
            assert torch.allclose(logits, session.read(), atol=1e-4)


def test_a_batch_refuses_a_session_twice_and_another_model(model: SessionModel) -> None:
    session = new_session(model)
    with pytest.raises(ValueError, match="twice"):
        SessionBatch([session, session])
    with pytest.raises(ValueError, match="share one SessionModel"):
        SessionBatch([session, new_session(context_model())])
