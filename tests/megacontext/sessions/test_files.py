"""Saved sessions: the same bits go on, nothing that was flushed is lost, and what is damaged or another's is named."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mccore import plugins
from mccore.api import TreeBackend, TreeSpec
from mccore.errors import RunError
from mccore.megacontext.sessions.batch import SessionBatch
from mccore.megacontext.sessions.files import create_session, open_session, save_session
from mccore.megacontext.sessions.model import SessionModel
from mccore.megacontext.sessions.session import Session
from mccore.megacontext.sessions.state import SessionError, read_state
from tests.support.networks import VOCAB
from tests.support.sessions import W, context_model, ids_of, new_session, reread, step_all


def trees(spec: TreeSpec) -> TreeBackend:
    extension = plugins.load("tree", "disk" if spec.directory else "ram")
    options = extension.options(fsync=False) if spec.directory else extension.options()
    return extension.build(options, spec)


def feed(session: Session, tokens: list[int]) -> torch.Tensor:
    """The logits after each token [t, V]."""
    out = []
    for token in tokens:
        session.append_token(token)
        out.append(session.read())
    return torch.stack(out)


@pytest.fixture(scope="module")
def model() -> SessionModel:
    return context_model(allocator="stochastic_greedy")


@pytest.mark.parametrize("policy", ["exact", "reuse"])
@pytest.mark.parametrize("tokens", [3, W, 50, 777])
def test_what_goes_on_after_loading_has_the_same_bits(tmp_path: Path, policy: str, tokens: int) -> None:
    model = context_model({"smear": True}, allocator="stochastic_greedy", kv_policy=policy)
    session, twin = create_session(model, tmp_path / "one", trees, seed=5), new_session(model, seed=5)
    for each in (session, twin):
        each.append(ids_of(tokens))
        each.read()
        feed(each, ids_of(20, 1))
    save_session(session, tmp_path / "one", trees, notes={"turn": 3})
    session.close()
    session, notes = open_session(model, tmp_path / "one", trees)
    assert notes == {"turn": 3}
    assert session.working_context.entries_read == 0
    assert torch.equal(feed(session, ids_of(60, 2)), feed(twin, ids_of(60, 2)))
    assert session.focus.cut == twin.focus.cut
    session.close()  # without a save: what came since is there, and unread
    session, _ = open_session(model, tmp_path / "one", trees)
    assert (session.covered, session.unread) == (tokens + 20, 60)
    session.read()
    assert session.covered == tokens + 80
    session.close()


@pytest.mark.parametrize("policy", ["exact", "reuse"])
@pytest.mark.parametrize("tokens", [3, W, 50, 777])
def test_a_copy_goes_on_with_the_same_bits(tmp_path: Path, policy: str, tokens: int) -> None:
    model = context_model({"smear": True}, allocator="stochastic_greedy", kv_policy=policy)
    session = new_session(model, seed=5)
    session.append(ids_of(tokens))
    session.read()
    feed(session, ids_of(20, 1))
    save_session(session, tmp_path / "copy", trees)
    again, _ = open_session(model, tmp_path / "copy", trees)
    assert torch.equal(again.read(), session.read())
    assert again.working_context.entries_read == 0
    assert torch.equal(feed(again, ids_of(60, 2)), feed(session, ids_of(60, 2)))
    assert again.focus.cut == session.focus.cut
    again.close()


def test_without_keys_the_context_is_read_again(tmp_path: Path, model: SessionModel) -> None:
    session = new_session(model)
    session.append(ids_of(300))
    session.read()
    save_session(session, tmp_path, trees, keys=False)
    assert not list(tmp_path.glob("keys-*"))
    again, _ = open_session(model, tmp_path, trees)
    assert torch.allclose(again.read(), session.read(), atol=2e-4)
    assert again.working_context.entries_read == len(session.focus.cut)
    again.close()


def test_only_the_newest_keys_are_kept(tmp_path: Path, model: SessionModel) -> None:
    session = create_session(model, tmp_path / "s", trees)
    for seed in range(3):
        session.append(ids_of(100, seed))
        session.read()
        save_session(session, tmp_path / "s", trees)
    assert len(list((tmp_path / "s").glob("keys-*"))) == 1
    session.close()


def test_other_settings_read_the_context_again(tmp_path: Path) -> None:
    session = new_session(context_model())
    session.append(ids_of(500))
    session.read()
    save_session(session, tmp_path, trees)
    for changes in ({"budget": 36}, {"budget": 60}, {"kv_policy": "reuse"}, {"options": {"recent_tokens": 12}}):
        again, _ = open_session(context_model(**changes), tmp_path, trees)
        logits = again.read()
        assert len(again.focus.cut) <= again.model.options.wc_length
        assert torch.allclose(logits, reread(again), atol=2e-4)
        again.close()


@pytest.mark.parametrize("damage", ["flip", "empty", "missing"])
def test_damaged_keys_are_made_again(tmp_path: Path, model: SessionModel, damage: str) -> None:
    session = new_session(model)
    session.append(ids_of(300))
    session.read()
    save_session(session, tmp_path, trees)
    (path,) = tmp_path.glob("keys-*")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else b"")
    again, _ = open_session(model, tmp_path, trees)
    assert torch.allclose(again.read(), session.read(), atol=2e-4)
    again.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.update(format="else"), "isn't the state of a session"),
        (lambda state: state.update(version=9), "it has format version 9, and this mccore reads version 1"),
        (lambda state: state.update(model="another"), "is of another model than this one"),
        (lambda state: state.update(block_size=8), "is damaged: its cut covers"),
        (lambda state: state.update(tokens=10**6), "holds 300 tokens, and .* speaks of 1000000"),
        (lambda state: state.update(covered=7), "its cut covers 300 tokens"),
        (lambda state: state.update(cut=[[2, 3], [0, 1], [1, 1]]), "is damaged"),
        (lambda state: state.update(age=[1]), "is damaged"),
        (lambda state: state.update(age=[10**12] * len(state["age"])), "is damaged"),
        (lambda state: state.update(recent=[[[[10**30, 1]], []]]), "is damaged"),
        (lambda state: state.update(cut=[[0, 10**13]]), "is damaged: its cut has 10000000000000 entries"),
        (lambda state: state.pop("cut"), "is damaged"),
    ],
)
def test_what_can_not_be_opened_is_named(tmp_path: Path, model: SessionModel, change: Any, message: str) -> None:
    session = new_session(model)
    session.append(ids_of(300))
    session.read()
    save_session(session, tmp_path, trees)
    path = tmp_path / "session.json"
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))
    with pytest.raises(SessionError, match=message):
        open_session(model, tmp_path, trees)
    path.write_text("{")
    with pytest.raises(SessionError, match="is damaged"):
        read_state(tmp_path)
    with pytest.raises(SessionError, match="there is no session in"):
        read_state(tmp_path / "nowhere")


def test_a_history_without_its_state_is_not_taken_for_a_new_session(tmp_path: Path, model: SessionModel) -> None:
    session = create_session(model, tmp_path, trees)
    session.append(ids_of(50))
    session.close()
    (tmp_path / "session.json").unlink()
    for _ in range(2):  # and is let go of
        with pytest.raises(SessionError, match="holds a history of 50 tokens"):
            create_session(model, tmp_path, trees)


def test_keys_that_a_batch_holds_are_saved_with_the_session(tmp_path: Path) -> None:
    model = context_model()
    sessions = [new_session(model) for _ in range(2)]
    for session in sessions:
        session.append(ids_of(20))
        session.read()
    batch = SessionBatch(sessions)
    step_all(batch, [3, 4])
    logits = step_all(batch, [5, 6])
    save_session(sessions[0], tmp_path, trees)
    assert read_state(tmp_path).keys is not None
    again, _ = open_session(model, tmp_path, trees)
    assert torch.equal(again.read(), logits[0])
    logits = step_all(batch, [7, 8])  # and the batch goes on
    again.append_token(7)
    assert torch.allclose(again.read(), logits[0], atol=2e-4)
    again.close()


def test_a_session_lives_in_one_process_and_one_place(tmp_path: Path, model: SessionModel) -> None:
    session = create_session(model, tmp_path / "one", trees)
    with pytest.raises(SessionError, match="there is a session in"):
        create_session(model, tmp_path / "one", trees)
    with pytest.raises(RunError, match="is open elsewhere"):
        open_session(model, tmp_path / "one", trees)
    with pytest.raises(SessionError, match="isn't empty"):
        save_session(session, tmp_path, trees)
    session.close()


class Interleavings(RuleBasedStateMachine):
    """Appending, reading, refocusing, saving, copying, crashing and loading in any order, against a list of tokens."""

    directory: Path
    in_memory = False

    @initialize()
    def start(self) -> None:
        self.model = MODEL
        self.directory = Path(tempfile.mkdtemp())
        self.home: Path | None = None if self.in_memory else self.directory / "0"
        if self.home is None:
            self.session = new_session(self.model, seed=1)
        else:
            self.session = create_session(self.model, self.home, trees, seed=1)
        self.copies = 0
        self.tokens: list[int] = []
        self.flushed = self.saved = 0

    @rule(count=st.integers(0, 70), seed=st.integers(0, 9))
    def append(self, count: int, seed: int) -> None:
        self.session.append(ids_of(count, seed))
        self.tokens += ids_of(count, seed)

    @rule(token=st.integers(0, VOCAB - 1))
    def decode(self, token: int) -> None:
        self.session.append_token(token)
        self.tokens.append(token)
        self.session.read()

    @precondition(lambda self: self.tokens)
    @rule(refocus=st.booleans())
    def read(self, refocus: bool) -> None:
        if refocus:
            self.session.refocus_next()
        self.session.read()
        assert self.session.covered == len(self.tokens)

    @precondition(lambda self: self.home is not None)
    @rule()
    def save(self) -> None:
        save_session(self.session, self.home, trees)
        self.flushed = self.saved = len(self.tokens)

    @precondition(lambda self: self.home is not None)
    @rule()
    def flush(self) -> None:
        self.session.flush()
        self.flushed = len(self.tokens)

    @rule()
    def branch(self) -> None:
        self.copies += 1
        place = self.directory / str(self.copies)
        save_session(self.session, place, trees)
        before = self.session.read() if self.tokens else None
        self.session.close()
        self.home = place
        self.session, _ = open_session(self.model, place, trees)
        self.flushed = self.saved = len(self.tokens)
        if before is not None:
            assert torch.allclose(self.session.read(), before, atol=2e-4)

    @precondition(lambda self: self.home is not None)
    @rule()
    def crash(self) -> None:
        backend = self.session.tree.backend
        lock = backend._lock
        lock.close()  # as the end of the process does; nothing is flushed
        self.session, _ = open_session(self.model, self.home, trees)
        assert self.session.tokens >= self.flushed
        assert self.session.covered <= self.session.tokens
        del self.tokens[self.session.tokens :]

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "session"):
            return
        assert self.session.tokens == len(self.tokens)
        assert self.session.ids(0, len(self.tokens)).tolist() == self.tokens
        assert len(self.session.focus.cut) <= W
        assert self.session.focus.cut.tokens == self.session.covered

    def teardown(self) -> None:
        if hasattr(self, "session"):
            if self.tokens:
                assert torch.allclose(self.session.read(), reread(self.session), atol=2e-4)
            self.session.close()
            shutil.rmtree(self.directory)


MODEL = context_model()
SETTINGS = settings(
    max_examples=12, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


class InterleavingsFromMemory(Interleavings):
    """The same from a session in memory, which has no place to be saved in or to crash until it is copied to one."""

    in_memory = True


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = SETTINGS
TestInterleavingsFromMemory = InterleavingsFromMemory.TestCase
TestInterleavingsFromMemory.settings = SETTINGS


def test_opening_does_not_depend_on_the_length_of_the_history(tmp_path: Path, model: SessionModel) -> None:
    session = new_session(model)
    session.append(np.random.default_rng(0).integers(0, VOCAB, 200_000))
    session.read()
    save_session(session, tmp_path, trees)
    again, _ = open_session(model, tmp_path, trees)
    assert torch.equal(again.read(), session.read())
    assert again.working_context.entries_read == 0
    again.close()
