"""Runs a program that a model wrote, in a process of its own with little to break: time, memory, files and network are limited.

The process has a fresh interpreter without the environment, an empty folder, 256 MiB, a few seconds, and on Linux its own
network without a way out where the system allows it. Inside, an audit hook refuses what a solution doesn't need: sockets,
processes, signals, foreign memory, and files to write outside of the folder. It can't be taken off by Python code. Code that
attacks the interpreter itself may still get out: it is a fence against accidents, not a prison.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass

SECONDS = 5.0
MEMORY_BYTES = 256 << 20
FILE_BYTES = 1 << 20
_SAID = 400  # bytes of what is told of a failure

_GUARD = r"""
import ctypes, os, resource, sys
seconds, memory, file_bytes, said = (int(float(value)) for value in sys.argv[1:5])
secret, _, program = open(0, encoding="utf-8", closefd=False).read().partition("\n")
try:
    ctypes.CDLL(None, use_errno=True).unshare(0x10000000 | 0x40000000)  # a user and a network of its own
except (OSError, AttributeError):
    pass
for limit, value in (("CPU", seconds + 1), ("AS", memory), ("FSIZE", file_bytes), ("CORE", 0), ("NOFILE", 64)):
    try:
        resource.setrlimit(getattr(resource, "RLIMIT_" + limit), (value, value))
    except (OSError, ValueError):
        pass
home = os.path.realpath(os.getcwd())
report = os.fdopen(3, "w", closefd=False)
refused = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.kill", "os.killpg",
    "ctypes.", "os.chown", "os.chmod", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.",
    "resource.", "signal.", "pty.", "os.unshare", "os.setns", "os.putenv", "winreg.", "webbrowser.", "ftplib.", "http.")
def audit(event, arguments):
    if event.startswith(refused):
        raise PermissionError(event + " isn't allowed here")
    if event == "open":
        path, mode, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) if isinstance(flags, int) else True
        if writes and not (isinstance(path, str) and os.path.realpath(path).startswith(home + os.sep)):
            raise PermissionError("writing outside of the folder isn't allowed here")
verdict = secret
try:
    code = compile(program, "<program>", "exec")
    sys.addaudithook(audit)
    del ctypes, resource, secret
    exec(code, {"__name__": "__main__"})
except BaseException as error:
    verdict = (type(error).__name__ + ": " + str(error))[:said]
report.write(verdict)
report.flush()
os._exit(0)
"""


@dataclass(frozen=True)
class ProgramOutcome:
    """Whether a program ran to its end without an exception, and what there is to say of it."""

    passed: bool
    said: str


def run_program(program: str, *, seconds: float = SECONDS, memory: int = MEMORY_BYTES) -> ProgramOutcome:
    """Run a Python program. Never raises for what the program does; OSError where no process can be started."""
    secret = secrets.token_hex(16)  # a program that leaves early can't pass for one that reached its end
    reading, writing = os.pipe()
    limits = [str(value) for value in (seconds, memory, FILE_BYTES, _SAID)]
    # Descriptor 3, whatever the pipe's number is here.
    start = f"import os; os.dup2({writing}, 3)\n" if writing != 3 else ""
    try:
        with tempfile.TemporaryDirectory(prefix="mccore-sandbox-", ignore_cleanup_errors=True) as folder:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", start + _GUARD, *limits],
                cwd=folder,
                env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(writing,),
                start_new_session=True,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
            os.close(writing)
            writing = -1
            ended = _wait(process, f"{secret}\n{program}", seconds)
        verdict = os.read(reading, _SAID * 4).decode("utf-8", "replace") if ended else ""
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    if not ended:
        return ProgramOutcome(False, f"it ran longer than {seconds:g} s")
    if verdict == secret:
        return ProgramOutcome(True, "passed")
    return ProgramOutcome(False, verdict or f"it ended before its end ({process.returncode})")


def _wait(process: subprocess.Popen[str], content: str, seconds: float) -> bool:
    """Whether the process ended in time; it and what it started are gone in either case."""
    try:
        process.communicate(content, timeout=seconds)
        return True
    except subprocess.TimeoutExpired:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
