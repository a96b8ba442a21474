"""Writing at an offset, waiting for the disk, and saying what went wrong: what the files of a disk tree have in common."""

from __future__ import annotations

import errno
import os
import stat
import threading
from io import FileIO
from pathlib import Path

from mccore.errors import RunError


class SyncError(OSError):
    """The disk didn't take what the kernel had accepted. Which pages it has is unknown, and a second sync may seem to work."""


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_file(path: Path, *, read_only: bool = False) -> FileIO:
    """An unbuffered regular file for reading, or for both and made when it is missing: as private as the folder of the tree.

    It closes itself when it is forgotten. Raises OSError, also for a FIFO or a device, which isn't waited for.
    """
    how = (os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT) | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)
    file = FileIO(os.open(path, how, 0o644 & folder_mode(path.parent.parent)), "r" if read_only else "r+")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it isn't a regular file", str(path))
    return file


def folder_mode(folder: Path) -> int:
    """The mode of the folder that a tree lies in: what a conversation's has closed to others is closed in its tree too."""
    return stat.S_IMODE(folder.stat().st_mode)


def write_at(file: FileIO, data: memoryview | bytes, offset: int) -> None:
    """Write all of `data`, however many calls it takes. Raises OSError."""
    view = memoryview(data)
    while len(view):
        written = os.pwrite(file.fileno(), view, offset)
        view, offset = view[written:], offset + written


def read_at(file: FileIO, into: memoryview, offset: int) -> None:
    """Fill `into`. Raises OSError, EOFError where the file ends before."""
    while len(into):
        read = os.preadv(file.fileno(), [into], offset)
        if read == 0:
            raise EOFError
        into, offset = into[read:], offset + read


def read_up_to(file: FileIO, size: int, offset: int) -> bytes:
    """The bytes `[offset, offset + size)`, fewer where the file ends before. Raises OSError."""
    parts = []
    while size and (part := os.pread(file.fileno(), size, offset)):
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)


def sync(file: FileIO) -> None:
    """Wait until what was written to the file is on the disk. Raises SyncError."""
    try:
        getattr(os, "fdatasync", os.fsync)(file.fileno())  # without the time stamps, where the system can
    except OSError as error:
        raise SyncError(error.errno, error.strerror) from error


def sync_all(files: list[FileIO]) -> None:
    """`sync` several files at once: the file system writes one journal for all of them, where one after the other each waits
    for its own. Raises SyncError."""
    errors: list[SyncError] = []

    def run(file: FileIO) -> None:
        try:
            sync(file)
        except SyncError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(file,)) for file in files[1:]]
    for thread in threads:
        thread.start()
    for file in files[:1]:
        run(file)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def failure(action: str, path: Path, error: OSError) -> RunError:
    """The error a user gets for a failed call on a file of the tree."""
    hint = "check the permissions of the directory and the health of its disk"
    if error.errno in FULL:
        hint = "free some space; what was flushed before is intact"
    return RunError(f"can't {action} {path}: {error.strerror or error}", hint=hint)


def damage(path: Path, offset: int, what: str) -> RunError:
    """The error for bytes that aren't those that were written."""
    return RunError(
        f"{path} is damaged at byte {offset}: {what}",
        hint="verify the tree to see what is damaged, and repair it or restore its directory from a copy",
    )
