"""A terminal of 120 x 40 for benchmarks: a program on it, keys pressed, words waited for, memory and processor time read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

import psutil

# What programs ask a terminal at their start, and what one answers. Some wait for it before they draw.
ANSWERS = {
    b"\x1b]10;?": b"\x1b]10;rgb:dddd/dddd/dddd\x1b\\",
    b"\x1b]11;?": b"\x1b]11;rgb:1111/1111/1111\x1b\\",
    b"\x1b[6n": b"\x1b[1;1R",
    b"\x1b[c": b"\x1b[?62;22c",
}


class Screen:
    """A program in a terminal of its own, with all that it starts."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.fd, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.process = subprocess.Popen(
            command, stdin=child, stdout=child, stderr=child, env={**env, "TERM": "xterm-256color"},
            start_new_session=True,
        )  # fmt: skip
        os.close(child)

    def press(self, key: bytes) -> None:
        """Press a key."""
        os.write(self.fd, key)

    def wait_for(self, words: bytes, seconds: float) -> None:
        """Read until these words are painted."""
        seen, deadline = b"", time.monotonic() + seconds
        while words not in seen:
            piece = self._read(deadline)
            if not piece:
                raise SystemExit(
                    f"{words!r} wasn't painted in {seconds:.0f} s; the end of the screen: {seen[-2000:]!r}"
                )
            seen += piece

    def drain(self, seconds: float) -> int:
        """Read what is painted for so long; how many bytes that was."""
        deadline, total = time.monotonic() + seconds, 0
        while piece := self._read(deadline):
            total += len(piece)
        time.sleep(max(0.0, deadline - time.monotonic()))  # of a program that has ended
        return total

    def settle(self, seconds: float = 2.0, share: float = 0.1) -> None:
        """Wait until the processes take less than a share of a core for so long."""
        before = -1.0
        while (now := self.processor_seconds()) - before > share * seconds or before < 0:
            before = now
            self.drain(seconds)

    def processor_seconds(self) -> float:
        """What the program and all that it has started took so far."""
        return sum(sum(each.cpu_times()[:2]) for each in self._processes())

    def resident(self) -> float:
        """Memory of the program and all that it has started, in MiB."""
        return sum(each.memory_info().rss for each in self._processes()) / 2**20

    def end(self) -> None:
        """End the program."""
        for each in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.wait()
        os.close(self.fd)

    def _processes(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _read(self, deadline: float) -> bytes:
        """What is painted next, b"" when the time is over or the program has ended."""
        if not select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return b""
        try:
            piece = os.read(self.fd, 65536)
        except OSError:  # the program closed its terminal
            return b""
        for question, answer in ANSWERS.items():
            if question in piece:
                os.write(self.fd, answer)
        return piece
