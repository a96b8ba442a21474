"""Sessions: every token read once, in a Working Context that is legal at every moment and costs the same at any length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mccore import plugins
from mccore.config import Choice, SearchConfig
from mccore.megacontext.focus import controller
from mccore.megacontext.focus.abilities import DeclaredAllocator
from mccore.megacontext.focus.state import FocusError
from mccore.megacontext.networks.networks import MegaContextNets
from mccore.megacontext.sessions import seen
from mccore.megacontext.sessions.batch import SessionBatch
from mccore.megacontext.sessions.cache import WorkingContextCache
from mccore.megacontext.sessions.files import open_session, save_session
from mccore.megacontext.sessions.model import SessionModel
from mccore.megacontext.sessions.options import SessionOptions
from mccore.megacontext.sessions.reading import RowsFailed
from mccore.megacontext.sessions.session import Session
from mccore.megacontext.tree.cut import Cut, check
from mccore.megacontext.tree.tree import Tree, TreeError
from mccore.megacontext.working_context import assemble, model_inputs
from mccore.model import GPT
from mccore.runtime.sessions import TreeBuilder
from tests.support.networks import VOCAB, run_config, stir

W, INTERVAL, RECENT, K = 40, 6, 8, 4


def context_model(
    model: dict[str, Any] | None = None,
    *,
    allocator: str = "greedy",
    options: dict[str, Any] | None = None,
    budget: int = W,
    interval: int = INTERVAL,
    **changes: Any,
) -> SessionModel:
    """A small model whose every path carries signal; `changes` are settings of sessions and of the MegaContext section."""
    of_session = {name: changes.pop(name) for name in ("kv_policy", "surprise", "rounds", "search") if name in changes}
    config = run_config(model, **changes)
    gpt = GPT(config.model)
    stir(gpt)
    nets = MegaContextNets(config.megacontext, config.model)
    stir(nets, 1)
    extension = plugins.load("allocator", allocator)
    eager = {"min_residency": 1, "expand_threshold": -1.0, "collapse_threshold": -1.0}
    chosen = {"recent_tokens": RECENT, "hysteresis": 0.0, **({} if allocator == "spans" else eager), **(options or {})}
    opened = plugins.read_options("allocator", Choice(name=allocator, options=chosen), extension)
    return SessionModel(
        gpt.eval(),
        nets.eval(),
        lambda spec: DeclaredAllocator(extension.build(opened, spec), extension.reads),
        SessionOptions(budget, interval, **of_session),
    )


def new_session(model: SessionModel, **options: Any) -> Session:
    extension = plugins.load("tree", "ram")
    return Session(model, Tree(extension.build(extension.options(), model.encoder.spec()), model.encoder), **options)


def step_all(batch: SessionBatch, tokens: list[int]) -> Tensor:
    """One more token for every session: logits [B, V]."""
    for session, token in zip(batch.sessions, tokens, strict=True):
        session.append_token(token)
    return batch.step()


def ids_of(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, count).tolist()


def reread(session: Session) -> Tensor:
    """The logits that reading the session's whole Working Context at once gives."""
    model = session.model
    session.flush()
    fresh = WorkingContextCache(model.gpt, model.nets, model.options.wc_length)
    with torch.inference_mode():
        return model.gpt.logits(fresh.read(session.focus.cut, session.tree.entries))[0]


def check_legal(session: Session) -> None:
    limits = session.model.limits(session.tokens)
    check(
        session.focus.cut, session.covered, max_lod=limits.max_lod, recent_tokens=min(RECENT, session.tokens), budget=W
    )
    assert session.working_context.entries == len(session.focus.cut) <= W


@pytest.fixture(scope="module")
def model() -> SessionModel:
    return context_model()


# --- what the model is shown ------------------------------------------------------------------------------------------


def test_a_history_that_fits_gives_the_plain_models_logits_bit_for_bit(model: SessionModel) -> None:
    ids = ids_of(W)
    session, cache = new_session(model), model.gpt.new_cache(1, W)
    session.append(ids[:7])
    with torch.inference_mode():
        plain = model.gpt.logits(model.gpt.hidden(torch.tensor([ids[:7]]), cache=cache)[:, -1])[0]
        assert torch.equal(session.read(), plain)
        for token in ids[7:]:
            session.append_token(token)
            plain = model.gpt.logits(model.gpt.hidden(torch.tensor([[token]]), cache=cache)[:, -1])[0]
            assert torch.equal(session.read(), plain)
    assert session.refocuses == 0


