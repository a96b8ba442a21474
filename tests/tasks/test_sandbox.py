"""Programs that models write are run apart: what they try, and what comes of it."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from mccore.tasks.sandbox import run_program


def test_a_program_that_reaches_its_end_passes():
    assert run_program("x = 1\nassert x == 1").passed
    assert run_program("import re, math, typing, collections, heapq\nassert math.gcd(4, 6) == 2").passed
    assert run_program("open('here.txt', 'w').write('a')\nassert open('here.txt').read() == 'a'").passed


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("assert 1 == 2", "AssertionError"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("import os\nos._exit(0)", "ended before its end"),
        ("import sys\nsys.exit(0)", "SystemExit"),
        ("x = bytearray(10 ** 9)", "MemoryError"),
        ("open('big', 'wb').write(bytes(5 << 20))", "File too large"),
        ("def f(): f()\nf()", "RecursionError"),
        ("import socket\nsocket.create_connection(('127.0.0.1', 9))", "isn't allowed here"),
        ("import subprocess\nsubprocess.run(['true'])", "isn't allowed here"),
        ("import os\nos.system('true')", "isn't allowed here"),
        ("import os\nos.fork()", "isn't allowed here"),
        ("import os\nos.kill(os.getppid(), 9)", "isn't allowed here"),
        ("import ctypes\nctypes.CDLL(None)", "isn't allowed here"),
        ("import os\nassert os.environ.get('HF_TOKEN') is None\nassert 0, 'unseen'", "unseen"),
        ("input()", "EOFError"),
        ("raise Exception('x' * 10 ** 6)", "Exception: xxx"),
        ("class E(Exception):\n    def __str__(self): raise E\nraise E", ""),
    ],
)
def test_what_goes_wrong_is_told_and_fails(program, said, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    outcome = run_program(program)
    assert not outcome.passed
    assert said in outcome.said
    assert len(outcome.said) < 1000


@pytest.mark.parametrize(
    "verb", ["open({path!r}, 'w')", "__import__('os').remove({path!r})", "__import__('os').rename({path!r}, 'x')"]
)
def test_files_outside_stay_as_they_are(tmp_path, verb):
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    assert "isn't allowed" in run_program(verb.format(path=str(kept))).said
    assert kept.read_text() == "mine"


def test_an_endless_program_is_ended():
    began = time.monotonic()
    assert run_program("while True: pass", seconds=0.3).said == "it ran longer than 0.3 s"
    assert (
        run_program("import time\ntry:\n    time.sleep(99)\nexcept BaseException:\n    pass", seconds=0.3).passed
        is False
    )
    assert time.monotonic() - began < 20


def test_output_without_end_neither_blocks_nor_fills_a_disk():
    assert not run_program("while True: print('x' * 10 ** 6)", seconds=0.5).passed
    assert run_program("print('x' * 10 ** 6)").passed


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a network of its own is Linux's")
def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    before = len(os.listdir("/proc/self/fd"))
    run_program("import os\nos.makedirs('a/b')\nopen('a/b/c', 'w')")
    run_program("while True: pass", seconds=0.2)
    assert list(Path(tmp_path).iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_many_descriptors_are_no_hindrance():
    held = [socket.socket() for _ in range(8)]
    assert run_program("pass").passed
    for each in held:
        each.close()
