"""The locks of a run: one launcher at a time, and every rank says for itself that it is there.

A file system without locks (NFS without lockd, 9p, some Lustre) serves too: reading never needs one, and whoever writes is
warned and asks whether the process that took the run last is alive on this machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from mccore.errors import RunError
from mccore.host.files import NO_LOCKS, disk_hint
from mccore.host.regular import regular_descriptor
from mccore.host.terminal import echo

_LOCK_SECONDS = 1.0


class RunLock:
    """Holds a run. Children that inherit `fd` hold it too, until the last of them ends."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def release(self) -> None:
        """Let go; the run stays held while a child still has the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


def take_run(run: Path) -> RunLock:
    """Take a run's directory for this process and the children it hands `fd` to. Raises RunError when others have it."""
    fd = _open_lock(run / "lock")
    try:
        if not take(fd, fcntl.LOCK_EX, run / "lock"):
            pid, host = read_holder(fd)
            where = f" on {host}" if host and host != socket.gethostname() else ""
            raise RunError(
                f"the run {run.name!r} is running (pid {pid or 'unknown'}{where})",
                hint=f"`mccore runs stop {run.name}` ends it; `mccore runs show {run.name}` shows it",
            )
        ranks = _open_lock(run / "ranks")
        try:
            if not take(ranks, fcntl.LOCK_EX, run / "ranks"):
                raise RunError(
                    f"a training process of an earlier start of {run.name!r} is still ending",
                    hint="try again in a moment",
                )
        finally:
            os.close(ranks)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
    except OSError as error:
        os.close(fd)
        raise RunError(f"can't lock {run}: {error.strerror}", hint=disk_hint(error)) from error
    except BaseException:
        os.close(fd)
        raise
    return RunLock(fd)


@contextlib.contextmanager
def joined_run(run: Path) -> Iterator[None]:
    """Hold a run as one of its ranks."""
    fd = _open_lock(run / "ranks")
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
        except OSError as error:  # a file system without locks: the launcher has said so
            if error.errno not in NO_LOCKS:
                raise
        yield
    finally:
        os.close(fd)


def is_run_held(run: Path) -> bool:
    """Whether a launcher, a child of it or a rank is alive."""
    return is_held(run / "lock", fcntl.LOCK_SH) or is_held(run / "ranks", fcntl.LOCK_EX)


def last_holder(run: Path) -> int | None:
    """The process id of the launcher that took a run last."""
    try:
        fd = regular_descriptor(run / "lock")
    except OSError:
        return None
    try:
        return read_holder(fd)[0]
    finally:
        os.close(fd)


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RunError(f"can't open {path}: {error.strerror}", hint=disk_hint(error)) from error


def take(fd: int, kind: int, path: Path) -> bool:
    """Lock without waiting for a holder, False when there is one. A reader that looks whether a run is alive holds the lock
    for a moment: try again. Where there are no locks, the holder written in the file decides. Raises OSError."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            echo(f"warning: {path.parent} is on a file system without locks: nothing keeps another start out", err=True)
            return not _holder_alive(fd)
        else:
            return True


def is_held(path: Path, kind: int) -> bool:
    """Whether someone has the lock. Where it can't be asked, the holder written in the file decides; never raises."""
    try:
        fd = regular_descriptor(path)
    except OSError:  # there is none, or it isn't for us to read
        return False
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return _holder_alive(fd)
    finally:
        os.close(fd)
    return False


def read_holder(fd: int) -> tuple[int | None, str]:
    """The process id and the machine that took the lock last."""
    try:
        pid, _, host = os.pread(fd, 300, 0).decode(errors="replace").strip().partition(" ")
    except OSError:
        return None, ""
    return (int(pid) if pid.isascii() and pid.isdigit() and len(pid) < 10 else None), host


def _holder_alive(fd: int) -> bool:
    import psutil  # rarely needed, and slow to import

    pid, host = read_holder(fd)
    return pid is not None and pid != os.getpid() and host in ("", socket.gethostname()) and psutil.pid_exists(pid)