@pytest.mark.parametrize("positional", ["simple", "gaussian", "gaussian_alibi", "gaussian_lod2d"])
@pytest.mark.parametrize("span_bias", [True, False])
@pytest.mark.parametrize("token_positions", ["absolute", "contiguous"])
def test_exact_logits_are_those_of_reading_everything_anew(
    positional: str, span_bias: bool, token_positions: str
) -> None:
    session = new_session(context_model(positional=positional, span_bias=span_bias, token_positions=token_positions))
    ids = iter(ids_of(400))
    for step in range(120):
        for _ in range(1 if step % 5 else 3):
            session.append_token(next(ids))
        logits = session.read()
        if session.reading.since and positional == "gaussian_alibi" and session.refocuses:
            continue  # between two refocuses its biases stay those of the last one
        assert torch.allclose(logits, reread(session), atol=2e-4)
    assert session.refocuses > 10
    assert sum(len(done.edits[0][0]) for done in session.recent)  # it isn't all collapses


@pytest.mark.parametrize("token_positions", ["absolute", "contiguous"])
def test_reuse_is_exact_where_keys_depend_on_their_own_entry_alone(token_positions: str) -> None:
    shallow = {"depth": 1, "smear": False, "backout": False}
    logits = []
    for policy in ("exact", "reuse"):
        session = new_session(context_model(shallow, kv_policy=policy, token_positions=token_positions))
        out = []
        for token in ids_of(200):
            session.append_token(token)
            out.append(session.read())
        assert session.refocuses > 10
        logits.append(torch.stack(out))
        entries = session.working_context.entries_read
    assert torch.allclose(*logits, atol=2e-4)
    assert entries < 2.5 * 200  # of every refocus only what is new is read


def test_reuse_reads_less_and_gives_something_else_where_layers_mix() -> None:
    ids, found = ids_of(300), {}
    for policy in ("exact", "reuse"):
        session = new_session(context_model({"smear": True}, kv_policy=policy))
        for token in ids:
            session.append_token(token)
            session.read()
        found[policy] = session
    assert found["reuse"].focus.cut == found["exact"].focus.cut  # LensNet sees entries, not keys
    assert found["reuse"].working_context.entries_read < 0.5 * found["exact"].working_context.entries_read
    stale, exact = found["reuse"].read(), found["exact"].read()
    assert torch.isfinite(stale).all()
    assert not torch.allclose(stale, exact, atol=1e-4)
    assert torch.allclose(exact, reread(found["exact"]), atol=2e-4)


def test_a_token_behind_a_gist_takes_no_share_of_it() -> None:
    model = context_model({"smear": True}, options={"recent_tokens": 0})
    session = new_session(model)
    session.append(ids_of(10 * W))
    session.read()
    edge = Cut(session.focus.cut.level, session.focus.cut.index, K)
    assert edge.level[-1] == 0 or edge.tokens % K == 0
    for token in ids_of(30, 1):
        session.append_token(token)
        assert torch.allclose(session.read(), reread(session), atol=2e-4)


@pytest.mark.parametrize("policy", ["exact", "reuse"])
def test_gists_weigh_no_more_together_than_in_training(policy: str) -> None:
    """Without it the far past takes all attention in the end, whatever it is about."""
    model = context_model(kv_policy=policy)
    assert model.nets.bias is not None
    session = new_session(model)
    reach, mass = model.gpt.config.max_seq_len, []
    for tokens in (150, 1000, 10_000):
        session.append(ids_of(tokens))
        session.read()
        feature = session.working_context.cache.key_bias[0, : session.entries, 0]
        mass.append(float(feature[torch.from_numpy(session.focus.cut.level > 0)].exp().sum()))
        for token in ids_of(10):
            session.append_token(token)
            session.read()
        assert session.working_context.cache.key_bias[0, session.entries - 1].abs().max() == 0
    assert all(reach / 2 < each <= reach * 1.001 for each in mass)
    # A history as long as those of training is read as it was there.
    short = new_session(model)
    short.append(ids_of(reach))
    short.read()
    cut = short.focus.cut
    assert cut.level.any()
    held = short.working_context.cache.key_bias[0, : len(cut), 0].numpy()
    assert np.allclose(held, np.log(cut.span), atol=1e-6)


