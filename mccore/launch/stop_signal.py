"""Signals to a stage: the first asks it to save and end, the second ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

from mccore.errors import Interrupted

FINISHED, FAILED, STOPPED = 0, 1, 3

STOP_SECONDS = 60.0  # for a step and a checkpoint; a rank whose peers are gone can hang for ever


class StopSignal:
    """SIGTERM as a wish. `requested` turns true at the first; the process ends `STOP_SECONDS` later, or at the second.
    With `interrupts` the main thread gets `Interrupted` wherever it is: for stages that have nothing to save.

    The signal's byte goes through a pipe to a thread: a main thread that waits inside a collective for ranks that are gone
    never gets to run a Python signal handler.
    """

    def __init__(self, *, interrupts: bool = False) -> None:
        self.requested = False
        self.interrupts = interrupts
        self._read, write = os.pipe()
        os.set_blocking(write, False)
        signal.signal(signal.SIGTERM, self._on_main_thread)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="stop-signal", daemon=True).start()

    def _on_main_thread(self, number: int, frame: FrameType | None) -> None:
        if self.interrupts:
            self.interrupts = False
            raise Interrupted("stopped by SIGTERM; the stage will be done again")

    def _watch(self) -> None:
        while True:
            for number in os.read(self._read, 64):
                if number != signal.SIGTERM:
                    continue
                if self.requested:
                    self._end("ended by a second SIGTERM")
                self.requested = True
                timer = threading.Timer(STOP_SECONDS, self._end, [f"didn't end within {STOP_SECONDS:.0f} s of SIGTERM"])
                timer.daemon = True
                timer.start()

    @staticmethod
    def _end(why: str) -> None:
        print(why, file=sys.stderr, flush=True)
        os._exit(FAILED)
