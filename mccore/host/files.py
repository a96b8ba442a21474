"""How files are written: our own are either whole or not there, people's own places stay what they are.

| kind of write | function | policy |
|---|---|---|
| files of ours: runs, caches, contexts | `write_atomic` | beside, synced, renamed; the umask's mode |
| conversations, secrets | `write_atomic(private=True)` | the same, readable by their owner alone (0600) |
| saved sessions | `private_folder`, `is_private` | a folder of 0700; what is written there is 0600 |
| logs | `open_to_append` | regular files alone; the umask's mode |
| a path that a person names | `write_theirs` | links followed, modes kept, devices written to, nothing lost unasked |

A file system without modes (CIFS, exFAT) serves: a mode that can't be set is passed over, but for what is private.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO

from mccore.errors import RunError, UsageError
from mccore.host.regular import NotRegularError
from mccore.host.text import mend

RESUME = "go on with `mccore run --resume`"  # what to do after a write of a run failed and the cause is gone
_NO_MODES = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)


def write_atomic(path: Path, content: bytes | str, *, private: bool = False, again: str = "try again") -> None:
    """Replace `path` by `content` so that a reader, a crash or a full disk sees the old file or the new one, nothing between.

    The file has the umask's mode, or 0600 where it is `private`, from the moment it exists. `again` is what the hint advises
    once the cause is gone. Raises RunError when it can't be written; the old file is then untouched and nothing is left beside
    it.
    """
    data = mend(content).encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, data, 0o600 if private else 0o666 & ~_umask(), strict=private)
    except OSError as error:
        raise RunError(f"can't write {path}: {error.strerror}", hint=disk_hint(error, again)) from error


def write_theirs(path: Path, content: bytes | str, *, overwrite: bool = False, private: bool = False) -> None:
    """Write to a place that a person named, and leave it the kind of place it is.

    A link stays and what it leads to is written; a file keeps its mode; a device, a FIFO or a pipe is written to, never
    replaced. A new file has the umask's mode, or 0600 where it is `private`. Raises UsageError for a file that exists, unless
    `overwrite`, and for a directory; RunError when it can't be written.
    """
    data = mend(content).encode() if isinstance(content, str) else content
    try:
        there = _stat(path)
        if there is not None and stat.S_ISDIR(there.st_mode):
            raise UsageError(f"{path} is a directory: nothing was written", hint="name a file")
        if there is not None and not stat.S_ISREG(there.st_mode):
            _write_into(path, data)
            return
        if there is not None and not overwrite:
            raise FileExists(path)
        real = Path(os.path.realpath(path))
        real.parent.mkdir(parents=True, exist_ok=True)
        mode = stat.S_IMODE(there.st_mode) if there else 0o600 if private else 0o666 & ~_umask()
        if there is not None and there.st_nlink > 1:  # a rename would cut the other names off
            _write_into(real, data)
            return
        try:
            _replace(real, data, mode, strict=False, owner=there)
        except OSError as error:
            if there is None or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            _write_into(real, data)  # a directory that takes no new names, and a file in it that may be written
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        hint = disk_hint(error, "try again", "choose another place") if isinstance(error, OSError) else None
        raise RunError(f"can't write {path}: {reason}", hint=hint) from error


class FileExists(UsageError):
    """A person named a file that is there already, and hasn't said that it may be replaced."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} exists: nothing was written", hint="choose another name, or give --force to replace it"
        )


def open_to_append(path: Path) -> BinaryIO:
    """A file of ours that only grows, such as a log, made where there is none. A FIFO or a device is refused. Raises OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    fd = os.open(path, flags, 0o666)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise NotRegularError(path, mode)
    os.set_blocking(fd, True)
    file = os.fdopen(fd, "ab")
    file.seek(0, os.SEEK_END)
    return file


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _replace(path: Path, data: bytes, mode: int, *, strict: bool, owner: os.stat_result | None = None) -> None:
    # The name beside it is short whatever the name itself: 250 letters and a suffix are too many.
    fd, name = tempfile.mkstemp(prefix=".mccore-", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            set_mode(file.fileno(), mode, strict=strict)
            if owner is not None and (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
                with contextlib.suppress(OSError):
                    os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    sync_directory(path.parent)


def _write_into(path: Path, data: bytes) -> None:
    """Write into what is there, as a shell's `>` would, but without waiting for a FIFO's reader."""
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NONBLOCK", 0))
    os.set_blocking(fd, True)
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def set_mode(target: int | Path, mode: int, *, strict: bool = False) -> None:
    """Give a file its mode, as far as the file system has modes; `strict` raises OSError where others could read it."""
    try:
        os.chmod(target, mode)
    except OSError as error:
        if error.errno not in _NO_MODES:
            raise
        if strict and stat.S_IMODE(os.stat(target).st_mode) & 0o077:
            raise


def private_folder(path: Path) -> None:
    """Make a folder that its owner alone can look into; one that is there already keeps its mode. Raises RunError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise RunError(f"can't make {path}: {error.strerror}", hint=disk_hint(error, "try again")) from error


def is_private(folder: Path) -> bool:
    """Whether others can't look into a folder, so that what is written there is for its owner alone as well."""
    try:
        return not stat.S_IMODE(folder.stat().st_mode) & 0o077
    except OSError:
        return False


def share_file(path: Path) -> None:
    """Give a file that a library wrote the mode that files of ours have."""
    set_mode(path, 0o666 & ~_umask())


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


def disk_hint(error: OSError, again: str = RESUME, elsewhere: str = "choose another with MCCORE_BASE_DIR") -> str:
    """What to do about an `OSError` of a write; `again` and `elsewhere` fit the advice to the command."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: free some space, then {again}"
    if error.errno == errno.EFBIG:
        return "the file size limit of this process is reached (`ulimit -f`)"
    if error.errno in NO_LOCKS:
        return "this file system has no locks: keep runs on another one with MCCORE_BASE_DIR"
    if error.errno == errno.ENAMETOOLONG:
        return "choose a shorter name"
    return f"check the permissions of the directory, or {elsewhere}"


NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


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