# --- gate 9: whatever comes, nothing is dropped and the budget holds ------------------------------------------------------


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


def test_an_empty_history_and_wrong_ids(model: SessionModel) -> None:
    session = new_session(model)
    with pytest.raises(ValueError, match="the history is empty"):
        session.read()
    for wrong in ([-1], [1.5], [[1, 2]], "text", [1, model.gpt.config.vocab_size]):
        with pytest.raises(TreeError):
            session.append(wrong)
    session.append([])
    assert session.tokens == 0


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


# --- many at once -----------------------------------------------------------------------------------------------------


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


# --- what was seen ----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("mass", [0, 4, 30, 1000])
@pytest.mark.parametrize("token_positions", ["absolute", "contiguous"])
def test_a_session_reads_its_working_context_as_training_reads_such_a_cut(mass: int, token_positions: Any) -> None:
    model = context_model(token_positions=token_positions, gist_mass=mass or None, kv_policy="exact")
    ids, session = ids_of(110), new_session(model)
    session.append(ids)
    read = session.read()
    cut, gpt, nets = session.focus.cut, model.gpt, model.nets
    assert cut.level.max() == nets.config.max_lod
    level, index = (torch.from_numpy(part.astype(np.int64)).unsqueeze(0) for part in (cut.level, cut.index))
    tokens = torch.tensor([ids])
    with torch.inference_mode():
        contexts = assemble(nets.pyramid(gpt.embed(tokens)), torch.tensor([0]), level, index, K)
        inputs = model_inputs(gpt, contexts, tokens, nets.bias, nets.config.positional, token_positions)
        logits = gpt.logits(gpt.hidden(**inputs)[:, -1])[0]
    torch.testing.assert_close(read, logits, atol=2e-4, rtol=1e-4)


# --- searched histories -----------------------------------------------------------------------------------------------


def searching(**changes: Any) -> SessionModel:
    search = SearchConfig(kind="ngram", span_tokens=8, query_tokens=6)
    return context_model(
        allocator="spans",
        options={"spans": 1, "hysteresis": 0.0},
        search=search,
        token_positions="contiguous",
        **changes,
    )


@pytest.mark.parametrize("kv_policy", ["exact", "reuse"])
def test_what_the_newest_tokens_ask_for_is_shown(kv_policy: str) -> None:
    session = new_session(searching(kv_policy=kv_policy))
    ids = np.random.default_rng(3).integers(0, VOCAB - 8, 400)
    phrase = np.arange(VOCAB - 8, VOCAB)  # nowhere else
    ids[96:104] = phrase
    session.append(ids)
    session.read()
    assert session.focus.cut.tokens == 400
    assert not shown(session, 96, 104)
    session.append(phrase[:5])
    session.refocus_next()
    session.read()
    assert shown(session, 96, 104)  # and the rest of the phrase with it
    check_legal(session)
    for token in ids_of(40, 9):
        session.append_token(token)
        assert torch.isfinite(session.read()).all()
        check_legal(session)
    assert not shown(session, 96, 104)  # nobody asks any more


def shown(session: Session, start: int, stop: int) -> bool:
    cut = session.focus.cut
    return set(range(start, stop)) <= set(cut.index[cut.level == 0].tolist())


def test_a_searched_session_that_was_saved_finds_the_same(tmp_path: Path) -> None:
    model, ids = searching(kv_policy="exact"), np.random.default_rng(5).integers(0, 12, 500)
    whole, first = new_session(model), new_session(model)
    whole.append(ids[:450])
    whole.read()
    first.append(ids[:450])
    first.read()
    trees = TreeBuilder(Choice(name="disk"))
    save_session(first, tmp_path / "kept", trees)
    again, _ = open_session(model, tmp_path / "kept", trees)
    for token in ids[450:].tolist():
        for session in (whole, again):
            session.append_token(token)
        assert torch.equal(whole.read(), again.read())
        assert whole.focus.cut == again.focus.cut
    again.close()


def test_lensnet_isnt_asked_by_an_allocator_that_doesnt_read_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    model = searching()
    monkeypatch.setattr(model.nets.lensnet, "forward", lambda *_: pytest.fail("LensNet was asked"))
    session = new_session(model)
    session.append(ids_of(300))
    session.read()
    assert session.refocuses == 1
