"""What providers cost a training step: `benchmarks/telemetry.py step`.

One run of `tiny` has them all, each in front of its real server. Its steps go in windows: in every second one the process that
relays, with its children, is frozen, so that the steps are those of a run without telemetry. Two neighbouring windows are a
pair, and which of the two is the frozen one alternates. So a pair lies seconds apart, where two runs of this length differ by
a fifth on a machine that others share. What a frozen process has missed it sends in the window that follows: it works twice as
hard there as it ever has to, and the ratio is an upper bound.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from mccore.events import read_events
from mccore.runs.rundir import RunDir

WARM_UP = 30  # steps in which the providers' clients are imported and connect
SETTLING = 2  # steps of a window that aren't counted


@dataclass
class Relay:
    """The process that relays, with its children."""

    process: psutil.Process
    memory: float = 0.0  # bytes of its own, at the most
    cpu: list[float] = field(default_factory=list)  # seconds of CPU for each second that it was running

    def family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def send(self, number: signal.Signals) -> None:
        for one in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(number)

    def seconds(self) -> float:
        return sum(sum(one.cpu_times()[:2]) for one in self.family())

    def weigh(self) -> None:
        self.memory = max(self.memory, sum(one.memory_full_info().uss for one in self.family()))


def relay_of(launcher: int) -> Relay:
    """The process that relays for a launcher, once there is one."""
    while True:
        for one in psutil.Process(launcher).children():
            with contextlib.suppress(psutil.Error):
                if "mccore.telemetry.relay" in one.cmdline():
                    return Relay(one)
        time.sleep(0.1)


def steps_so_far(events: Path) -> Callable[[], int]:
    """A function that says how many steps the first rank has told of."""
    read, count = 0, 0

    def look() -> int:
        nonlocal read, count
        with contextlib.suppress(FileNotFoundError), events.open("rb") as file:
            file.seek(read)
            new = file.read()
            read, count = read + len(new), count + new.count(b'"type":"step"')
        return count

    return look


def windows(pairs: int) -> Iterator[bool]:
    """Whether the relaying process is frozen in each window: two a pair, the order alternating."""
    for pair in range(pairs):
        yield from (False, True) if pair % 2 else (True, False)


def measure(arguments: argparse.Namespace, process: subprocess.Popen[bytes], run: RunDir) -> tuple[Relay, list[int]]:
    """Freeze and thaw while the run goes on: the process, and the step at which each window began and the last ended."""
    relay, steps = relay_of(process.pid), steps_so_far(run.events_dir / "rank0.jsonl")
    marks: list[int] = []

    def wait(until: int) -> None:
        while steps() < until and process.poll() is None:
            time.sleep(0.02)

    wait(WARM_UP)
    for frozen in windows(arguments.pairs):
        relay.send(signal.SIGSTOP if frozen else signal.SIGCONT)
        marks.append(steps())
        began, before = time.monotonic(), relay.seconds()
        wait(marks[-1] + arguments.window)
        if not frozen:
            relay.cpu.append((relay.seconds() - before) / (time.monotonic() - began))
            relay.weigh()
    relay.send(signal.SIGCONT)
    return relay, [*marks, steps()]


def step(
    arguments: argparse.Namespace, peers: dict[str, Any], run_tiny: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """Print the ratio of every pair, their median, and what the relaying process took."""
    chosen = arguments.telemetry or sorted(peers)
    total = WARM_UP + arguments.window * (2 * arguments.pairs + 2)
    settings = {"stages": '["data", "tokenizer", "encode", "base"]', "base.tokens": str(2048 * total)}
    settings |= {"hardware.nproc": str(arguments.ranks), "hardware.threads": "1"}
    with ExitStack() as stack:
        folder, options = Path(stack.enter_context(tempfile.TemporaryDirectory())), {}
        for name in chosen:
            (folder / name).mkdir()
            options[name] = stack.enter_context(peers[name].server(folder / name))
        for server in psutil.Process().children(recursive=True):  # elsewhere, servers have machines of their own
            server.nice(19)
        run = RunDir(folder / "runs" / "measured")
        with run_tiny(folder, run.path.name, options, settings) as process:
            relay, marks = measure(arguments, process, run)
            assert process.wait() == 0, "the run failed"
        events = read_events(run.events_dir)
    seconds = [event.metrics["step_duration"] for event in events if event.type == "step"]
    assert not [event.data for event in events if event.type == "telemetry" and event.data["state"] != "ready"]
    medians = [median(seconds[begin + SETTLING : end]) for begin, end in itertools.pairwise(marks)]
    ratios = []
    for pair in range(arguments.pairs):
        frozen, working = medians[2 * pair : 2 * pair + 2][:: -1 if pair % 2 else 1]
        ratios.append(working / frozen)
        print(f"  pair {pair + 1}: {working:.4f} / {frozen:.4f} s = {ratios[-1]:.3f}")
    print(
        f"step with {'+'.join(chosen)}, {arguments.ranks} rank(s) of one thread on {os.cpu_count()} cores: "
        f"{median(ratios):.3f} times one without (median of {len(ratios)} pairs; {min(ratios):.3f} to {max(ratios):.3f})"
    )
    print(
        f"the process that relays, with its children: {relay.memory / 1e6:.0f} MB at the most, "
        f"{median(relay.cpu):.4f} of a core while it catches up"
    )
