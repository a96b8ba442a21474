"""What the monitor does to runs: start, stop, resume, checkpoint. Each is a command of `mccore` in a process of its own.

A launcher gets a session of its own, so that it outlives the monitor and the terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mccore.host import paths
from mccore.runs.rundir import RunDir


def command(*arguments: str) -> list[str]:
    """The command line of `mccore` with these arguments, by this interpreter."""
    return [sys.executable, "-m", "mccore", *arguments]


def spelled(arguments: Sequence[str]) -> str:
    """What a person would type."""
    return shlex.join(["mccore", *arguments])


@dataclass
class Started:
    """A launcher that was started here, and the file that has what it prints."""

    process: subprocess.Popen[bytes]
    output: Path

    def failure(self) -> str | None:
        """What it said when it refused, None while it runs or when it ended well."""
        code = self.process.poll()
        if code in (None, 0):
            return None
        with contextlib.suppress(OSError):
            return self.output.read_text(encoding="utf-8", errors="replace").strip()[-2000:]
        return f"it ended with exit code {code}"


def start(arguments: Sequence[str]) -> Started:
    """Start `mccore run ...` in a session of its own. Raises OSError when the output file can't be made."""
    folder = paths.runs_dir().parent / "monitor"
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / f"launch-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    with open(output, "wb") as stream:
        process = subprocess.Popen(
            command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Started(process, output)


def stop_after_the_step(run: RunDir) -> None:
    """Ask the run to save and end. Raises RunError when the request can't be written."""
    run.request_stop()


def stop_now(run: RunDir) -> bool:
    """End the launcher without waiting for a step: its first signal asks, its second ends. Says whether there was one."""
    pid = run.holder()
    if pid is None or not run.is_running():
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGTERM)
        return True
    return False


def resume(run: RunDir) -> Started:
    """Go on with a run."""
    return start(["run", "--resume", str(run.path)])


async def answer(arguments: Sequence[str]) -> tuple[int, str, str]:
    """The exit code, the output and the errors of a command. It is ended where nobody waits for it any more."""
    process = await asyncio.create_subprocess_exec(
        *command(*arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, errors = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    return process.returncode or 0, said.decode("utf-8", "replace"), errors.decode("utf-8", "replace")
