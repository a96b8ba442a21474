"""One writer of a tree: held by a lock of the system, or, where the file system has none, by a process id."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from io import FileIO
from pathlib import Path

from mccore.errors import RunError

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # NFS without lockd, 9p, some Lustre
_LOG = logging.getLogger(__name__)


def take_lock(file: FileIO, directory: Path) -> None:
    """Hold the tree in `directory` for as long as `file` is open. Raises RunError when another has it, OSError.

    Without locks a process on another machine isn't seen: a warning says so.
    """
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _taken(directory) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        if _holder_alive(file):
            raise _taken(directory) from None
        _LOG.warning(
            "warning: %s is on a file system without locks: nothing keeps another machine's writer out", directory
        )
        os.ftruncate(file.fileno(), 0)
        os.pwrite(file.fileno(), f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)


def release_lock(file: FileIO) -> None:
    """Let others have the tree."""
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_UN)
    except OSError:  # there are no locks: the process id goes
        os.ftruncate(file.fileno(), 0)


def _holder_alive(file: FileIO) -> bool:
    pid, _, host = os.pread(file.fileno(), 300, 0).decode(errors="replace").strip().partition(" ")
    if not (pid.isascii() and pid.isdigit() and 0 < len(pid) < 10) or host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return int(pid) != os.getpid()


def _taken(directory: Path) -> RunError:
    return RunError(
        f"the tree in {directory} is open elsewhere, and a tree has one writer",
        hint="close the session or process that has it open; the lock goes with the process",
    )
