"""Mounted sessions: they begin with another one's history and its bits, share it, and leave it as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mccore import plugins
from mccore.api import TreeBackend, TreeSpec
from mccore.errors import RunError
from mccore.megacontext.sessions.files import (
    branch_session,
    create_session,
    mount_context,
    open_session,
    save_session,
)
from mccore.megacontext.sessions.model import SessionModel
from mccore.megacontext.sessions.state import SessionError, read_state
from tests.megacontext.sessions.test_files import feed, trees
from tests.support.sessions import context_model, ids_of, new_session


@pytest.fixture(scope="module")
def model() -> SessionModel:
    return context_model({"smear": True}, allocator="stochastic_greedy")


@pytest.fixture
def build(tmp_path: Path, model: SessionModel) -> Callable[..., Path]:
    def make(tokens: int = 777, seed: int = 0, name: str = "base") -> Path:
        session = create_session(model, tmp_path / name, trees, seed=5)
        session.append(ids_of(tokens, seed))
        session.read()
        save_session(session, tmp_path / name, trees, notes={"context": None})
        session.close()
        return tmp_path / name

    return make


def content(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


@pytest.mark.parametrize("tokens", [3, 300, 777])
def test_a_mounted_session_goes_on_with_the_bits_of_its_base(
    tmp_path: Path, model: SessionModel, build: Callable[..., Path], tokens: int
) -> None:
    base = build(tokens)
    before = content(base)
    twin = new_session(model, seed=5)
    twin.append(ids_of(tokens))
    mounted = mount_context(model, base, trees, tmp_path / "own", seed=5)
    assert torch.equal(mounted.read(), twin.read())
    assert mounted.working_context.entries_read == 0  # its keys came with it
    assert torch.equal(feed(mounted, ids_of(60, 2)), feed(twin, ids_of(60, 2)))
    save_session(mounted, tmp_path / "own", trees, notes={"turn": 1})
    mounted.close()
    mounted, notes = open_session(model, tmp_path / "own", trees)
    assert notes == {"turn": 1}
    assert torch.equal(feed(mounted, ids_of(60, 3)), feed(twin, ids_of(60, 3)))
    assert mounted.focus.cut == twin.focus.cut
    assert mounted.ids(0, mounted.tokens).tolist() == ids_of(tokens) + ids_of(60, 2) + ids_of(60, 3)
    twin.flush()
    for level in range(1, model.levels + 1):
        rows = mounted.tree.backend.length(level)
        assert rows == mounted.tokens // 4**level
        assert (mounted.tree.backend.read(level, 0, rows) == twin.tree.backend.read(level, 0, rows)).all()
    mounted.close()
    assert content(base) == before
    own = trees(model.encoder.spec(tmp_path / "own" / "tree"))
    assert own.length(0) == 120  # nothing was copied
    own.close()


def test_many_mount_one_context_at_once_beside_its_writer(
    tmp_path: Path, model: SessionModel, build: Callable[..., Path]
) -> None:
    base = build()
    writer, _ = open_session(model, base, trees)
    sessions = [mount_context(model, base, trees, seed=seed) for seed in range(3)]
    for seed, session in enumerate(sessions):
        session.append(ids_of(30, seed))
        session.read()
    writer.append(ids_of(50, 9))
    save_session(writer, base, trees)
    for seed, session in enumerate(sessions):
        assert session.ids(0, session.tokens).tolist() == ids_of(777) + ids_of(30, seed)
        save_session(session, tmp_path / str(seed), trees)
        session.close()
    writer.close()
    again, _ = open_session(model, tmp_path / "1", trees)  # the base has grown, and begins as it did
    assert again.ids(0, again.tokens).tolist() == ids_of(777) + ids_of(30, 1)
    with pytest.raises(RunError, match="is open elsewhere"):
        open_session(model, tmp_path / "1", trees)
    again.close()


def test_a_mounted_session_is_mounted(tmp_path: Path, model: SessionModel, build: Callable[..., Path]) -> None:
    twin = new_session(model)
    twin.append(ids_of(777))
    base = build()
    for depth in range(3):
        home = tmp_path / str(depth)
        session = mount_context(model, base, trees, home, seed=5)
        feed(session, ids_of(23, depth))
        twin.append(ids_of(23, depth))
        save_session(session, home, trees)
        session.close()
        base = home
    session, _ = open_session(model, base, trees)
    assert session.ids(0, session.tokens).tolist() == twin.ids(0, twin.tokens).tolist()
    for level in range(1, model.levels + 1):
        rows = session.tree.backend.length(level)
        assert (session.tree.backend.read(level, 0, rows) == twin.tree.backend.read(level, 0, rows)).all()
    session.close()


def test_with_other_settings_the_context_is_read_again(
    tmp_path: Path, build: Callable[..., Path], model: SessionModel
) -> None:
    other = context_model({"smear": True}, allocator="greedy", budget=60)
    session = mount_context(other, build(), trees)
    assert session.working_context.entries_read == 0
    session.read()
    assert session.working_context.entries_read > 0
    session.close()


def test_a_base_that_is_gone_or_another_is_named(
    tmp_path: Path, model: SessionModel, build: Callable[..., Path]
) -> None:
    base = build()
    mount_context(model, base, trees, tmp_path / "own").close()
    reference = read_state(tmp_path / "own").base
    assert reference is not None
    assert (reference.path, reference.tokens) == (str(base.resolve()), 777)
    shutil.move(base, tmp_path / "away")
    with pytest.raises(SessionError, match=r"begins with the context in .*base, which isn't there"):
        open_session(model, tmp_path / "own", trees)
    for tokens, seed in ((777, 1), (500, 0)):
        build(tokens, seed)
        with pytest.raises(SessionError, match="isn't the one that this session begins with any more"):
            open_session(model, tmp_path / "own", trees)
        shutil.rmtree(base)
    build()  # the very same again
    session, _ = open_session(model, tmp_path / "own", trees)
    session.close()


def test_what_can_not_be_mounted_is_named(tmp_path: Path, model: SessionModel, build: Callable[..., Path]) -> None:
    base = build()
    with pytest.raises(SessionError, match="there is no session in"):
        mount_context(model, tmp_path / "nowhere", trees)
    with pytest.raises(SessionError, match="there is a session in"):
        mount_context(model, base, trees, base)
    other = context_model({"smear": True})
    other.identity = "another"
    with pytest.raises(SessionError, match="is of another model"):
        mount_context(other, base, trees)

    def memory(spec: TreeSpec) -> TreeBackend:
        extension = plugins.load("tree", "ram")
        return extension.build(extension.options(), spec)

    with pytest.raises(SessionError, match="a RamTree, can be open only once"):
        mount_context(model, base, memory)
    session = create_session(model, tmp_path / "one", trees)
    session.append(ids_of(10))
    session.close()
    (tmp_path / "one" / "session.json").unlink()
    with pytest.raises(SessionError, match="one isn't empty"):
        mount_context(model, base, trees, tmp_path / "one")
    mount_context(model, base, trees, tmp_path / "two").close()  # and what failed has let go of the base


@pytest.mark.parametrize("mounted", [False, True])
@pytest.mark.parametrize("back", [0, 1, 7, 400])
def test_a_branch_is_what_the_session_was_then(
    tmp_path: Path, model: SessionModel, build: Callable[..., Path], mounted: bool, back: int
) -> None:
    base = build(100)
    own = tmp_path / "own"
    session = mount_context(model, base, trees, own, seed=5) if mounted else open_session(model, base, trees)[0]
    session.append(ids_of(700, 1))
    session.read()
    logits = session.logits
    at = session.tokens - back
    branch = branch_session(session, tmp_path / "branch", trees, at)
    assert branch.ids(0, at).tolist() == session.ids(0, at).tolist()
    twin = new_session(model, seed=5)
    twin.append(session.ids(0, at))
    if back:
        assert torch.equal(branch.read(), twin.read())  # it focuses anew, as a session that begins with these tokens
    else:
        assert torch.equal(branch.read(), logits)
    entries = [[each.tree.backend.length(level) for level in range(3)] for each in (branch, twin)]
    assert entries[0] == entries[1]
    feed(branch, ids_of(30, 2))
    assert session.tokens == 800  # the other one goes on as it was
    branch.close()
    with pytest.raises(ValueError, match="can't branch"):
        branch_session(session, tmp_path / "later", trees, 801)
    if mounted:
        with pytest.raises(SessionError, match="of a context"):
            branch_session(session, tmp_path / "before", trees, 99)
    session.close()
