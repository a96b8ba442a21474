"""Whatever plugin code raises or changes about this process stays with the plugin."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Escaped(Exception):
    """Plugin code raised something that isn't an error of ours; it is the cause."""


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Run foreign code. What it raises, SystemExit, GeneratorExit and a KeyboardInterrupt of its own included, comes out as
    `Escaped`; a Ctrl-C of the user comes out as it is. The recursion limit, the working directory, the standard streams and
    the handlers of signals are afterwards what they were, and what it prints goes to standard error: standard output is a
    command's own, often JSON.
    """
    before = sys.getrecursionlimit(), sys.stdin, sys.stdout, sys.stderr, _handlers()
    place = _working_directory()
    interrupts = _Interrupts()
    try:
        with interrupts, contextlib.redirect_stdout(sys.stderr):
            yield
    except BaseException as error:
        _restore(before, place)
        if interrupts.pressed or (isinstance(error, KeyboardInterrupt) and not interrupts.watching):
            raise
        raise Escaped from error
    _restore(before, place)


class _Interrupts:
    """Tells the user's Ctrl-C from a KeyboardInterrupt that code raises itself, where this thread gets to see signals."""

    def __init__(self) -> None:
        self.pressed = False
        self.watching = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )

    def __enter__(self) -> None:
        if self.watching:
            signal.signal(signal.SIGINT, self._press)

    def __exit__(self, *exc: object) -> None:
        if self.watching:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _press(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
        raise KeyboardInterrupt


_Handlers = dict[signal.Signals, Any]

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGPIPE, signal.SIGCHLD)


def _handlers() -> _Handlers:
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in _SIGNALS}


def _working_directory() -> int | None:
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None


def _restore(before: tuple[int, Any, Any, Any, _Handlers], place: int | None) -> None:
    limit, sys.stdin, sys.stdout, sys.stderr, handlers = before
    if sys.getrecursionlimit() != limit:
        sys.setrecursionlimit(limit)
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)
    if place is not None:
        with contextlib.suppress(OSError):
            os.fchdir(place)
        os.close(place)
