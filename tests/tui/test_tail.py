"""The ends of logs, as they grow."""

from __future__ import annotations

from mccore.runs.rundir import RunDir
from mccore.tui.tail import FIRST_BYTES, LogTail


def test_lines_come_once_and_whole(run: RunDir) -> None:
    tail = LogTail(run)
    assert tail.poll()[:2] == ["first line", "progress 2"]
    assert tail.poll() == []
    with open(run.log_path("base"), "a") as file:
        file.write("half")
        file.flush()
        assert tail.poll() == []
        file.write(" a line\nnext")
        file.flush()
    assert tail.poll() == ["half a line"]


def test_a_long_log_begins_near_its_end(run: RunDir) -> None:
    run.log_path("base").write_text("x" * 100 + "\n" + "line\n" * FIRST_BYTES)
    lines = LogTail(run).poll()
    assert len(lines) <= FIRST_BYTES // 5 + 1
    assert lines[-1] == "line"


def test_a_log_that_begins_anew_is_read_anew_and_several_are_named(run: RunDir) -> None:
    tail = LogTail(run)
    tail.poll()
    run.log_path("base").write_text("new\n")
    run.log_path("mid").write_text("other\n")
    assert set(tail.poll()) == {"base: new", "mid: other"}
