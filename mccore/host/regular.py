"""The one way a file that may be a stranger's is opened to be read: a FIFO or a device is refused, never waited for."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class NotRegularError(OSError):
    """What has the name isn't a regular file; `mode` says what it is."""

    def __init__(self, path: str | os.PathLike[str], mode: int) -> None:
        super().__init__(errno.EINVAL, "it isn't a regular file", str(path))
        self.mode = mode


def regular_descriptor(path: Path, *, links: bool = True) -> int:
    """A descriptor to read a regular file from. Raises OSError, NotRegularError for anything else.

    A link is followed; without `links` it is refused as the system does (ELOOP).
    """
    try:
        fd = os.open(path, _READ if links else _READ | getattr(os, "O_NOFOLLOW", 0))
    except ValueError:  # a NUL in the name
        raise OSError(errno.EINVAL, "no file can have that name", str(path)) from None
    except OSError as error:
        if error.errno == errno.ENXIO:  # what opening a socket gives
            raise NotRegularError(path, os.stat(path).st_mode) from error
        raise
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return fd
    os.close(fd)
    raise NotRegularError(path, mode)
