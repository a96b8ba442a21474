"""Real launches of stand-in stages, in a directory of the test's own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mccore.config import RunConfig
from mccore.runs.rundir import RunDir
from tests.support.small_run import base_dir, in_process, make_config, new_run, one_thread, sources  # noqa: F401  # fixtures

PROGRAMS = Path(__file__).parent / "programs"


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 240.0) -> Any:
    """Poll until the condition gives something true; fail after the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    pytest.fail(f"waited {seconds:.0f} s in vain for: {what}")


def alive(pid: int) -> bool:
    """Whether a process exists and isn't a zombie."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.fixture
def until() -> Callable[..., Any]:
    return wait_until


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    return alive


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunDir]:
    """Makes a run with some stages and the plan of its stand-in stages."""

    def make(
        plan: dict[str, list[dict[str, Any]]], stages: tuple[str, ...] = ("data", "base"), **hardware: Any
    ) -> RunDir:
        config = RunConfig(stages=stages, hardware=hardware)
        run = RunDir.create(tmp_path / "runs", "one", config)
        (run.path / "plan.json").write_text(json.dumps(plan))
        return run

    return make


class Launched:
    """A launcher in a process of its own."""

    def __init__(self, run: RunDir, *arguments: str, limit: Callable[[], None] | None = None) -> None:
        self.run = run

        def before() -> None:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)  # also where the tests run in the background
            if limit is not None:
                limit()

        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / "launch_standin.py"), str(run.path), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(PROGRAMS)},
            preexec_fn=before,
        )

    def outcome(self, seconds: float = 240.0) -> dict[str, Any]:
        """Wait for the end and return the outcome it printed."""
        self.out, self.err = self.process.communicate(timeout=seconds)
        lines = self.out.splitlines()
        assert lines, self.err
        return dict(json.loads(lines[-1]))

    def wait_for_file(self, name: str) -> str:
        """Wait until a stage has written a file into the run; its content."""
        path = self.run.path / name
        wait_until(lambda: path.exists() and path.read_text(), name)
        return path.read_text()


@pytest.fixture
def start() -> Iterator[Callable[..., Launched]]:
    """Starts launchers and sees to it that none is left."""
    started: list[Launched] = []

    def begin(run: RunDir, *arguments: str, limit: Callable[[], None] | None = None) -> Launched:
        started.append(Launched(run, *arguments, limit=limit))
        return started[-1]

    yield begin
    for launched in started:
        if launched.process.poll() is None:
            launched.process.kill()
            with contextlib.suppress(ValueError):
                launched.process.communicate()
