"""Files that are either whole or not there: write beside, sync, rename."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

from mccore.errors import RunError


def write_atomic(path: Path, content: bytes | str, *, mode: int = 0o644) -> None:
    """Replace `path` by `content` so that a reader, a crash or a full disk sees the old file or the new one, nothing between.

    The file has `mode` (less the umask) from the moment it exists. Raises RunError when it can't be written; the old file
    is then untouched and nothing is left beside it.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchmod(file.fileno(), mode & ~_umask())
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise RunError(f"can't write {path}: {error.strerror}", hint=disk_hint(error)) from error


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` (a rename, a new file) survive a power cut."""
    fd = os.open(directory, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # file systems without this notion
            raise
    finally:
        os.close(fd)


def disk_hint(error: OSError) -> str:
    """What to do about an `OSError` of a write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: free some space, then go on with `mccore run --resume`"
    if error.errno == errno.EFBIG:
        return "the file size limit of this process is reached (`ulimit -f`)"
    return "check the permissions of the directory, or choose another with MCCORE_BASE_DIR"


def _umask() -> int:
    # Linux tells without setting it; elsewhere it has to be set for a moment.
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def sync_file(path: Path) -> None:
    """Make a file's content survive a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
