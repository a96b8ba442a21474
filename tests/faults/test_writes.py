"""Kinds 4 and 5: what is written, how, and when it counts as complete. BF15, BF16, RF1, RF2, RF3, DF14."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest
import torch

from mccore.config import RunConfig
from mccore.errors import RunError, UsageError
from mccore.host.files import write_atomic, write_theirs
from mccore.megacontext.sessions.files import create_session, mount_context, save_session
from mccore.megacontext.sessions.session import Session
from mccore.megacontext.sessions.state import TREE
from mccore.megacontext.tree.tree import Tree
from mccore.runs.checkpoints import SUMS_FILE, Meta, incomplete_checkpoints, latest
from mccore.runs.rundir import RunDir
from mccore.train.checkpoint.write import CheckpointWriter
from tests.megacontext.sessions.test_files import trees
from tests.support.sessions import context_model


@pytest.fixture(autouse=True)
def usual_umask() -> object:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- people's own paths: BF16, RF3 ------------------------------------------------------------------------------------


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:  # RF3
    path = tmp_path / "precious.txt"
    path.write_text("precious")
    with pytest.raises(UsageError, match="exists: nothing was written"):
        write_theirs(path, "new")
    assert path.read_text() == "precious"
    write_theirs(path, "new", overwrite=True)
    assert path.read_text() == "new"


def test_a_link_stays_a_link_and_a_mode_a_mode(tmp_path: Path) -> None:  # BF16
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    real.chmod(0o600)
    link.symlink_to(real.name)
    write_theirs(link, "new", overwrite=True)
    assert link.is_symlink()
    assert (real.read_text(), mode_of(real)) == ("new", 0o600)
    dangling = tmp_path / "dangling"
    dangling.symlink_to("later.json")
    write_theirs(dangling, "made")
    assert dangling.is_symlink()
    assert (tmp_path / "later.json").read_text() == "made"


def test_other_names_of_a_file_stay_its_names(tmp_path: Path) -> None:
    path, other = tmp_path / "one", tmp_path / "two"
    path.write_text("old")
    os.link(path, other)
    write_theirs(path, "new", overwrite=True)
    assert other.read_text() == "new"


def test_a_fifo_is_written_to_and_never_waited_for(tmp_path: Path) -> None:  # BF16
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(RunError, match="can't write"):  # nobody reads it
        write_theirs(path, "lost")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_theirs(path, "heard")
    assert os.read(reader, 100) == b"heard"
    os.close(reader)
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_device_and_an_open_descriptor_are_written_to(tmp_path: Path) -> None:  # BF16
    write_theirs(Path("/dev/null"), "gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    read, write = os.pipe()
    write_theirs(Path(f"/proc/self/fd/{write}"), "through")
    os.close(write)
    assert os.read(read, 100) == b"through"
    os.close(read)


def test_a_full_device_is_an_error_with_advice_that_fits(tmp_path: Path) -> None:  # BF19: it spoke of `run --resume`
    with pytest.raises(RunError, match="No space left") as caught:
        write_theirs(Path("/dev/full"), "x")
    assert caught.value.hint == "the disk is full: free some space, then try again"


@pytest.mark.parametrize("name", ["n" * 250, "n" * 255])
def test_long_names_are_names(tmp_path: Path, name: str) -> None:  # BF16: `.part` made them too long
    write_theirs(tmp_path / name, "x")
    write_atomic(tmp_path / name, "y")
    assert (tmp_path / name).read_text() == "y"
    with pytest.raises(RunError, match="too long") as caught:
        write_theirs(tmp_path / f"{name}{name}", "x")
    assert caught.value.hint == "choose a shorter name"


def test_odd_places_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory"):
        write_theirs(tmp_path, "x", overwrite=True)
    with pytest.raises(RunError, match="can't write"):
        write_theirs(tmp_path / "a\0b", "x")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(RunError, match="can't write"):
        write_theirs(tmp_path / "loop", "x")


def test_modes_of_our_own_files(tmp_path: Path) -> None:
    write_atomic(tmp_path / "shared", "x")
    write_atomic(tmp_path / "private", "x", private=True)
    write_theirs(tmp_path / "chat.json", "x", private=True)
    assert [mode_of(tmp_path / name) for name in ("shared", "private", "chat.json")] == [0o644, 0o600, 0o600]
    os.umask(0o007)
    write_atomic(tmp_path / "group", "x")
    assert mode_of(tmp_path / "group") == 0o660
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


# --- file systems without modes or locks: BF15 ------------------------------------------------------------------------


def test_a_file_system_without_modes_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(target: object, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    write_atomic(tmp_path / "file", "x")
    write_theirs(tmp_path / "theirs", "x")
    assert (tmp_path / "file").read_text() == (tmp_path / "theirs").read_text() == "x"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    def refuse(fd: int, kind: int) -> None:
        raise OSError(code, os.strerror(code))

    run = RunDir.create(tmp_path, "one", RunConfig())
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert not run.is_running()
    assert run.outcome().state == "created"
    with run.lock():
        assert "file system without locks" in capsys.readouterr().err
        with run.join():
            assert not run.is_running()  # by this very process
    os.write(fd := os.open(tmp_path / "one" / "lock", os.O_WRONLY | os.O_TRUNC), b"1 \n")
    os.close(fd)
    assert run.is_running()  # process 1 lives: what the file says decides
    with pytest.raises(RunError, match="is running"):
        run.lock()


# --- complete means complete: RF1, DF14 -------------------------------------------------------------------------------


def save(directory: Path, step: int) -> None:
    with CheckpointWriter(directory, keep_last=3) as writer:
        writer.save({"w": torch.full((2,), float(step))}, {}, Meta("base", step, step, {}, "t"))


def test_a_checkpoint_is_readable_like_the_rest(tmp_path: Path) -> None:  # DF14, RF2: safetensors makes 0600
    save(tmp_path, 1)
    assert {mode_of(path) for path in (tmp_path / "step_00000001").iterdir()} == {0o644}


@pytest.mark.parametrize("lost", [SUMS_FILE, "model.safetensors", "meta.json", "index.json"])
def test_an_incomplete_directory_is_no_checkpoint_and_is_written_again(tmp_path: Path, lost: str) -> None:  # RF1
    save(tmp_path, 1)
    save(tmp_path, 2)
    path = tmp_path / "step_00000002"
    (path / lost).unlink()
    assert latest(tmp_path) == tmp_path / "step_00000001"
    assert incomplete_checkpoints(tmp_path) == [path]
    save(tmp_path, 2)
    assert latest(tmp_path) == path
    assert sorted(each.name for each in tmp_path.iterdir()) == ["step_00000001", "step_00000002"]


def test_a_complete_checkpoint_stays(tmp_path: Path) -> None:
    save(tmp_path, 1)
    before = (tmp_path / "step_00000001" / "model.safetensors").stat().st_mtime_ns
    save(tmp_path, 1)
    assert (tmp_path / "step_00000001" / "model.safetensors").stat().st_mtime_ns == before


def test_threads_write_one_file_each_whole(tmp_path: Path) -> None:
    texts = [letter * 50_000 for letter in "abcd"]
    threads = [threading.Thread(target=write_atomic, args=(tmp_path / "file", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_text() in texts
    assert len(list(tmp_path.iterdir())) == 1


# --- conversations are their owner's: RF16 ----------------------------------------------------------------------------


def modes_below(folder: Path) -> set[int]:
    return {mode_of(path) for path in (folder, *folder.rglob("*"))}


def test_a_session_is_its_owners_and_a_context_is_not(tmp_path: Path) -> None:  # RF16: all of it was 0644
    """Everything of a session is closed to others, also its tree; what is built into a shared folder is readable."""
    model = context_model(allocator="greedy")
    session = create_session(model, tmp_path / "mine", trees)
    session.append([1, 2, 3])
    session.read()
    save_session(session, tmp_path / "mine", trees)
    save_session(session, tmp_path / "branch", trees)
    mount_context(model, tmp_path / "branch", trees, tmp_path / "mounted").close()
    session.close()
    for name in ("mine", "branch", "mounted"):
        assert modes_below(tmp_path / name) == {0o700, 0o600}
        assert (tmp_path / name / "tree" / "level-0.rows").exists()
    shared = Session(model, Tree(trees(model.encoder.spec(tmp_path / "context" / TREE)), model.encoder))
    shared.append([1, 2, 3])
    shared.read()
    shared.directory = tmp_path / "context"
    save_session(shared, tmp_path / "context", trees)
    shared.close()
    assert modes_below(tmp_path / "context") == {0o755, 0o644}
