"""Hand a run's events to its telemetry providers from a process of its own: `python -m mccore.telemetry.relay RUN_DIRECTORY`.

The event files are the queue. Every provider reads them at its own pace, so a slow or dead endpoint drops nothing while the
run goes on, ranks send nothing themselves, and neither the interpreter of a rank nor the launcher can be hurt by a client.
A provider lives from the first stage to the last. It sees what was written after the launcher started, of all ranks.

Standard input is the line to the launcher. Its first line says from where to read; its end means that the run is over, also
for a launcher that was killed. Then what waits is sent, within `END_SECONDS`, and the process ends whatever a client does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from mccore.config import Choice
from mccore.errors import RunError, cause
from mccore.events import Event, EventTail, EventWriter
from mccore.host.files import disk_hint, open_to_append
from mccore.runs.rundir import RunDir
from mccore.telemetry.activation import activate
from mccore.telemetry.delivery import END_SECONDS, Delivery, State, close_all
from mccore.telemetry.emitter import write_state
from mccore.telemetry.providers import build_providers, describe_process

LOG_NAME = "telemetry"
_POLL_SECONDS = 0.1
_CHUNK_BYTES = 1 << 18  # what a provider that lags behind holds in memory
_GRACE_SECONDS = 3.0  # beyond the end, until a process that doesn't end by itself is killed
_SHORTEST_SECONDS = 2.0  # from the time it could begin, for a run that was over by then
_FIRST_PAUSE_SECONDS = 2.0  # between two starts of a process that ends by itself; doubled each time
_NICENESS = 10  # training goes first where cores are short


class Relay:
    """The launcher's side: the process that relays, and how it is ended. One that was killed is started again."""

    def __init__(self, run: RunDir, ranks: int, choices: Sequence[Choice], offsets: Mapping[str, int]) -> None:
        self._run = run
        self._ranks = ranks
        self._choices = choices
        self._pause = _FIRST_PAUSE_SECONDS
        self._again = 0.0  # not before
        self._process = self._spawn(offsets)

    @classmethod
    def start(
        cls, run: RunDir, offsets: Mapping[str, int], ranks: int, choices: Sequence[Choice] | None = None
    ) -> Relay | None:
        """Begin to relay what is written behind these offsets of the event files to these providers, by default to those of
        the run and the environment. None where there are none."""
        choices = activate(run.config).choices if choices is None else choices
        return cls(run, ranks, choices, offsets) if choices else None

    @property
    def pid(self) -> int:
        """The process that relays now."""
        return self._process.pid

    def revive(self, offsets: Mapping[str, int]) -> str:
        """Where the process has ended by itself, start another that relays what is behind these offsets, and say so.

        What the first had read and not sent is missing: nobody knows which part of it the endpoints have, and some would
        count twice what comes twice. A process that dies again and again is started ever less often.
        """
        code = self._process.poll()
        if code is None or time.monotonic() < self._again:
            return ""
        with contextlib.suppress(OSError):
            self._input.close()
        try:
            self._process = self._spawn(offsets)
        except RunError as error:
            self._again, self._pause = time.monotonic() + self._pause, self._pause * 2
            return f"{_ended(code)}; {error.message}"
        self._again, self._pause = time.monotonic() + self._pause, self._pause * 2
        return f"{_ended(code)}; another goes on, and `mccore events export {self._run.name}` sends what is missing"

    def end(self, seconds: float = END_SECONDS) -> str:
        """Let it send what waits, no longer than that. Says what went wrong with the process, or nothing."""
        _tell(self._process, {"until": time.monotonic() + seconds})
        with contextlib.suppress(OSError):
            self._input.close()
        try:
            code = self._process.wait(seconds + _GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return "the process for telemetry didn't end in time"
        return _ended(code) if code else ""

    def _spawn(self, offsets: Mapping[str, int]) -> subprocess.Popen[bytes]:
        log = self._run.log_path(LOG_NAME)
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with open_to_append(log) as stream:
                process = subprocess.Popen(
                    [sys.executable, "-m", "mccore.telemetry.relay", str(self._run.path)],
                    stdin=subprocess.PIPE,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is the launcher's
                )
        except OSError as error:
            raise RunError(f"can't start the process for telemetry: {cause(error)}", hint=disk_hint(error)) from error
        _tell(process, {
            "offsets": dict(offsets),
            "ranks": self._ranks,
            "providers": [choice.model_dump(mode="json") for choice in self._choices],
        })  # fmt: skip
        return process

    @property
    def _input(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin


def _tell(process: subprocess.Popen[bytes], what: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # it is gone; `revive` and `end` say how
        process.stdin.write(json.dumps(what).encode() + b"\n")
        process.stdin.flush()


def _ended(code: int) -> str:
    return f"the process for telemetry ended with {code}: see logs/{LOG_NAME}.log"


class Files:
    """Events of all files of a run from some offsets on, as a delivery takes them."""

    def __init__(self, directory: Path, offsets: Mapping[str, int]) -> None:
        self._tail = EventTail(directory, chunk_bytes=_CHUNK_BYTES, offsets=offsets)
        self._events: deque[Event] = deque()
        self._woken = threading.Event()

    def next(self, seconds: float) -> Event | None:
        """The oldest event that wasn't taken yet, None when there is none for so many seconds or since `wake`."""
        end = time.monotonic() + seconds
        while not self._events:
            last = self._woken.is_set()
            self._events.extend(self._tail.poll())
            left = end - time.monotonic()
            if not self._events and (last or left <= 0):
                return None
            if not self._events:
                self._woken.wait(min(_POLL_SECONDS, left))
        return self._events.popleft()

    def wake(self) -> None:
        """Let `next` return at once where there is nothing, from now on."""
        self._woken.set()

    def rest(self) -> int:
        """Pass over what is still there and say how many events that was."""
        count = len(self._events) + sum(1 for _ in self._tail.drain())
        self._events.clear()
        return count


def main() -> None:
    """Relay until standard input ends."""
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: over.set())
    os.nice(_NICENESS)
    run = RunDir(Path(sys.argv[1]))
    begin = json.loads(sys.stdin.buffer.readline() or b"{}")
    until: list[float] = []
    threading.Thread(target=_listen, args=[over, until], name="launcher", daemon=True).start()
    lock = threading.Lock()
    with EventWriter(run.events_dir / "telemetry.jsonl") as writer:

        def report(state: State) -> None:
            with lock, contextlib.suppress(RunError):  # a full disk ends the run where it trains
                write_state(writer, state)

        offsets = {**begin.get("offsets", {})}
        choices = [Choice.model_validate(choice) for choice in begin.get("providers", ())]
        spec = describe_process(run, ranks=int(begin.get("ranks", 1)))
        deliveries = [
            Delivery(name, provider, Files(run.events_dir, offsets), report, patience_seconds=spec.patience_seconds)
            for name, provider in build_providers(choices, spec, report)
        ]
        ready = time.monotonic()
        over.wait()
        end = until[0] if until else time.monotonic() + END_SECONDS
        close_all(deliveries, max(end, ready + _SHORTEST_SECONDS) - time.monotonic())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # past whatever a client would still wait for


def _listen(over: threading.Event, until: list[float]) -> None:
    """Wait for the end of standard input, and for the time by which to be done where the launcher could say it."""
    for line in sys.stdin.buffer:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            until.append(float(json.loads(line)["until"]))
    over.set()


if __name__ == "__main__":
    main()
