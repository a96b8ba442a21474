"""Sessions: every token read once, and logits those of reading the whole Working Context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mccore.config import Choice, SearchConfig
from mccore.megacontext.sessions.files import open_session, save_session
from mccore.megacontext.sessions.model import SessionModel
from mccore.megacontext.sessions.session import Session
from mccore.megacontext.tree.cut import Cut
from mccore.megacontext.tree.tree import TreeError
from mccore.megacontext.working_context import assemble, model_inputs
from mccore.runtime.sessions import TreeBuilder
from tests.support.networks import VOCAB
from tests.support.sessions import (
    K,
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


def test_an_empty_history_and_wrong_ids(model: SessionModel) -> None:
    session = new_session(model)
    with pytest.raises(ValueError, match="the history is empty"):
        session.read()
    for wrong in ([-1], [1.5], [[1, 2]], "text", [1, model.gpt.config.vocab_size]):
        with pytest.raises(TreeError):
            session.append(wrong)
    session.append([])
    assert session.tokens == 0


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
