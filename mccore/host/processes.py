"""How the processes of a run depend on each other: none outlives the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

# Libraries that look through everything installed when they are imported, and stop at the first broken package. mccore uses
# none of these plugins: they are switched off for its own processes.
NOTHING_INSTALLED = {"PYDANTIC_DISABLE_PLUGINS": "__all__", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent(sig: int = signal.SIGTERM) -> None:
    """Ask to be sent `sig` when the process that started this one ends, however it ends.

    Call it first thing in `main`. On Linux the kernel does it, even while the process hangs in a system call; elsewhere a
    thread watches the parent.
    """
    parent = os.getppid()
    if not _prctl(_PR_SET_PDEATHSIG, sig):
        threading.Thread(target=_watch_parent, args=(parent, sig), name="parent-watch", daemon=True).start()
    elif os.getppid() != parent:
        os.kill(os.getpid(), sig)


def parent_death_hook(sig: int = signal.SIGTERM) -> Callable[[], None] | None:
    """A `preexec_fn` that gives a child `die_with_parent` from before its first instruction; None where that isn't possible.

    Everything is looked up here, so that between fork and exec there is nothing but two system calls.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()
    getppid, kill, getpid = os.getppid, os.kill, os.getpid

    def hook() -> None:
        prctl(_PR_SET_PDEATHSIG, sig, 0, 0, 0)
        if getppid() != parent:
            kill(getpid(), sig)

    return hook


def adopt_orphans(adopt: bool) -> bool:
    """Whether descendants whose parent has died become children of this process (Linux), so that it can end them."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, int(adopt))


def _prctl(option: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)


def _watch_parent(parent: int, sig: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), sig)
