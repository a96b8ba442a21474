"""Sessions that look up: the same alone and in company, before and after they are saved, and what is learned about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mccore.config import SearchConfig
from mccore.megacontext.search.mixing import LookupMixer
from mccore.megacontext.sessions.batch import SessionBatch
from mccore.megacontext.sessions.files import create_session, open_session, save_session
from mccore.megacontext.sessions.lookup.fit import collect, fit, losses, report, session_examples, together
from mccore.megacontext.sessions.model import SessionModel
from mccore.megacontext.sessions.session import Session
from tests.megacontext.sessions.test_files import feed, trees
from tests.support.networks import VOCAB
from tests.support.sessions import INTERVAL, W, context_model, ids_of, new_session, step_all


def looking_model(search: str = "none", **changes: Any) -> SessionModel:
    model = context_model(search=SearchConfig(kind=search, span_tokens=8, query_tokens=8), **changes)
    mixer = LookupMixer()
    with torch.no_grad():
        mixer.out.bias.fill_(1.0)
    model.look_up_with(mixer.requires_grad_(False))
    return model


def repeating(count: int, seed: int = 0) -> list[int]:
    """Words of a few sentences, over and over in any order."""
    rng = np.random.default_rng(seed)
    sentences = [rng.integers(0, VOCAB, 12).tolist() for _ in range(6)]
    return [token for _ in range(count // 12 + 1) for token in sentences[rng.integers(6)]][:count]


@pytest.fixture(scope="module")
def model() -> SessionModel:
    return looking_model()


def test_what_stood_before_is_likely_again_at_every_token(model: SessionModel) -> None:
    sentence = ids_of(10, 3)
    session = new_session(model)
    session.append([*sentence, *ids_of(300), *sentence[:3]])
    for token in sentence[3:]:
        logits = session.read()
        own = session.reading.logits
        assert own is not None
        assert logits.exp().sum() == pytest.approx(1, abs=1e-4)
        assert logits[token] > np.log(0.3) > torch.log_softmax(own, dim=0)[token]
        session.append_token(token)


@pytest.mark.parametrize("search", ["none", "ngram"])
def test_a_batch_says_what_each_session_says_alone(search: str) -> None:
    model = looking_model(search, allocator="spans" if search == "ngram" else "greedy")
    histories = [repeating(count, count) for count in (5, W + 9, 130)]
    alone, together_ = ([new_session(model) for _ in histories] for _ in range(2))
    for session, ids in zip([*alone, *together_], histories * 2, strict=True):
        session.append(ids)
        session.read()
    batch = SessionBatch(together_)
    for number in range(3 * INTERVAL):
        tokens = [ids[number % len(ids)] for ids in histories]
        logits = step_all(batch, tokens)
        for session, token, row in zip(alone, tokens, logits, strict=True):
            session.append_token(token)
            assert torch.allclose(session.read(), row, atol=1e-4)
    batch.release()
    assert [s.lookup.spoken for s in alone] == [s.lookup.spoken for s in together_]  # type: ignore[union-attr]


def test_a_saved_session_goes_on_with_the_same_bits_and_its_own_logits(tmp_path: Path) -> None:
    model = looking_model("ngram", allocator="spans")
    session, twin = create_session(model, tmp_path / "one", trees), new_session(model)
    for each in (session, twin):
        each.append(repeating(200))
        each.read()
        feed(each, repeating(20, 1))
    save_session(session, tmp_path / "one", trees)
    session.close()
    session, _ = open_session(model, tmp_path / "one", trees)
    assert session.working_context.entries_read == 0
    assert session.logits is not None
    assert twin.logits is not None
    assert torch.equal(session.logits, twin.logits)
    assert torch.equal(feed(session, repeating(40, 2)), feed(twin, repeating(40, 2)))
    session.close()


def test_tokens_that_came_after_a_save_are_not_looked_up_before_they_are_read(tmp_path: Path) -> None:
    model = looking_model()
    session = create_session(model, tmp_path / "one", trees)
    session.append(repeating(100))
    before = session.read().clone()
    save_session(session, tmp_path / "one", trees)
    session.append(repeating(50, 5))
    session.close()
    session, _ = open_session(model, tmp_path / "one", trees)
    assert session.unread == 50
    assert session.logits is not None
    assert torch.equal(session.logits, before)
    session.close()


def test_off_is_off_and_without_what_was_learned_too() -> None:
    model = context_model(search=SearchConfig(lookup=False))
    assert model.mixer is None
    assert new_session(model).lookup is None
    model.look_up_with(LookupMixer())
    assert new_session(model).lookup is None


def test_which_past_tokens_spoke_is_remembered(model: SessionModel) -> None:
    sentence = ids_of(10, 3)
    session = new_session(model)
    session.append([*ids_of(40), *sentence, *ids_of(300, 1), *sentence[:3]])
    session.watch()
    for token in sentence[3:8]:
        session.read()
        session.append_token(token)
    session.read()
    session.append_token((sentence[8] + 1) % VOCAB)  # something else than stood there
    found = session.spoken()
    assert (353, 358, 43) in found
    assert all(stop <= 358 for _, stop, _ in found)


# --- what is learned --------------------------------------------------------------------------------------------------


def documents(kind: str, count: int) -> list[np.ndarray]:
    make = repeating if kind == "repeating" else ids_of
    return [np.array(make(300, seed)) for seed in range(count)]


def fitted(kind: str) -> tuple[SessionModel, LookupMixer]:
    model = context_model()
    examples, number = collect(lambda: new_session(model), documents(kind, 4), least=W + INTERVAL, tokens=600)
    assert examples is not None
    assert number == 4
    mixer = fit(examples)
    found = report(mixer, examples, number)
    assert found.nll_with_lookup <= found.nll + 1e-6
    return model, mixer


def gain(model: SessionModel, mixer: LookupMixer, ids: np.ndarray) -> float:
    examples = together(list(session_examples(lambda: new_session(model), ids, 200)))
    return float((losses(mixer, examples) + examples.own).mean())


def test_what_repeats_is_learned_and_what_does_not_costs_nothing() -> None:
    model, mixer = fitted("repeating")
    assert gain(model, mixer, np.array(repeating(300, 77))) < -1.0
    model, mixer = fitted("random")
    assert gain(model, mixer, np.array(ids_of(300, 77))) < 0.01


def test_examples_are_what_a_session_says_token_by_token() -> None:
    model, mixer = fitted("repeating")
    model.look_up_with(mixer)
    ids = np.array(repeating(W + 60, 9))
    examples = next(iter(session_examples(lambda: new_session(model), ids, 59)))
    session: Session = new_session(model)
    begin = len(ids) - 59
    session.append(ids[:begin])
    said = []
    for token in ids[begin : begin + INTERVAL].tolist():
        said.append(-session.read()[token])
        session.append_token(token)
    assert torch.allclose(torch.stack(said), losses(mixer, examples), atol=1e-4)


def test_the_same_examples_teach_the_same() -> None:
    _, one = fitted("repeating")
    _, two = fitted("repeating")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_documents_that_are_all_shown_teach_nothing() -> None:
    model = context_model()
    examples, number = collect(lambda: new_session(model), [np.arange(5)], least=W + INTERVAL)
    assert (examples, number) == (None, 0)
