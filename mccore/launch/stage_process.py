"""The processes of one stage: started in a session of their own, signalled together, none left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from mccore.config import HardwareConfig, StageName
from mccore.errors import RunError, cause
from mccore.host.files import disk_hint, open_to_append
from mccore.host.processes import parent_death_hook
from mccore.launch.command import child_environment
from mccore.launch.ending import read_log_tail
from mccore.launch.listener import Audience
from mccore.runs.rundir import RunDir

_POLL_SECONDS = 0.1
MEET_SECONDS = 20.0  # until a launch says that its ranks haven't met


class StageProcess:
    """The process of a stage and all below it. Raises RunError when it can't be started."""

    def __init__(
        self, command: Sequence[str], stage: StageName, log: Path, hardware: HardwareConfig, *, lock: int
    ) -> None:
        self._log = log
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with open_to_append(log) as stream:
                self._log_start = stream.tell()
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env=child_environment(stage, hardware, os.environ),
                    start_new_session=True,  # Ctrl-C is ours to pass on
                    pass_fds=(lock,),
                    preexec_fn=parent_death_hook(),  # two system calls, looked up before the fork
                )
        except OSError as error:
            raise RunError(f"can't start the stage {stage}: {cause(error)}", hint=disk_hint(error)) from error

    def wait(self) -> int | None:
        """The exit code, None while the stage goes on after a moment's wait."""
        try:
            return self._process.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            return None

    def signal(self, number: int) -> None:
        """Send a signal to the stage and all that it started in its session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def log_tail(self) -> str:
        """The end of what the stage wrote to its log."""
        return read_log_tail(self._log, self._log_start)

    def end_survivors(self, bystanders: set[psutil.Process], grace_seconds: float) -> None:
        """End what the stage left behind: ranks whose agent was killed, or everything when the launcher itself fails."""
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
        left = [child for child in psutil.Process().children(recursive=True) if child not in bystanders]
        for child in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.terminate()
        _, stubborn = psutil.wait_procs(left, timeout=grace_seconds)
        for child in stubborn:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(stubborn, timeout=grace_seconds)
        self._process.poll()


class Stopping:
    """What becomes of a stage when a person asks for its end: it saves; once more, SIGTERM; at last, SIGKILL."""

    def __init__(self, process: StageProcess, run: RunDir, audience: Audience, grace_seconds: float) -> None:
        self._process, self._run, self._audience = process, run, audience
        self._grace_seconds = grace_seconds
        self._heeded = 0  # signals
        self._kill_at: float | None = None

    def heed(self, signals: int, meeting: bool) -> None:
        """Act on the signals so far, and on the time that has passed since. `meeting`: the ranks haven't met yet."""
        if signals > self._heeded:
            self._heeded += 1
            asked = self._heeded == 1 and self._ask()
            if asked and meeting:  # there is nothing to save, and who waits for the others hears of no stop file
                self._audience.notice("stopping: the ranks haven't met, so there is nothing to save")
                self._terminate(min(self._grace_seconds, MEET_SECONDS))
            elif asked:
                self._audience.notice("stopping: the stage saves first. Once more ends it at once.")
            elif self._kill_at is None:
                self._audience.notice(f"ending the stage (killed in {self._grace_seconds:.0f} s if it doesn't obey)")
                self._terminate(self._grace_seconds)
            else:
                self._kill_at = 0.0
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._process.signal(signal.SIGKILL)

    def _terminate(self, seconds: float) -> None:
        self._process.signal(signal.SIGTERM)
        self._kill_at = time.monotonic() + seconds

    def _ask(self) -> bool:
        try:
            self._run.request_stop()
        except RunError as error:
            self._audience.notice(error.render())
            return False
        return True
