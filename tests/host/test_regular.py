"""What isn't a regular file is refused at once, whatever else it is."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from mccore.host.regular import NotRegularError, regular_descriptor


def test_a_file_and_a_link_to_it_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("said")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with os.fdopen(regular_descriptor(tmp_path / name)) as file:
            assert file.read() == "said"


@pytest.mark.parametrize("kind", ["folder", "fifo", "socket"])
def test_anything_else_is_refused_and_says_what_it_is(tmp_path: Path, kind: str, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path may have 108 bytes
    path = Path(kind)
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        socket.socket(socket.AF_UNIX).bind(str(path))
    is_kind = {"folder": stat.S_ISDIR, "fifo": stat.S_ISFIFO, "socket": stat.S_ISSOCK}[kind]
    with pytest.raises(NotRegularError, match="isn't a regular file") as caught:
        regular_descriptor(path)
    assert is_kind(caught.value.mode)
    assert caught.value.filename == kind


def test_what_the_system_refuses_is_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        regular_descriptor(tmp_path / "none")
    with pytest.raises(OSError, match="no file can have that name"):
        regular_descriptor(tmp_path / "a\0b")
